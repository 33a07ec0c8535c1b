"""Walks down all trees at once, and back up.

Either is a loop over depth whose body handles one level of all B trees; a tree
that is done or does not take part reads in place and writes to nowhere (an index out
of bounds, which the scatter drops). A vmapped walk would copy the whole tree at each
level. Rows are flat, tree * N + node, and stay within this batch: under a mesh the
search runs inside shard_map.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from o1jax.search.expand import Expansion, Leaf
from o1jax.search.select import Node, Widening, admitted
from o1jax.search.tree import (
    EDGE_FIELDS,
    PENDING,
    RAW_VALUE,
    VALUE,
    VISITS,
    Edges,
    Tree,
)

ScoreFn = Callable[[Node, Edges], jax.Array]  # f32[B, K]; the highest valid is taken


class _Walk(NamedTuple):
    """The carry of a walk; level d of every tree is done at once."""

    depth: jax.Array  # i32[]
    going: jax.Array  # bool[B]
    stuck: jax.Array | None  # bool[B]  ended where all below is finished; if looked for
    row: jax.Array  # i32[B]  of the node stood at
    node: Node
    length: jax.Array  # i32[B]  edges taken
    edge: jax.Array  # i32[B]  the last of them
    packed: jax.Array  # f32[B * N * K, EDGE_FIELDS]
    paths: jax.Array  # i32[M, D, B]


def select(
    tree: Tree,
    paths: jax.Array,
    m: jax.Array,
    root_score: ScoreFn,
    score: ScoreFn,
    *,
    widening: Widening,
    revisit: bool,
    stuck_loss: float,
    virtual: bool,
) -> tuple[Tree, jax.Array, Leaf]:
    """Walk m of an iteration, down to an unvisited child, a finished node or depth D.

    paths: i32[M, D, B], where the flat edge ids of walk m are written, B * N * K where
    a tree has stopped; levels that no tree reached keep what was there. With `virtual`
    the edges walked get a pending visit. Without `revisit` finished nodes are passed
    by; a walk ends at a node below which there are no others, and that node is worth
    `stuck_loss` less than the network says from then on.
    """
    batch, nodes, children, _ = tree.edges.packed.shape
    first = jnp.arange(batch, dtype=jnp.int32) * nodes
    nowhere = batch * nodes * children
    max_depth = paths.shape[1]

    def step(walk: _Walk, score: ScoreFn) -> _Walk:
        rows = walk.packed.reshape(batch * nodes, children, EDGE_FIELDS)
        edges = Edges(rows.at[walk.row].get(mode="promise_in_bounds"))
        open_ = admitted(walk.node, edges, widening)
        valid = open_.valid
        if not revisit:
            # A node whose children are all finished widens out of turn.
            more = (edges.child < 0) | (edges.discount != 0)
            some = jnp.any(valid & more, axis=-1, keepdims=True)
            valid = jnp.where(some, valid, edges.valid) & more
        scores = jnp.where(valid, score(walk.node, open_), -jnp.inf)
        action = jnp.argmax(scores, axis=-1).astype(jnp.int32)
        edge = walk.row * children + action
        taken = Edges(walk.packed.at[edge].get(mode="promise_in_bounds"))
        takes = walk.going & taken.valid
        stuck = walk.stuck
        if not revisit:
            takes &= jnp.any(valid, axis=-1)
            stuck |= walk.going & ~takes
        target = jnp.where(takes, edge, nowhere)
        packed = walk.packed
        if virtual:
            packed = packed.at[target, PENDING].add(1.0, mode="drop")
        going = takes & (taken.child >= 0) & (taken.discount != 0)
        return _Walk(
            depth=walk.depth + 1,
            going=going,
            stuck=stuck,
            row=first + jnp.where(going, taken.child, 0.0).astype(jnp.int32),
            node=Node(taken.visits + taken.pending, taken.value, taken.raw_value),
            length=walk.length + takes,
            edge=jnp.where(takes, edge, walk.edge),
            packed=packed,
            # Four kernels a level would check what the loop's condition grants.
            paths=walk.paths.at[m, walk.depth].set(target, mode="promise_in_bounds"),
        )

    start = _Walk(
        depth=jnp.int32(0),
        going=tree.live,
        stuck=None if revisit else jnp.zeros(batch, bool),
        row=first,
        node=Node(tree.root_visits + m, tree.root_value, tree.root_raw_value),
        length=jnp.zeros(batch, jnp.int32),
        edge=jnp.zeros(batch, jnp.int32),
        packed=tree.edges.packed.reshape(-1, EDGE_FIELDS),
        paths=paths,
    )
    walk = jax.lax.while_loop(
        lambda walk: (walk.depth < max_depth) & jnp.any(walk.going),
        lambda walk: step(walk, score),
        step(start, root_score),
    )
    end = Edges(walk.packed.at[walk.edge].get(mode="promise_in_bounds"))
    walked = walk.length > 0
    value = jnp.where(walked, end.raw_value, tree.root_raw_value)
    if not revisit:
        value = jnp.where(walk.stuck, value - stuck_loss, value)
    leaf = Leaf(
        length=walk.length,
        deepest=walk.depth,
        new=walked & (end.child < 0),
        edge=walk.edge,
        value=value,
    )
    packed = walk.packed.reshape(tree.edges.packed.shape)
    return tree.replace(edges=Edges(packed)), walk.paths, leaf


def backup(
    tree: Tree,
    paths: jax.Array,
    m: jax.Array,
    leaves: Leaf,
    found: Expansion,
    *,
    virtual: bool,
) -> Tree:
    """Adds simulation m to every edge of its path, from the leaf up to the root.

    G_d = r_d + discount_d G_{d+1};  value += (G_{d+1} - value) / (visits + 1), written
    as (value visits + G) / (visits + 1). Virtual visits are taken back.
    """
    shape = tree.edges.packed.shape
    packed = tree.edges.packed.reshape(-1, EDGE_FIELDS)
    leaf, found = jax.tree.map(lambda x: x[m], (leaves, found))
    # A level writes three fields of its edges; the others change at a new leaf alone.
    new = jnp.where(leaf.new & found.counted, leaf.edge, len(packed))
    facts = jnp.stack([found.value, found.reward, found.discount, found.child], -1)
    packed = packed.at[new, RAW_VALUE:].set(facts, mode="drop")

    def level(step: jax.Array, carry: tuple) -> tuple:
        packed, value = carry
        depth = leaf.deepest - 1 - step
        edge = paths[m, depth]
        old = Edges(packed.at[edge].get(mode="clip"))
        mean = (old.value * old.visits + value) / (old.visits + 1.0)
        raw = depth == leaf.length - 1  # a leaf's value is the network's
        if found.again is not None:
            raw &= ~found.again
        after = jnp.where(raw, value, mean)
        updated = jnp.stack(
            [
                old.visits + found.counted,
                old.pending - virtual,
                jnp.where(found.counted, after, old.value),
            ],
            axis=-1,
        )
        packed = packed.at[edge, VISITS : VALUE + 1].set(updated, mode="drop")
        on = depth < leaf.length
        return packed, jnp.where(on, old.reward + old.discount * value, value)

    packed, value = jax.lax.fori_loop(0, leaf.deepest, level, (packed, found.value))
    visits = tree.root_visits
    mean = (tree.root_value * visits + value) / (visits + 1.0)
    return tree.replace(
        edges=Edges(packed.reshape(shape)),
        root_visits=visits + found.counted,
        root_value=jnp.where(found.counted, mean, tree.root_value),
    )
