"""Sampling on another mesh than training gives the same tokens."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from o1jax.loop.layout import decoding, same_devices
from o1jax.parallel.mesh import MeshConfig, build_mesh, put_batch
from o1jax.parallel.sharding import TRANSFORMER_RULES, shard
from o1jax.rollout.decode import SamplerConfig, build_sampler, on_mesh
from o1jax.types import Prompts

Q, P, NEW = 16, 4, 6
CONFIG = SamplerConfig(rows=2, max_new_tokens=NEW, refill_rows=1, stop_ids=(1, 2))


def test_parameters_move_and_the_same_tokens_come(make):
    config, policy, params = make(layers=1)
    run = SimpleNamespace(
        mesh=build_mesh(MeshConfig(2, 4, 1)),
        experiment=SimpleNamespace(decode=MeshConfig(4, 1, 2)),
        policy_config=config,
    )
    layout = decoding(run)
    assert layout.shards == 4
    assert list(layout.mesh.devices.flat) == list(run.mesh.devices.flat)
    placed = layout.place(shard(params, TRANSFORMER_RULES, run.mesh))
    for path in ("embed", "layers"):
        moved, own = map(jax.tree.leaves, (placed[path], params[path]))
        assert all(bool(jnp.array_equal(a, b)) for a, b in zip(moved, own))
    down = placed["layers"]["mlp"]["down"]  # [L, F, D], F over the tensor axis
    assert down.sharding.shard_shape(down.shape)[1] == down.shape[1] // 2

    rng = np.random.default_rng(4)
    prompts = Prompts(
        tokens=rng.integers(3, 12, (Q, P)).astype(np.int32),
        length=rng.integers(1, P + 1, Q).astype(np.int32),
        prompt_id=np.arange(Q, dtype=np.int32),
    )
    fold = jax.vmap(lambda q: jax.random.fold_in(jax.random.key(0), q))
    keys = fold(jnp.arange(Q))
    sampler = build_sampler(policy, CONFIG)
    expected, _ = jax.jit(sampler)(params, keys, prompts)
    # Shards make different numbers of steps while two devices share each token.
    found, stats = on_mesh(sampler, layout.mesh, cut=True)(
        placed, keys, put_batch(layout.mesh, prompts)
    )
    np.testing.assert_array_equal(found.tokens, expected.tokens)
    np.testing.assert_array_equal(found.length, expected.length)
    np.testing.assert_allclose(found.logprob, expected.logprob, rtol=2e-5, atol=2e-5)
    assert stats.useful == jnp.sum(expected.response_mask)


def test_without_one_nothing_moves(make):
    config, _, params = make()
    run = SimpleNamespace(
        mesh=build_mesh(MeshConfig()),
        experiment=SimpleNamespace(decode=None),
        policy_config=config,
    )
    layout = decoding(run)
    assert layout.mesh is run.mesh
    assert layout.place(params) is params


def test_a_decode_mesh_that_does_not_fit():
    with pytest.raises(ValueError, match="data=3 x fsdp=1 x tensor=1 does not fit 8"):
        same_devices(build_mesh(MeshConfig()), MeshConfig(3))
