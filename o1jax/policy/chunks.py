"""Logits of a few positions at a time, for vocabularies that fill the memory.

In: hidden states of whole rows, the matrix that makes logits of them, and what is read
of logits, such as a loss. Out: the same numbers as of all logits at once; those of a
chunk are made again in the backward pass (Chen et al. 2016, arXiv 1604.06174). On a
mesh each device reads its own rows, so that the matrix is gathered once and its
gradient is sent once, not with every chunk.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from o1jax.parallel.mesh import ROWS
from o1jax.parallel.sharding import TRANSFORMER_RULES, free_axes, path_name, spec_of
from o1jax.types import Params

# Logits f32[B, C, V] and tokens i32[B, C] -> a pytree of [B, C, ...]. It must close
# over no arrays.
Reader = Callable[[jax.Array, jax.Array], Any]


def read_by_chunks(
    head: Callable[[Params, jax.Array], jax.Array],
    params: Params,
    h: jax.Array,
    tokens: jax.Array,
    reader: Reader,
    *,
    size: int,
) -> Any:
    """reader(head(params, h), tokens) of `size` positions at a time.

    params: those that `head` reads, and no others; h: [B, T, D]; tokens: i32[B, T].
    """
    T = tokens.shape[1]

    def chunks(x: jax.Array) -> jax.Array:
        x = jnp.pad(x, [(0, 0), (0, -T % size)] + [(0, 0)] * (x.ndim - 2))
        return x.reshape(x.shape[0], -1, size, *x.shape[2:]).swapaxes(0, 1)

    def whole(x: jax.Array) -> jax.Array:
        x = x.swapaxes(0, 1)
        return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :T]

    def read(params: Params, h: jax.Array, tokens: jax.Array) -> Any:
        part = jax.checkpoint(lambda h, tokens: reader(head(params, h), tokens))
        over = lambda _, x: (None, part(*x))
        _, found = jax.lax.scan(over, None, (chunks(h), chunks(tokens)))
        return jax.tree.map(whole, found)

    mesh, free = free_axes(h)
    rows = tuple(axis for axis in free if axis in ROWS)
    if not rows or h.shape[0] % math.prod(mesh.shape[axis] for axis in rows):
        return read(params, h, tokens)

    def spec(path: jax.tree_util.KeyPath, x: jax.Array) -> P:
        cut = spec_of(path_name(path), x.shape, TRANSFORMER_RULES)
        return P(*(axis if axis in rows else None for axis in cut))

    specs = jax.tree_util.tree_map_with_path(spec, params)

    def on_device(params: Params, h: jax.Array, tokens: jax.Array) -> Any:
        def gather(x: jax.Array, spec: P) -> jax.Array:
            for i, axis in enumerate(spec):
                if axis is not None:
                    x = jax.lax.all_gather(x, axis, axis=i, tiled=True)
            return x

        return read(jax.tree.map(gather, params, specs), h, tokens)

    return jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(specs, P(rows), P(rows)),
        out_specs=P(rows),
        axis_names=set(rows),
    )(jax.tree.map(lambda x: x.astype(h.dtype), params), h, tokens)
