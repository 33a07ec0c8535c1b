"""Read-outs of the trunk: next-token logits, a value and a process score.

All are f32 whatever the trunk's dtype: log-probs and values never live in bf16.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from o1jax.policy.transformer import product


class Unembed(nn.Module):
    """Logits [..., V] from hidden states [..., D]."""

    vocab: int

    @nn.compact
    def __call__(self, h: jax.Array) -> jax.Array:
        init = nn.initializers.truncated_normal(h.shape[-1] ** -0.5)
        kernel = self.param("kernel", init, (h.shape[-1], self.vocab))
        return product(h, kernel.astype(h.dtype), jnp.float32)


class ScalarHead(nn.Module):
    """One number per position, zero at initialisation."""

    @nn.compact
    def __call__(self, h: jax.Array) -> jax.Array:
        zeros = nn.initializers.zeros
        kernel = self.param("kernel", zeros, (h.shape[-1], 1))
        bias = self.param("bias", zeros, (1,))
        return product(h.astype(jnp.float32), kernel)[..., 0] + bias[0]
