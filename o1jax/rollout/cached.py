"""A cache as contexts to attend to, and the writing of several tokens a row into it."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from o1jax.policy.attention import Chunks
from o1jax.policy.context import Context
from o1jax.policy.policy import Pages
from o1jax.types import KVCache


def contexts_of(cache: KVCache, length: jax.Array) -> list[Context]:
    """The first `length` i32[B] slots of each row, chunk by chunk."""
    contexts, offset = [], 0
    for i, chunk in enumerate(cache.k[0]):
        size = chunk.shape[2]
        seen = (offset + jnp.arange(size))[None] < length[:, None]
        k, v = (tuple(layer[i] for layer in pages) for pages in (cache.k, cache.v))
        contexts.append(Context(k, v, seen[:, None]))
        offset += size
    return contexts


def cache_of(
    pages: tuple[Pages, Pages], rows: jax.Array, length: jax.Array, sizes: Sequence[int]
) -> KVCache:
    """Rows i32[R] of pages [B, K, T, E], in a cache whose chunks have `sizes` slots."""

    def chunks(x: jax.Array) -> Chunks:
        room = (0, sum(sizes) - x.shape[2])
        x = jnp.pad(x[rows], ((0, 0), (0, 0), room, (0, 0)))
        return tuple(jnp.split(x, np.cumsum(sizes)[:-1], axis=2))

    k, v = (tuple(map(chunks, layers)) for layers in pages)
    return KVCache(k=k, v=v, length=length)


def write_pages(
    cache: KVCache, pages: tuple[Pages, Pages], position: jax.Array
) -> KVCache:
    """The cache with pages [B, K, T, E] of T tokens from `position` i32[B] on.

    Those past the capacity are dropped.
    """

    def put(chunks: Chunks, new: jax.Array) -> Chunks:
        rows, T = jnp.arange(new.shape[0])[:, None], new.shape[2]
        place = position[:, None] + jnp.arange(T)[None]
        new, written, offset = new.transpose(0, 2, 1, 3), [], 0
        for chunk in chunks:
            size = chunk.shape[2]
            slot = jnp.where(place < offset, size, place - offset)
            written.append(chunk.at[rows, :, slot].set(new, mode="drop"))
            offset += size
        return tuple(written)

    k, v = (tuple(map(put, *x)) for x in ((cache.k, pages[0]), (cache.v, pages[1])))
    return cache.replace(k=k, v=v)
