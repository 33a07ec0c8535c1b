"""How losses of tokens become one number, and what becomes of answers without an end.

In: masks of responses. Out: weights of tokens and shares of rows, as Experience holds
them: the loss is sum(weight * loss) / sum(share) over the whole batch. Token mean:
DAPO, arXiv 2503.14476. Response mean: GRPO, arXiv 2402.03300. Constant: Dr.GRPO, arXiv
2503.20783. A new reduction is a function and a line in REDUCTIONS.
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

# (mask bool[B, T], the most tokens of a response) -> weight f32[B, T], share f32[B]
Reduction = Callable[[jax.Array, int], tuple[jax.Array, jax.Array]]
# finished bool[B] -> bool[B], which responses count in the loss
Truncation = Callable[[jax.Array], jax.Array]


def token_mean(mask: jax.Array, max_tokens: int) -> tuple[jax.Array, jax.Array]:
    """Every token of the batch weighs the same: long responses weigh more."""
    weight = mask.astype(jnp.float32)
    return weight, jnp.sum(weight, axis=1)


def response_mean(mask: jax.Array, max_tokens: int) -> tuple[jax.Array, jax.Array]:
    """Mean over responses of the mean over their tokens.

    The expected gradient is that of E[R / length]: a wrong answer costs less if long.
    """
    tokens = jnp.sum(mask, axis=1, keepdims=True, dtype=jnp.float32)
    return mask / jnp.maximum(tokens, 1.0), _present(mask)


def constant(mask: jax.Array, max_tokens: int) -> tuple[jax.Array, jax.Array]:
    """Sum over tokens by a number that no length changes: the gradient of E[R] / it."""
    return mask.astype(jnp.float32) / max_tokens, _present(mask)


def response_sum(mask: jax.Array, max_tokens: int) -> tuple[jax.Array, jax.Array]:
    """Mean over responses of the sum over their tokens: the gradient of E[R] itself."""
    return mask.astype(jnp.float32), _present(mask)


REDUCTIONS: dict[str, Reduction] = {
    "token": token_mean,
    "response": response_mean,
    "constant": constant,
    "sum": response_sum,
}

TRUNCATIONS: dict[str, Truncation] = {
    "keep": lambda finished: jnp.ones_like(finished),  # a cut-off answer is a wrong one
    "mask": lambda finished: finished,  # it teaches nothing: DAPO's overlong filter
}


def overlong_penalty(
    length: jax.Array, max_tokens: int, buffer: int
) -> jax.Array:  # f32[B]
    """DAPO's soft punishment, a reward for responses of `length` tokens i32[B].

    0 up to max_tokens - buffer, then falling on a line to -1 at max_tokens.
    """
    chex.assert_rank(length, 1)
    if not 1 <= buffer <= max_tokens:
        raise ValueError(f"buffer ({buffer}) must be from 1 to max_tokens={max_tokens}")
    over = (length - (max_tokens - buffer)) / jnp.float32(buffer)
    return -jnp.clip(over, 0.0, 1.0)


def _present(mask: jax.Array) -> jax.Array:
    """f32[B]: 1 for a row with a response, 0 for padding."""
    return jnp.any(mask, axis=1).astype(jnp.float32)
