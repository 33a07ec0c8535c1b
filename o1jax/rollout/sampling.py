"""Choosing the next token: temperature, top-k, top-p.

`sampling_logprobs` is the distribution that tokens are drawn from; the trainer applies
the same function to its own logits, so both sides speak of one distribution. Nucleus
sampling: Holtzman et al. 2019, arXiv 1904.09751.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from o1jax.config import configurable


@configurable
@dataclass(frozen=True)
class SamplingConfig:
    """How tokens are drawn. Temperature 0 takes the likeliest token."""

    temperature: float = 1.0
    top_k: int = 0  # 0: no limit
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError("temperature must not be negative")
        if self.top_k < 0:
            raise ValueError("top_k must not be negative")
        if not 0 < self.top_p <= 1:
            raise ValueError("top_p must be in (0, 1]")


def sampling_logprobs(logits: jax.Array, config: SamplingConfig) -> jax.Array:
    """Log-probs f32[..., V] of the distribution that `config` draws from.

    First temperature, then top-k, then top-p over what is left; a token that is left
    out has -inf. Ties at the border of top-k or top-p are all kept. At temperature 0,
    where the distribution is a point, these are the log-probs at temperature 1.
    """
    logits = logits.astype(jnp.float32)
    if config.temperature not in (0.0, 1.0):
        logits = logits / config.temperature
    if 0 < config.top_k < logits.shape[-1]:
        smallest = jax.lax.top_k(logits, config.top_k)[0][..., -1:]
        logits = jnp.where(logits < smallest, -jnp.inf, logits)
    if config.top_p < 1:
        ordered = jnp.sort(logits, axis=-1, descending=True)
        mass = jnp.cumsum(jax.nn.softmax(ordered, axis=-1), axis=-1)
        inside = (mass - jax.nn.softmax(ordered, axis=-1)) < config.top_p
        smallest = jnp.min(jnp.where(inside, ordered, jnp.inf), axis=-1, keepdims=True)
        logits = jnp.where(logits < smallest, -jnp.inf, logits)
    return jax.nn.log_softmax(logits, axis=-1)


def draw(uniform: jax.Array, logprobs: jax.Array, config: SamplingConfig) -> jax.Array:
    """One token i32[B] a row from logprobs f32[B, V] by inverting its distribution.

    uniform f32[B] in [0, 1) is all the randomness of a draw, so a whole rollout's can
    be made in front of the decoding loop (random bits inside it cost 30 % at B = 1 on
    a CPU).
    """
    if config.temperature == 0:
        return jnp.argmax(logprobs, axis=-1).astype(jnp.int32)
    probability = jnp.exp(logprobs)
    below = jnp.cumsum(probability, axis=-1)
    reached = below > uniform[:, None] * below[:, -1:]
    # Rounding in the sum must not select what the distribution leaves out.
    return jnp.argmax(reached & (probability > 0), axis=-1).astype(jnp.int32)


def token_logprob(logprobs: jax.Array, tokens: jax.Array) -> jax.Array:
    """logprobs f32[..., V] read at tokens i32[...]."""
    return jnp.take_along_axis(logprobs, tokens[..., None], axis=-1)[..., 0]
