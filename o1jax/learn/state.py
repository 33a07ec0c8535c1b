"""Parameters and train states, born in the shardings that they will live in."""

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from o1jax.parallel.sharding import Rules, shardings
from o1jax.policy.policy import Policy
from o1jax.types import Params, TrainState


def init_params(policy: Policy, key: jax.Array, *, mesh: Mesh, rules: Rules) -> Params:
    """Fresh parameters; the same numbers on every mesh."""
    placed = shardings(jax.eval_shape(policy.init, key), rules, mesh)
    return jax.jit(policy.init, out_shardings=placed)(key)


def new_state(
    params: Params,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    *,
    mesh: Mesh,
    rules: Rules,
) -> TrainState:
    """A stage's first state: step 0, a new optimizer. The parameters are donated."""

    def make(params: Params, key: jax.Array) -> TrainState:
        return TrainState(jnp.int32(0), params, optimizer.init(params), key)

    placed = shardings(jax.eval_shape(make, params, key), rules, mesh)
    return jax.jit(make, out_shardings=placed, donate_argnums=0)(params, key)
