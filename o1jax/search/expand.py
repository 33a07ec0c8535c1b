"""What the network is asked: new leaves in, their nodes and pages written.

In: the leaves where the walks of an iteration ended. Out: the trees with those nodes,
and what is to be backed up. The contract of the network, ExpandFn, is here; it alone
knows what a state is. Rows are flat, tree * N + node, and stay within this batch: under
a mesh the search runs inside shard_map.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from o1jax.search.tree import Edges, Page, Store, Tree, unvisited
from o1jax.types import NodeEval, Params

# ExpandFn(params, key, store, path, action) -> (evaluation, page), for M leaves a tree:
#   store   [B, N, ...]   pages of all nodes
#   path    i32[B, M, D]  node ids from the root to the node to expand; -1 behind it
#   action  i32[B, M]     which child of it; -1: the row is not wanted, return anything
#   evaluation            NodeEval of the child: prior f32[B, M, K], others f32[B, M]
#   page    [B, M, ...]   the child's own state
# A child that turns out to be the same as a sibling says so in evaluation.twin; what a
# row cost goes into evaluation.cost. Both may be left out (types.NodeEval).
ExpandFn = Callable[
    [Params, jax.Array, Store, jax.Array, jax.Array], tuple[NodeEval, Page]
]


class Leaf(NamedTuple):
    """Where a walk ended, per tree. With several leaves an axis M comes first."""

    length: jax.Array  # i32[B]  edges of the path
    deepest: jax.Array  # i32[]  the largest length
    new: jax.Array  # bool[B]  the last edge leads to no node yet
    edge: jax.Array  # i32[B]  the last edge
    value: jax.Array  # f32[B]  raw value of the node reached, if it is not new


def last_node(path: jax.Array) -> jax.Array:
    """i32[...]: the node at the end of path i32[..., D]; 0 for an unwanted row."""
    depth = jnp.sum(path >= 0, axis=-1)
    end = jnp.maximum(depth - 1, 0)
    return jnp.maximum(jnp.take_along_axis(path, end[..., None], axis=-1)[..., 0], 0)


def path_nodes(
    paths: jax.Array, length: jax.Array, wanted: jax.Array, shape: tuple[int, ...]
) -> jax.Array:
    """i32[B, M, D]: the nodes that the edges of the paths leave; -1 off the path."""
    _, nodes, children, _ = shape
    _, depth, batch = paths.shape
    first = jnp.arange(batch, dtype=jnp.int32) * nodes
    level = jnp.arange(depth)[None, :, None]
    on = wanted[:, None] & (level < length[:, None])
    ids = paths // children - first[None, None]
    return jnp.where(on, ids, -1).transpose(2, 0, 1)


class Expansion(NamedTuple):
    """What is known of the leaves of an iteration after the network; all [M, B]."""

    child: jax.Array  # f32  node id, existing or new
    value: jax.Array  # f32  to back up from the leaf
    reward: jax.Array  # f32
    discount: jax.Array  # f32
    counted: jax.Array  # bool  False if the pool had no room, or no walk took place


def _first_twin(leaves: Leaf) -> jax.Array:
    """i32[M, B]: the first walk that ends at the same new edge; m itself if not new."""
    count = leaves.edge.shape[0]
    same = (leaves.edge[:, None] == leaves.edge[None]) & leaves.new[None]
    same &= jnp.tri(count, dtype=bool)[..., None]  # [m, l, B]: only l <= m
    own = jnp.arange(count)[:, None]
    return jnp.where(leaves.new, jnp.argmax(same, axis=1), own)


def expand(
    params: Params,
    key: jax.Array,
    tree: Tree,
    paths: jax.Array,
    leaves: Leaf,
    fn: ExpandFn,
) -> tuple[Tree, Expansion]:
    """One call of the network for all new leaves; their nodes and pages are stored.

    A leaf that another walk of this iteration reached before, or one that exists (it is
    finished or at max_depth), wants no row. A tree whose pool is full is ended.
    """
    batch, nodes, children, _ = tree.edges.packed.shape
    count = leaves.edge.shape[0]
    twin = _first_twin(leaves)
    own = leaves.new & (twin == jnp.arange(count)[:, None])
    child = tree.used[None] + jnp.cumsum(own, axis=0) - own
    wanted = own & (child < nodes)
    child = jnp.take_along_axis(child, twin, axis=0)
    dropped = leaves.new & (child >= nodes)

    path = path_nodes(paths, leaves.length, wanted, tree.edges.packed.shape)
    action = jnp.where(wanted, leaves.edge % children, -1).T
    evaluation, page = fn(params, key, tree.store, path, action)

    row = (jnp.arange(batch) * nodes)[None] + child
    row = jnp.where(wanted, row, batch * nodes).T.reshape(-1)  # [B * M]; out: dropped

    def write(rows: jax.Array, new: jax.Array) -> jax.Array:
        flat = rows.reshape(batch * nodes, *rows.shape[2:])
        new = new.reshape(batch * count, *new.shape[2:])
        return flat.at[row].set(new, mode="drop").reshape(rows.shape)

    ended = jnp.any(dropped, axis=0)
    tree = tree.replace(
        edges=Edges(write(tree.edges.packed, unvisited(evaluation.prior))),
        store=jax.tree.map(write, tree.store, page),
        used=tree.used + jnp.sum(wanted, axis=0, dtype=jnp.int32),
        exhausted=tree.exhausted | ended,
        live=tree.live & ~ended,
    )

    def of_twin(x: jax.Array) -> jax.Array:  # f32[B, M] -> f32[M, B]
        return jnp.take_along_axis(x.T, twin, axis=0).astype(jnp.float32)

    return tree, Expansion(
        child=child.astype(jnp.float32),
        value=jnp.where(leaves.new, of_twin(evaluation.value), leaves.value),
        reward=of_twin(evaluation.reward),
        discount=of_twin(evaluation.discount),
        counted=(leaves.length > 0) & ~dropped,
    )
