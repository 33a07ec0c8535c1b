"""The decoder's parts as linen modules: embedding, block, and their parameters.

A block is written once. It computes q, k and v and hands them to an `attend` function
that the caller chooses, so training, prefill, decoding and search pages share the same
parameters and the same code. Pre-norm RMSNorm (Zhang & Sennrich 2019), SwiGLU (Shazeer
2020), grouped queries, rotary positions: the Llama shape. What other published
families do besides is in family.py.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from o1jax.parallel.sharding import free_axes
from o1jax.policy.attention import Rotation, rotate
from o1jax.policy.family import Family
from o1jax.policy.products import product

# q [B, T, K, G, E], k and v [B, T, K, E] -> [B, T, K, G, E]
Attend = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def _normal(fan_in: int) -> nn.initializers.Initializer:
    return nn.initializers.truncated_normal(fan_in**-0.5)


class RMSNorm(nn.Module):
    """x / rms(x) * scale, or * (1 + scale) if `unit`, computed in f32."""

    eps: float
    unit: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = nn.initializers.zeros if self.unit else nn.initializers.ones
        scale = self.param("scale", init, (x.shape[-1],))
        if self.unit:
            scale = 1 + scale.astype(jnp.float32)
        scale = jnp.expand_dims(scale, range(x.ndim - 1))
        wide = x.astype(jnp.float32)
        scaled = wide * jax.lax.rsqrt(mean_square(wide) + self.eps) * scale
        return scaled.astype(x.dtype)


def mean_square(x: jax.Array) -> jax.Array:
    """Mean of x^2 over the last axis, f32[..., 1].

    On CPU by a matrix product: XLA makes three kernels of a mean and one of a product,
    and a single row decodes as slowly as it has kernels.
    """
    if jax.default_backend() != "cpu":
        return jnp.mean(x * x, axis=-1, keepdims=True)
    width = x.shape[-1]
    return product(x * x, jnp.full((width, 1), 1 / width, x.dtype))


class Attention(nn.Module):
    """Projections around an `attend` function.

    `qkv` keeps the G query heads, the key and the value of a group side by side: one
    matrix product, and one axis to shard over.
    """

    kv_heads: int
    group: int
    head_width: int
    qk_norm: bool
    eps: float
    family: Family = Family()

    @nn.compact
    def __call__(self, x: jax.Array, rotation: Rotation, attend: Attend) -> jax.Array:
        D, K, G, E = x.shape[-1], self.kv_heads, self.group, self.head_width
        qkv = self.param("qkv", _normal(D), (D, K, G + 2, E)).astype(x.dtype)
        o = self.param("o", _normal(K * G * E), (K, G, E, D)).astype(x.dtype)
        h = product(x, qkv.reshape(D, -1)).reshape(*x.shape[:-1], K, G + 2, E)
        if self.family.qkv_bias:
            bias = self.param("qkv_bias", nn.initializers.zeros, (K, G + 2, E))
            h += jnp.expand_dims(bias.astype(x.dtype), range(x.ndim - 1))
        q, k, v = h[..., :G, :], h[..., G, :], h[..., G + 1, :]
        if self.qk_norm:
            q = RMSNorm(self.eps, self.family.unit_norms, name="q_norm")(q)
            k = RMSNorm(self.eps, self.family.unit_norms, name="k_norm")(k)
        q = rotate(q.reshape(*x.shape[:-1], K * G, E), rotation)
        k = rotate(k, rotation)
        out = attend(q.reshape(*x.shape[:-1], K, G, E), k, v)
        out = product(out.reshape(*x.shape[:-1], -1), o.reshape(-1, D))
        if self.family.o_bias:
            bias = self.param("o_bias", nn.initializers.zeros, (D,))
            out += jnp.expand_dims(bias.astype(x.dtype), range(x.ndim - 1))
        return out


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)), gate and up in one matrix product."""

    ff: int
    activation: str = "silu"  # or gelu

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        D, F = x.shape[-1], self.ff
        gate_up = self.param("gate_up", _normal(D), (D, 2, F)).astype(x.dtype)
        down = self.param("down", _normal(F), (F, D)).astype(x.dtype)
        rows = x.reshape(-1, D)
        if free_axes(x)[1]:  # F may be sharded: no reshape to [D, 2 F]
            h = jnp.einsum("nd,dcf->ncf", rows, gate_up)
        else:  # XLA's gradient of that einsum on CPU is a transposed copy
            h = product(rows, gate_up.reshape(D, -1)).reshape(-1, 2, F)
        gate = nn.silu(h[:, 0]) if self.activation == "silu" else nn.gelu(h[:, 0])
        return product(gate * h[:, 1], down).reshape(x.shape)


class Block(nn.Module):
    """One layer: attention and feed-forward, each behind a norm, each added back."""

    kv_heads: int
    group: int
    head_width: int
    ff: int
    qk_norm: bool
    eps: float
    family: Family = Family()

    @nn.compact
    def __call__(self, x: jax.Array, rotation: Rotation, attend: Attend) -> jax.Array:
        norm = lambda name: RMSNorm(self.eps, self.family.unit_norms, name=name)
        behind = norm if self.family.post_norms else lambda name: lambda x: x
        attention = Attention(
            kv_heads=self.kv_heads,
            group=self.group,
            head_width=self.head_width,
            qk_norm=self.qk_norm,
            eps=self.eps,
            family=self.family,
            name="attention",
        )
        h = attention(norm("attention_norm")(x), rotation, attend)
        x = x + behind("attention_post_norm")(h)
        h = SwiGLU(self.ff, self.family.activation, name="mlp")(norm("mlp_norm")(x))
        return x + behind("mlp_post_norm")(h)


class Embed(nn.Module):
    """Token embedding; `attend` is its transpose, for tied output."""

    vocab: int
    width: int

    def setup(self) -> None:
        self.embedding = self.param(
            "embedding", _normal(self.width), (self.vocab, self.width)
        )

    def __call__(self, tokens: jax.Array, dtype: jnp.dtype) -> jax.Array:
        return jnp.take(self.embedding.astype(dtype), tokens, axis=0)

    def attend(self, h: jax.Array) -> jax.Array:
        kernel = self.embedding.T.astype(h.dtype)
        return jnp.dot(h, kernel, preferred_element_type=jnp.float32)
