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

from o1jax.search.tree import (
    CHILD,
    EMPTY_EDGE,
    LOGPRIOR,
    PENDING,
    RAW_VALUE,
    Edges,
    Page,
    Store,
    Tree,
    unvisited,
)
from o1jax.types import NodeEval, Params

# ExpandFn(params, key, store, path, action) -> (evaluation, page), for M leaves a tree:
#   store   [B, N, ...]   pages of all nodes
#   path    i32[B, M, D]  node ids from the root to the node to expand; -1 behind it
#   action  i32[B, M]     which child of it; -1: the row is not wanted, return anything
#   evaluation            NodeEval of the child: prior f32[B, M, K], others f32[B, M]
#   page    [B, M, ...]   the child's own state
# A child that turns out to be the same as a sibling names it in evaluation.twin: a node
# that is there already or, if there is none, another row of this call with a smaller m,
# the first such; anything else is ignored. What a row cost goes into evaluation.cost.
# Both may be left out (types.NodeEval).
ExpandFn = Callable[
    [Params, jax.Array, Store, jax.Array, jax.Array], tuple[NodeEval, Page]
]


def lay_flat(pages: Store) -> Store:
    """Pages [B, N, ...] as [B, N, C], where there are more axes.

    Gathers and scatters may like different orders of those axes in memory, and to serve
    both XLA copies all pages at every expansion.
    """
    flat = lambda x: x.reshape(*x.shape[:2], -1) if x.ndim > 3 else x
    return jax.tree.map(flat, pages)


def shaped_as(like: Store, pages: Store) -> Store:
    """Pages that were laid flat in the shapes of others."""
    return jax.tree.map(lambda x, flat: flat.reshape(x.shape), like, pages)


def on_flat_pages(fn: ExpandFn, store: Store) -> ExpandFn:
    """`fn`, which knows stores of the shapes of `store`, for those that lie flat."""

    def flat_fn(
        params: Params, key: jax.Array, flat: Store, path: jax.Array, action: jax.Array
    ) -> tuple[NodeEval, Page]:
        evaluation, page = fn(params, key, shaped_as(store, flat), path, action)
        return evaluation, lay_flat(page)

    return flat_fn


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

    child: jax.Array  # f32  node id of a new leaf
    value: jax.Array  # f32  to back up from the leaf
    reward: jax.Array  # f32
    discount: jax.Array  # f32
    counted: jax.Array  # bool  False if the pool had no room, or no walk took place
    # The leaf is a twin that was there before, which may have children: its value is
    # the mean of all its visits. None where the network names no twins.
    again: jax.Array | None = None  # bool


def _first_walk(leaves: Leaf) -> jax.Array:
    """i32[M, B]: the first walk that ends at the same new edge; m itself if not new."""
    count = leaves.edge.shape[0]
    same = (leaves.edge[:, None] == leaves.edge[None]) & leaves.new[None]
    same &= jnp.tri(count, dtype=bool)[..., None]  # [m, l, B]: only l <= m
    own = jnp.arange(count)[:, None]
    return jnp.where(leaves.new, jnp.argmax(same, axis=1), own)


class _Made(NamedTuple):
    """Which rows become nodes, and whose evaluation a leaf takes; all [M, B]."""

    node: jax.Array  # bool  the row is a node of its own
    source: jax.Array  # i32  the row that a leaf's evaluation is read from
    again: jax.Array | None = None


def _merge_twins(
    tree: Tree,
    paths: jax.Array,
    leaves: Leaf,
    first: jax.Array,
    wanted: jax.Array,
    twin: jax.Array,
) -> tuple[Tree, jax.Array, Leaf, _Made]:
    """Sends the walks that drew a sibling's twin to that sibling's edge.

    The edge they took ends there: its prior and pending visits go over to the twin's.
    `twin` i32[M, B] is NodeEval's.
    """
    batch, nodes, children, fields = tree.edges.packed.shape
    count = len(first)
    nowhere = batch * nodes * children
    packed = tree.edges.packed.reshape(-1, fields)
    named = wanted & (twin >= 0) & (twin < children)
    target = jnp.where(named, leaves.edge - leaves.edge % children + twin, leaves.edge)
    at_target = packed[target]
    there = named & (at_target[..., CHILD] >= 0)

    # [m, l, B]: row l < m makes the node that row m names.
    earlier = jnp.tri(count, k=-1, dtype=bool)[..., None]
    makes = named[:, None] & earlier & (leaves.edge[None] == target[:, None])
    makes &= wanted[None]
    lead = wanted & ~there & ~jnp.any(makes, axis=1)
    makes &= lead[None]
    merges = there | jnp.any(makes, axis=1)

    # Several rows may name one twin: each writes the sum over all of them.
    same = merges[None] & (target[:, None] == target[None])
    taken = packed[leaves.edge]
    prior = jnp.where(same, taken[None, ..., LOGPRIOR], -jnp.inf)
    prior = jnp.logaddexp(at_target[..., LOGPRIOR], jax.nn.logsumexp(prior, axis=1))
    pending = jnp.sum(jnp.where(same, taken[None, ..., PENDING], 0.0), axis=1)
    moved = at_target.at[..., LOGPRIOR].set(prior).at[..., PENDING].add(pending)
    packed = packed.at[jnp.where(merges, leaves.edge, nowhere)].set(
        jnp.array(EMPTY_EDGE, packed.dtype), mode="drop"
    )
    packed = packed.at[jnp.where(merges, target, nowhere)].set(moved, mode="drop")

    # Walks that took the same edge follow.
    follow = lambda x: jnp.take_along_axis(x, first, axis=0)
    merged, again = follow(merges) & leaves.new, follow(there) & leaves.new
    edge = jnp.where(merged, follow(target), leaves.edge)
    level = jnp.where(merged, leaves.length - 1, paths.shape[1])
    walk, row = jnp.arange(count)[:, None], jnp.arange(batch)[None]
    raw_value = follow(at_target[..., RAW_VALUE])
    return (
        tree.replace(edges=Edges(packed.reshape(tree.edges.packed.shape))),
        paths.at[walk, level, row].set(edge, mode="drop"),
        leaves._replace(
            edge=edge,
            new=leaves.new & ~again,
            value=jnp.where(again, raw_value, leaves.value),
        ),
        _Made(
            node=wanted & ~merges,
            source=follow(jnp.where(merges, jnp.argmax(makes, axis=1), first)),
            again=again,
        ),
    )


def expand(
    params: Params,
    key: jax.Array,
    tree: Tree,
    paths: jax.Array,
    leaves: Leaf,
    fn: ExpandFn,
) -> tuple[Tree, jax.Array, Leaf, Expansion]:
    """One call of the network for all new leaves; their nodes and pages are stored.

    A leaf that another walk of this iteration reached before, or one that exists (it is
    finished or at max_depth), wants no row. One that turns out to be a sibling's twin
    becomes a visit of that sibling, and the walks (paths, leaves) come back so. A tree
    whose pool is full is ended.
    """
    batch, nodes, children, _ = tree.edges.packed.shape
    count = leaves.edge.shape[0]
    first = _first_walk(leaves)
    own = leaves.new & (first == jnp.arange(count)[:, None])
    node_id = lambda made: tree.used[None] + jnp.cumsum(made, axis=0) - made
    wanted = own & (node_id(own) < nodes)
    dropped = leaves.new & ~jnp.take_along_axis(wanted, first, axis=0)

    path = path_nodes(paths, leaves.length, wanted, tree.edges.packed.shape)
    action = jnp.where(wanted, leaves.edge % children, -1).T
    evaluation, page = fn(params, key, tree.store, path, action)

    made = _Made(wanted, first)
    if evaluation.twin is not None:
        tree, paths, leaves, made = _merge_twins(
            tree, paths, leaves, first, wanted, evaluation.twin.T
        )
    child = node_id(made.node)
    row = (jnp.arange(batch) * nodes)[None] + child
    row = jnp.where(made.node, row, batch * nodes).T.reshape(-1)  # [B M]; out: dropped

    def write(rows: jax.Array, new: jax.Array) -> jax.Array:
        flat = rows.reshape(batch * nodes, *rows.shape[2:])
        new = new.reshape(batch * count, *new.shape[2:])
        return flat.at[row].set(new, mode="drop").reshape(rows.shape)

    used = tree.used + jnp.sum(made.node, axis=0, dtype=jnp.int32)
    # Twins may leave room that was kept for them: then the tree goes on.
    ended = jnp.any(dropped, axis=0) & (used >= nodes)
    total = lambda of_row: jnp.sum(jnp.where(wanted, of_row.T, 0.0), axis=0)
    paid = lambda before, of_row: before if of_row is None else before + total(of_row)
    tree = tree.replace(
        edges=Edges(write(tree.edges.packed, unvisited(evaluation.prior))),
        store=jax.tree.map(write, tree.store, page),
        used=used,
        cost=paid(tree.cost, evaluation.cost),
        reward_tokens=paid(tree.reward_tokens, evaluation.reward_tokens),
        reread_tokens=paid(tree.reread_tokens, evaluation.reread_tokens),
        exhausted=tree.exhausted | ended,
        live=tree.live & ~ended,
    )

    def of_source(x: jax.Array) -> jax.Array:  # [M, B]
        return jnp.take_along_axis(x, made.source, axis=0).astype(jnp.float32)

    return (
        tree,
        paths,
        leaves,
        Expansion(
            child=of_source(child),
            value=jnp.where(leaves.new, of_source(evaluation.value.T), leaves.value),
            reward=of_source(evaluation.reward.T),
            discount=of_source(evaluation.discount.T),
            counted=(leaves.length > 0) & ~dropped,
            again=made.again,
        ),
    )
