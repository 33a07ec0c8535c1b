"""From the scores of the steps of a text to the worth of the whole text.

In: log-odds that each step is right, at its last token. Out: one probability a text.
Product and min: Lightman et al. 2023, arXiv 2305.20050; last and mean: Snell et al.
2024, arXiv 2408.03314. Leading axes are free, so heads [K, B, T] go in as they are.
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp

Aggregate = Literal["product", "min", "last", "mean"]

SMALLEST = 1e-37  # a normal f32: below it XLA may flush to 0


def aggregate(
    scores: jax.Array, step_end: jax.Array, how: Aggregate, *, empty: float = 0.0
) -> jax.Array:
    """The worth f32[...] in [0, 1] of texts.

    Args:
      scores: f32[..., T], log-odds where step_end; what it holds elsewhere is ignored.
      step_end: bool[..., T], or without the leading axes of scores (its heads).
      how: product | min | last | mean of the steps' probabilities.
      empty: the worth of a text with no closed step.
    """
    if how not in get_args(Aggregate):
        raise ValueError(f"aggregate must be one of {', '.join(get_args(Aggregate))}")
    step_end = jnp.broadcast_to(step_end, scores.shape)
    probability = jax.nn.sigmoid(scores)
    steps = jnp.sum(step_end, axis=-1)
    if how == "product":
        worth = jnp.exp(log_product(scores, step_end))
    elif how == "min":
        worth = jnp.min(probability, axis=-1, where=step_end, initial=1.0)
    elif how == "last":
        worth = at_last(probability, step_end)
    else:
        total = jnp.sum(probability, axis=-1, where=step_end)
        worth = total / jnp.maximum(steps, 1).astype(total.dtype)
    return jnp.where(steps > 0, worth, jnp.float32(empty))


def log_product(scores: jax.Array, step_end: jax.Array) -> jax.Array:
    """log P(every step is right) f32[...] = sum of log sigmoid(score); 0 of no step."""
    return jnp.sum(jax.nn.log_sigmoid(scores), axis=-1, where=step_end)


def at_last(x: jax.Array, step_end: jax.Array) -> jax.Array:
    """x [..., T] at the last step end; 0 where there is none."""
    closed = step_end.astype(jnp.int32)
    from_here = jnp.flip(jnp.cumsum(jnp.flip(closed, -1), axis=-1), -1)
    return jnp.sum(x, axis=-1, where=step_end & (from_here == 1))


def log_odds(log_p: jax.Array) -> jax.Array:
    """log(p / (1 - p)) from log p <= 0, to f32's relative accuracy even where p is 1.0.

    log p - log(1 - p), where 1 - p = -expm1(log p) keeps the digits that 1 - exp(log p)
    drops. At most 85, so that neither it nor its gradient is infinite.
    """
    log_p = jnp.minimum(log_p, -SMALLEST)
    return log_p - jnp.log(-jnp.expm1(log_p))
