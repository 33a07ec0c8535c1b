"""Attention: rotary positions, and the two shapes it is computed in.

`attend` is for whole rows (training, prefill), `attend_cached` for one new token a row
against keys and values of the tokens before it. Heads are grouped: H query heads share
K key-value heads, G = H / K each. Rotary embedding: Su et al. 2021, arXiv 2104.09864;
grouped queries: Ainslie et al. 2023, arXiv 2305.13245.
"""

from collections.abc import Callable
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np

from o1jax.policy.family import RopeScaling, frequencies
from o1jax.policy.products import matmul

Rotation = tuple[jax.Array, jax.Array]
Chunks = tuple[jax.Array, ...]  # a cache's [B, K, S_i, E], one behind the other

TABLE = 1 << 18  # the most numbers in a table of rotary angles: 1 MiB
LANES = 128  # the least block of the TPU's kernel; rows are padded to a multiple of it
MASKED = -1e30  # finite, so that a row with nothing to attend to stays free of NaN


def rotation(
    position: jax.Array, width: int, theta: float, scaling: RopeScaling | None = None
) -> Rotation:
    """Cosines and sines f32[..., E / 2] of the rotary angles at `position`."""
    angle = jnp.multiply.outer(position, frequencies(width, theta, scaling))
    cos_sin = jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)
    if jax.default_backend() == "cpu":
        # XLA keeps the outcome of a product there, be it with the identity; anything
        # else it computes anew, sine by sine, in front of every use.
        cos_sin = cos_sin @ np.eye(width, dtype=np.float32)
    cos, sin = jnp.split(cos_sin, 2, axis=-1)
    return _scaled((cos, sin), scaling)


def rotation_below(
    limit: int,
    position: jax.Array,
    width: int,
    theta: float,
    scaling: RopeScaling | None = None,
) -> Rotation:
    """`rotation` of positions in 0 .. limit - 1, looked up in a table if it is small.

    For loops that read a token at a time: on CPU, XLA computes sines anew in front of
    each use, for every head and layer, barrier or not.
    """
    if limit * width > TABLE:
        return rotation(position, width, theta, scaling)
    angle = np.arange(limit, dtype=np.float32)[:, None]
    angle = angle * frequencies(width, theta, scaling)
    look = partial(jnp.take, indices=position, axis=0, mode="clip")
    return _scaled((look(np.cos(angle)), look(np.sin(angle))), scaling)


def _scaled(by: Rotation, scaling: RopeScaling | None) -> Rotation:
    if scaling is None or scaling.amplitude == 1:
        return by
    return by[0] * scaling.amplitude, by[1] * scaling.amplitude


def rotate(x: jax.Array, by: Rotation) -> jax.Array:
    """Rotates [..., T, heads, E] by cosines and sines [..., T, E / 2]."""
    cos, sin = (r[..., None, :] for r in by)
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    # Halves padded and added: on CPU four times as fast as concatenated.
    beside = lambda *room: [(0, 0)] * (x.ndim - 1) + [room]
    half = x.shape[-1] // 2
    rotated = jnp.pad(a * cos - b * sin, beside(0, half))
    rotated += jnp.pad(b * cos + a * sin, beside(half, 0))
    return rotated.astype(x.dtype)


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    segment: jax.Array | None = None,
    scale: float = 0.0,
    cap: float = 0.0,
    window: int | jax.Array = 0,
) -> jax.Array:
    """Causal attention over whole rows, optionally inside each segment only.

    Args:
      q: [B, T, K, G, E]; k, v: [B, T, K, E].
      segment: i32[B, T]; a token sees only tokens of its own segment.
      scale: of the scores; 0: E ** -0.5.
      cap: scores s become cap * tanh(s / cap); 0: they stay.
      window: tokens that each one sees, itself included; 0: all before it.

    Returns:
      [B, T, K, G, E] in q's dtype. Scores and softmax are f32.
    """
    B, T, K, G, E = q.shape
    chex.assert_shape([k, v], (B, T, K, E))
    scale, t = scale or E**-0.5, jnp.arange(T)
    near = _near(t[:, None] - t[None], window)
    if jax.default_backend() != "cpu" and not cap:
        mask = None if segment is None else _same(segment)[:, None]
        if near is not None:
            mask = near[None, None] if mask is None else mask & near[None, None]
        out = jax.nn.dot_product_attention(
            q.reshape(B, T, K * G, E), k, v, mask=mask, scale=scale, is_causal=True
        )
        return out.reshape(q.shape)
    # On CPU, batch dimensions in front keep every dot a plain matrix product.
    q = q.transpose(0, 2, 3, 1, 4).reshape(B, K, G * T, E) * scale
    k, v = k.transpose(0, 2, 3, 1), v.transpose(0, 2, 1, 3)
    score = matmul(q, k, jnp.float32)
    score = soft_cap(score, cap).reshape(B, K, G, T, T)
    mask = (t[:, None] >= t[None])[None]
    if near is not None:
        mask = mask & near[None]
    if segment is not None:
        mask = mask & _same(segment)
    score = jnp.where(mask[:, None, None], score, MASKED)
    weight = jax.nn.softmax(score, axis=-1).astype(v.dtype).reshape(B, K, G * T, T)
    out = matmul(weight, v)
    return out.reshape(B, K, G, T, E).transpose(0, 3, 1, 2, 4)


def chunk_sizes(capacity: int, first: int) -> list[int]:
    """Sizes of a cache's chunks: first, first, 2 first, 4 first ... up to capacity."""
    sizes = [min(first, capacity)]
    while sum(sizes) < capacity:
        sizes.append(min(sum(sizes), capacity - sum(sizes)))
    return sizes


def write_cached(chunks: Chunks, new: jax.Array, position: jax.Array) -> Chunks:
    """Puts new [B, K, E] at position i32[B]; nowhere if that is past the capacity."""
    rows = jnp.arange(new.shape[0])
    written, offset = [], 0
    for chunk in chunks:
        size = chunk.shape[2]
        slot = jnp.where(position < offset, size, position - offset)
        written.append(chunk.at[rows, :, slot].set(new, mode="drop"))
        offset += size
    return tuple(written)


def attend_cached(
    q: jax.Array,
    k: Chunks,
    v: Chunks,
    length: jax.Array,
    *,
    scale: float = 0.0,
    cap: float = 0.0,
    window: int = 0,
) -> jax.Array:
    """One query a row against the first `length` cached keys of that row.

    Chunks past the longest row are not read. They are buffers of their own because on
    CPU a slice in front of a dot is a copy; doubling sizes keep the branches few.

    Args:
      q: [B, K, G, E]; k, v: chunks [B, K, S_i, E] (the layout that decodes fastest).
      length: i32[B], valid entries of each row's cache, the new token included.
      scale, cap, window: as for `attend`.

    Returns:
      [B, K, G, E].
    """
    q = q * (scale or q.shape[-1] ** -0.5)

    def over(count: int) -> Callable[[Chunks, Chunks], jax.Array]:
        def branch(k: Chunks, v: Chunks) -> jax.Array:
            score = [
                jnp.einsum("bkge,bkse->bkgs", q, c, preferred_element_type=jnp.float32)
                for c in k[:count]
            ]
            score = jnp.concatenate(score, axis=-1) if count > 1 else score[0]
            score = soft_cap(score, cap)
            slot = jnp.arange(score.shape[-1])[None]
            valid = slot < length[:, None]
            if window:
                valid = valid & (slot >= length[:, None] - window)
            score = jnp.where(valid[:, None, None], score, MASKED)
            weight = jax.nn.softmax(score, axis=-1).astype(q.dtype)
            out, offset = 0, 0
            for c in v[:count]:
                part = weight[..., offset : offset + c.shape[2]]
                out += jnp.einsum("bkgs,bkse->bkge", part, c)
                offset += c.shape[2]
            return out

        return branch

    index, longest = 0, jnp.max(length)
    if len(k) == 1:
        # Two branches of which one is never taken. Without a branch XLA on CPU lays the
        # write of a single row into the product behind it, and copies the cache.
        return jax.lax.cond(longest > k[0].shape[2], over(1), over(1), k, v)
    for end in np.cumsum([c.shape[2] for c in k])[:-1]:
        index += (longest > end).astype(jnp.int32)
    return jax.lax.switch(index, [over(i + 1) for i in range(len(k))], k, v)


def soft_cap(x: jax.Array, cap: float) -> jax.Array:
    """cap * tanh(x / cap), or x if cap is 0."""
    return cap * jnp.tanh(x / cap) if cap else x


def _near(distance: jax.Array, window: int | jax.Array) -> jax.Array | None:
    """Whether so many tokens back is within the window; None if all is."""
    if isinstance(window, int):
        return distance < window if window else None
    return (distance < window) | (window == 0)


def _same(segment: jax.Array) -> jax.Array:  # bool[B, T, T]
    return segment[:, :, None] == segment[:, None, :]
