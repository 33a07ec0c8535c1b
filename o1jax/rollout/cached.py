"""A cache as contexts to attend to, and the writing of several tokens a row into it."""

import jax
import jax.numpy as jnp

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
