"""Read-outs of the trunk: next-token logits, a value and a process score.

All are f32 whatever the trunk's dtype: log-probs and values never live in bf16.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from o1jax.policy.products import product


class Unembed(nn.Module):
    """Logits [..., V] from hidden states [..., D]."""

    vocab: int

    @nn.compact
    def __call__(self, h: jax.Array) -> jax.Array:
        init = nn.initializers.truncated_normal(h.shape[-1] ** -0.5)
        kernel = self.param("kernel", init, (h.shape[-1], self.vocab))
        return product(h, kernel.astype(h.dtype), jnp.float32)


class ScalarHead(nn.Module):
    """One number per position, zero at initialisation.

    With several heads [..., heads], random at first: equal ones would stay equal.
    """

    heads: int = 1

    @nn.compact
    def __call__(self, h: jax.Array) -> jax.Array:
        D = h.shape[-1]
        zeros, normal = nn.initializers.zeros, nn.initializers.truncated_normal
        init = zeros if self.heads == 1 else normal(D**-0.5)
        kernel = self.param("kernel", init, (D, self.heads))
        bias = self.param("bias", zeros, (self.heads,))
        out = product(h.astype(jnp.float32), kernel)
        if self.heads == 1:
            return out[..., 0] + bias[0]
        return out + jnp.expand_dims(bias, range(h.ndim - 1))
