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
