"""The train state: made once, born in the shardings it will live in."""

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from o1jax.parallel.sharding import Rules, shardings
from o1jax.policy.policy import Policy
from o1jax.types import TrainState


def init_state(
    policy: Policy,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    *,
    mesh: Mesh,
    rules: Rules,
) -> TrainState:
    """Fresh parameters and optimizer state; the same numbers on every mesh."""

    def make(key: jax.Array) -> TrainState:
        init, rest = jax.random.split(key)
        params = policy.init(init)
        return TrainState(jnp.int32(0), params, optimizer.init(params), rest)

    placed = shardings(jax.eval_shape(make, key), rules, mesh)
    return jax.jit(make, out_shardings=placed)(key)


def begin_stage(
    state: TrainState, optimizer: optax.GradientTransformation
) -> TrainState:
    """The same parameters under a new optimizer, from step 0."""
    opt_state = jax.jit(
        optimizer.init,
        out_shardings=jax.tree.map(lambda x: x.sharding, state.opt_state),
    )(state.params)
    return TrainState(jnp.zeros_like(state.step), state.params, opt_state, state.key)
