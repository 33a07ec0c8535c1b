"""One update function: it learns, it donates, and a mesh of 8 computes the same."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from o1jax.learn.objectives import imitation
from o1jax.learn.optimizer import OptimizerConfig, build_optimizer
from o1jax.learn.state import init_params, new_state
from o1jax.learn.update import build_update, jit_update
from o1jax.parallel.mesh import MeshConfig, build_mesh, put_batch
from o1jax.parallel.sharding import TRANSFORMER_RULES, shardings

# Adam divides a gradient by its own size. Where that is only rounding, 1e-8, the step
# would be random; this eps lets gradients of 1e-3 and more through.
OPTIMIZER = build_optimizer(OptimizerConfig(2e-2, 0, "constant", eps=1e-3), 100)
ONE, EIGHT = MeshConfig(1, 1, 1), MeshConfig(2, 2, 2)


def mesh_of(config):
    return build_mesh(
        config, jax.devices()[: config.data * config.fsdp * config.tensor]
    )


def numpy_of(tree):
    """Copies: a view of a buffer would keep it from being donated."""
    is_key = lambda x: jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
    raw = lambda x: jax.random.key_data(x) if is_key(x) else x
    return jax.tree.map(lambda x: np.array(raw(x)), tree)


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, numpy_of(a), numpy_of(b))


@pytest.fixture(scope="module")
def start(make):
    """mesh config -> the state of key 0, fresh buffers at every call."""
    _, policy, _ = make(qk_norm=True)

    @functools.cache
    def once(config):
        key, mesh = jax.random.key(0), mesh_of(config)
        where = {"mesh": mesh, "rules": TRANSFORMER_RULES}
        params = init_params(policy, key, **where)
        return new_state(params, OPTIMIZER, jax.random.fold_in(key, 1), **where)

    return lambda config: jax.tree.map(jnp.copy, once(config))


@pytest.fixture(scope="module")
def update(make):
    _, policy, _ = make(qk_norm=True)
    return jax.jit(build_update(imitation(policy), OPTIMIZER), donate_argnums=0)


@pytest.fixture(scope="module")
def stepped(start, update, batch_of):
    """The state after one update on one device, and the metrics."""
    return update(start(ONE), put_batch(mesh_of(ONE), batch_of()))


def test_an_update_counts_a_step_and_moves_the_parameters(start, stepped):
    before, (after, metrics) = start(ONE), stepped
    assert (before.step, after.step) == (0, 1)
    equal(before.key, after.key)
    moved = after.params["embed"]["embedding"] - before.params["embed"]["embedding"]
    # Adam's first step is the rate in each coordinate that has a gradient.
    np.testing.assert_allclose(jnp.abs(moved).max(), 2e-2, rtol=0.02)
    assert metrics["loss"] > 1 and metrics["grad_norm"] > 0


def test_a_mesh_of_eight_computes_the_same_update(make, start, stepped, batch_of):
    mesh, (expected, metrics) = mesh_of(EIGHT), stepped
    state = start(EIGHT)
    equal(state.params, start(ONE).params)
    _, policy, _ = make(qk_norm=True)
    update = build_update(imitation(policy), OPTIMIZER, microbatches=2)
    update = jit_update(update, state)
    # Rows over 4 shards and 2 microbatches: 8, of which the second half is padding.
    batch = put_batch(mesh, batch_of(((0,), (1,), (2,), (3,), (), (), (), ())))
    donated = jax.tree.leaves(state)
    state, shared = update(state, batch)
    assert all(leaf.is_deleted() for leaf in donated)
    for name in ("loss", "token_accuracy", "grad_norm"):
        np.testing.assert_allclose(shared[name], metrics[name], rtol=1e-5)
    # Gradients are off by some 1e-7, and a step by rate / eps = 20 times that.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=5e-6),
        numpy_of((state.params, state.opt_state)),
        numpy_of((expected.params, expected.opt_state)),
    )
    # Everything still lives where the table puts it, so nothing compiles again.
    placed = shardings(state, TRANSFORMER_RULES, mesh)
    there = jax.tree.map(
        lambda x, s: x.sharding.is_equivalent_to(s, x.ndim), state, placed
    )
    assert all(jax.tree.leaves(there))
    qkv = state.params["layers"]["attention"]["qkv"]
    assert qkv.addressable_shards[0].data.size == qkv.size // 4  # fsdp x tensor
    update(state, batch)
    assert update._cache_size() == 1


def test_four_sentences_are_learned_by_heart(start, update, batch_of):
    state, batch = start(ONE), put_batch(mesh_of(ONE), batch_of())
    for _ in range(60):
        state, metrics = update(state, batch)
    assert metrics["loss"] < 0.05
    assert metrics["token_accuracy"] == 1


def test_a_new_stage_keeps_the_parameters_only(start):
    state = start(EIGHT)
    used = state._replace(
        step=state.step + 7, opt_state=jax.tree.map(lambda x: x + 1, state.opt_state)
    )
    where = {"mesh": mesh_of(EIGHT), "rules": TRANSFORMER_RULES}
    before = numpy_of(state._replace(opt_state=OPTIMIZER.init(state.params)))
    fresh = new_state(used.params, OPTIMIZER, used.key, **where)
    jax.tree.map(np.testing.assert_array_equal, numpy_of(fresh), before)
