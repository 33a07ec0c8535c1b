"""On a mesh of 8 devices every request gets the samples it gets on one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from o1jax.parallel.mesh import MeshConfig, build_mesh, put_batch
from o1jax.parallel.sharding import TRANSFORMER_RULES, shard
from o1jax.rollout.decode import SamplerConfig, build_sampler, on_mesh
from o1jax.types import Prompts

Q, P, NEW = 16, 4, 6
CONFIG = SamplerConfig(rows=2, max_new_tokens=NEW, refill_rows=1, stop_ids=(1, 2))


@pytest.fixture(scope="module")
def requests():
    rng = np.random.default_rng(4)
    prompt_id = np.arange(Q, dtype=np.int32)
    prompt_id[[3, 12, 13, 14, 15]] = -1  # one shard has nothing to do
    prompts = Prompts(
        tokens=rng.integers(3, 12, (Q, P)).astype(np.int32),
        length=rng.integers(1, P + 1, Q).astype(np.int32),
        prompt_id=prompt_id,
    )
    fold = jax.vmap(lambda q: jax.random.fold_in(jax.random.key(0), q))
    return fold(jnp.arange(Q)), prompts


@pytest.fixture(scope="module")
def expected(make, requests):
    _, policy, params = make(qk_norm=True)
    keys, prompts = requests
    return jax.jit(build_sampler(policy, CONFIG))(params, keys, prompts)


def on_eight(make, requests):
    """Parameters cut by the table, keys and prompts by rows."""
    _, policy, params = make(qk_norm=True)
    mesh = build_mesh(MeshConfig(2, 2, 2))
    keys, prompts = requests
    data = put_batch(mesh, np.asarray(jax.random.key_data(keys)))
    placed = shard(params, TRANSFORMER_RULES, mesh)
    return (
        policy,
        mesh,
        (placed, jax.random.wrap_key_data(data), put_batch(mesh, prompts)),
    )


def same(trajectory, expected):
    for name in ("tokens", "length", "finished", "prompt_id"):
        np.testing.assert_array_equal(
            getattr(trajectory, name), getattr(expected, name)
        )
    for name in ("logprob", "value"):
        np.testing.assert_allclose(
            getattr(trajectory, name), getattr(expected, name), rtol=2e-5, atol=2e-5
        )


def test_shards_decode_their_own_requests(make, requests, expected):
    policy, mesh, arguments = on_eight(make, requests)
    trajectory, stats = on_mesh(build_sampler(policy, CONFIG), mesh)(*arguments)
    same(trajectory, expected[0])
    assert stats.useful == expected[1].useful == jnp.sum(trajectory.response_mask)
    lengths = np.asarray(trajectory.length - trajectory.prompt_length).reshape(4, 4)
    # A shard has two rows for 4 requests; the slowest takes at least half its tokens.
    assert lengths.sum(1).max() / 2 <= stats.steps <= lengths.sum(1).max()
    assert stats.computed <= 4 * 2 * stats.steps


def test_plain_jit_is_right_on_a_mesh_as_well(make, requests, expected):
    policy, _, arguments = on_eight(make, requests)
    trajectory, stats = jax.jit(build_sampler(policy, CONFIG))(*arguments)
    same(trajectory, expected[0])
    assert stats.steps == expected[1].steps
