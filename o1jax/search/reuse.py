"""From one move to the next: the subtree below the child taken becomes the tree.

In: trees and the action taken at each root. Out: trees of the same shapes, in which
that child is node 0, its descendants keep their statistics and pages, and the rest of
the pool is free again. What the old root's page held is gone: an adaptor that needs it
(the tokens so far) must have moved it to where it keeps the prompt.
"""

import chex
import jax
import jax.numpy as jnp

from o1jax.search.tree import CHILD, EMPTY_EDGE, NO_CHILD, Edges, Tree


def advance(tree: Tree, action: jax.Array) -> Tree:
    """Makes the child `action` i32[B] of each root the new root.

    A tree whose child was never visited, or is finished, comes back with live False.
    """
    packed = tree.edges.packed
    batch, nodes, _, _ = packed.shape
    chex.assert_shape(action, (batch,))
    row = jnp.arange(batch)
    taken = Edges(packed[row, 0, action])
    root = taken.child.astype(jnp.int32)  # -1 (NO_CHILD) marks no node at all

    # kept[n]: n is the new root or below it. Each pass doubles the ancestors looked at.
    ancestor = jnp.maximum(tree.parent, 0)
    ids = jnp.arange(nodes)[None]
    kept = ids == root[:, None]
    for _ in range(max(1, (nodes - 1).bit_length())):
        kept |= jnp.take_along_axis(kept, ancestor, axis=1)
        ancestor = jnp.take_along_axis(ancestor, ancestor, axis=1)
    # Ids keep their order, so the root, lowest of its subtree, becomes 0.
    source = jnp.argsort(~kept, axis=1, stable=True)
    new_id = jnp.cumsum(kept, axis=1) - 1
    used = jnp.sum(kept, axis=1, dtype=jnp.int32)
    held = ids < used[:, None]

    moved = packed[row[:, None], source]
    child = Edges(moved).child.astype(jnp.int32)
    renamed = new_id[row[:, None, None], jnp.maximum(child, 0)].astype(jnp.float32)
    child = jnp.where(child >= 0, renamed, NO_CHILD)
    moved = moved.at[..., CHILD].set(child)
    empty = jnp.broadcast_to(jnp.array(EMPTY_EDGE), moved.shape)
    edges = Edges(jnp.where(held[..., None, None], moved, empty))
    return Tree(
        edges=edges,
        root_visits=jnp.where(root >= 0, taken.visits, 1.0),
        root_value=taken.value,
        root_raw_value=taken.raw_value,
        live=(root >= 0) & (taken.discount != 0) & jnp.any(edges.valid[:, 0], axis=-1),
        exhausted=jnp.zeros(batch, bool),
        used=used,
        cost=jnp.zeros(batch),
        reward_tokens=jnp.zeros(batch),
        reread_tokens=jnp.zeros(batch),
        store=jax.tree.map(lambda x: x[row[:, None], source], tree.store),
    )
