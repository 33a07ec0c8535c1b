"""One optimizer step: gradients summed over microbatches, one global denominator.

In: an objective, an optimizer. Out: a jittable (state, batch) -> (state, metrics). The
same function serves one device and a mesh: shardings come with its arguments. What an
objective reads and does not train, such as the weights under adapters, comes last.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from o1jax.learn.objectives import Batch, Objective, Ratio, Sums
from o1jax.types import Params, TrainState

Metrics = dict[str, jax.Array]
Update = Callable[..., tuple[TrainState, Metrics]]  # (state, batch, *frozen)


def build_update(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    *,
    microbatches: int = 1,
) -> Update:
    """The update; `jit_update` compiles it.

    Metrics are f32[] means over the global weight, or over a Ratio's own count, plus
    the gradient's norm before clipping. ValueError if `microbatches` does not divide
    the rows. `frozen` goes to `objective.total` as it is.
    """

    def update(
        state: TrainState, batch: Batch, *frozen: Params
    ) -> tuple[TrainState, Metrics]:
        total = lambda params, part: objective.total(params, part, *frozen)
        grads, sums = _gradient(total, state.params, batch, microbatches)
        weight = jnp.maximum(objective.weight(batch), 1.0)
        grads = jax.tree.map(lambda g: g / weight, grads)
        means = {name: _mean(x, weight) for name, x in sums.items()}
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = means | {"grad_norm": optax.tree.norm(grads)}
        return TrainState(state.step + 1, params, opt_state, state.key), metrics

    return update


def jit_update(update: Update, state: TrainState) -> Update:
    """The update jitted, its state donated and left in the shardings it has now.

    Left to itself the partitioner would cut the norms' scales over fsdp, and the second
    step would compile again.
    """
    stay = jax.tree.map(lambda x: x.sharding, state)
    return jax.jit(update, donate_argnums=0, out_shardings=(stay, None))


def _mean(total: jax.Array | Ratio, weight: jax.Array) -> jax.Array:
    if isinstance(total, Ratio):
        return jnp.where(total.count > 0, total.total / total.count, 0.0)
    return total / weight


def _gradient(
    total: Callable[[Params, Batch], tuple[jax.Array, Sums]],
    params: Params,
    batch: Batch,
    microbatches: int,
) -> tuple[Params, Sums]:
    """Sums over the batch of the loss's gradient and of the metrics.

    Microbatch m takes rows m, m + M, m + 2M ..., so that every shard of the rows has
    its part of each. Besides memory this saves time on a CPU: activations of a small
    piece stay in the cache.
    """
    gradient = jax.grad(total, has_aux=True)
    if microbatches == 1:
        return gradient(params, batch)
    (rows,) = {x.shape[0] for x in jax.tree.leaves(batch)}
    if rows % microbatches:
        raise ValueError(f"microbatches ({microbatches}) must divide rows ({rows})")
    cut = lambda x: x.reshape(-1, microbatches, *x.shape[1:]).swapaxes(0, 1)
    pieces = jax.tree.map(cut, batch)

    def add(so_far: tuple, piece: Batch) -> tuple[tuple, None]:
        return jax.tree.map(jnp.add, so_far, gradient(params, piece)), None

    shapes = jax.eval_shape(gradient, params, jax.tree.map(lambda x: x[0], pieces))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.scan(add, zeros, pieces)[0]
