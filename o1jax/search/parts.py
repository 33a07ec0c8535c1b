"""What a CPU does in parts, so that less is read and what is read stays in its caches.

In: paths, or rows to draw steps for. Out: the same as in one piece. On an accelerator
all is one piece: there a second program is dear, and so are few rows.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from o1jax.types import Params

LEVELS = 4  # parts into which at_depth cuts the levels of a path
ROWS = 16  # drawn at once where all else has to leave a processor's nearer caches
NEAR = 1 << 24  # bytes of parameters that stay in them: 16 MiB


def at_depth(of_levels: Callable[[int], Any], path: jax.Array) -> Any:
    """of_levels(D) of paths i32[B, M, D], or of as few levels as the longest has.

    Trees are shallow for most of a search: on CPU a quarter, half or three quarters of
    the levels are programs of their own, which read no more pages than those.
    """
    D = path.shape[-1]
    if jax.default_backend() != "cpu":
        return of_levels(D)
    sizes = sorted({-(-D * part // LEVELS) for part in range(1, LEVELS + 1)})
    deepest = jnp.max(jnp.sum(path >= 0, axis=-1))
    branch = jnp.sum(deepest > jnp.array(sizes[:-1], jnp.int32))
    return jax.lax.switch(branch, [partial(of_levels, size) for size in sizes])


def trees_at_once(trees: int, leaves: int, params: Params) -> int:
    """How many of `trees` trees of `leaves` rows each are drawn at once; a divisor.

    On CPU as many as have ROWS rows, if that is not far from it (more than half). But
    parameters that have to come from memory anyway are read once for all rows.
    """
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(params))
    if jax.default_backend() != "cpu" or size > NEAR:
        return trees
    few = [n for n in range(1, trees + 1) if trees % n == 0 and n * leaves <= ROWS]
    count = max(few, default=1)
    return count if 2 * count * leaves > ROWS else trees


def by_trees(draw: Callable[[Any], Any], of_trees: Any, at_once: int) -> Any:
    """draw(of_trees) of pytrees [B, ...] -> [B, ...], for `at_once` trees at a time."""
    trees = jax.tree.leaves(of_trees)[0].shape[0]
    if at_once == trees:
        return draw(of_trees)
    cut = lambda x: x.reshape(-1, at_once, *x.shape[1:])
    drawn = jax.lax.map(draw, jax.tree.map(cut, of_trees))
    return jax.tree.map(lambda x: x.reshape(trees, *x.shape[2:]), drawn)
