"""Losses per token. No mean is taken here: reductions belong to the update.

In: outputs about token t and the tokens. Out: f32[..., T].
"""

import chex
import jax
import jax.numpy as jnp


def next_token_loss(logits: jax.Array, tokens: jax.Array) -> jax.Array:
    """Negative log-likelihood -log p(token_t | tokens before it), in nats.

    Args:
      logits: f32[..., T, V], about token t (types.py's time convention).
      tokens: i32[..., T].
    """
    chex.assert_equal_shape_prefix([logits, tokens], tokens.ndim)
    chosen = jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - chosen


def is_likeliest(logits: jax.Array, tokens: jax.Array) -> jax.Array:
    """Whether argmax takes the token, bool[..., T]; of equals it takes the first.

    Asked of every other token, whether it goes before this one: of 4,096 words XLA's
    argmax on CPU takes seventeen times as long.
    """
    chex.assert_equal_shape_prefix([logits, tokens], tokens.ndim)
    tokens = tokens[..., None]
    chosen = jnp.take_along_axis(logits, tokens, axis=-1)
    word = jax.lax.broadcasted_iota(tokens.dtype, logits.shape, logits.ndim - 1)
    earlier = word < tokens
    return ~jnp.any((logits > chosen) | (earlier & (logits == chosen)), axis=-1)
