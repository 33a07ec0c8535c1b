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
from o1jax.search.tree import EDGE_FIELDS, PENDING, Edges, Tree

ScoreFn = Callable[[Node, Edges], jax.Array]  # f32[B, K]; the highest valid is taken


class _Walk(NamedTuple):
    """The carry of a walk; level d of every tree is done at once."""

    depth: jax.Array  # i32[]
    going: jax.Array  # bool[B]
    at: jax.Array  # i32[B]  node id
    node: Node
    packed: jax.Array  # f32[B * N * K, EDGE_FIELDS]
    paths: jax.Array  # i32[M, D, B]
    leaf: Leaf


def select(
    tree: Tree,
    paths: jax.Array,
    m: jax.Array,
    root_score: ScoreFn,
    score: ScoreFn,
    *,
    widening: Widening,
    virtual: bool,
) -> tuple[Tree, jax.Array, Leaf]:
    """Walk m of an iteration, down to an unvisited child, a finished node or depth D.

    paths: i32[M, D, B], where the flat edge ids of walk m are written, B * N * K where
    a tree has stopped; levels that no tree reached keep what was there. With `virtual`
    the edges walked get a pending visit.
    """
    batch, nodes, children, _ = tree.edges.packed.shape
    first = jnp.arange(batch, dtype=jnp.int32) * nodes
    nowhere = batch * nodes * children
    max_depth = paths.shape[1]

    def step(walk: _Walk, score: ScoreFn) -> _Walk:
        row = first + walk.at
        rows = walk.packed.reshape(batch * nodes, children, EDGE_FIELDS)
        edges = Edges(rows.at[row].get(mode="promise_in_bounds"))
        open_ = admitted(walk.node, edges, widening)
        scores = jnp.where(open_.valid, score(walk.node, open_), -jnp.inf)
        action = jnp.argmax(scores, axis=-1).astype(jnp.int32)
        edge = row * children + action
        taken = Edges(walk.packed.at[edge].get(mode="promise_in_bounds"))
        takes = walk.going & taken.valid
        target = jnp.where(takes, edge, nowhere)
        packed = walk.packed
        if virtual:
            packed = packed.at[target, PENDING].add(1.0, mode="drop")
        leaf = walk.leaf
        leaf = Leaf(
            length=leaf.length + takes,
            deepest=walk.depth + 1,
            new=jnp.where(takes, taken.child < 0, leaf.new),
            edge=jnp.where(takes, edge, leaf.edge),
            value=jnp.where(takes, taken.raw_value, leaf.value),
        )
        going = takes & (taken.child >= 0) & (taken.discount != 0)
        node = Node(taken.visits + taken.pending, taken.value, taken.raw_value)
        at = jnp.where(going, taken.child, 0.0).astype(jnp.int32)
        paths = walk.paths.at[m, walk.depth].set(target)
        return _Walk(walk.depth + 1, going, at, node, packed, paths, leaf)

    zeros = jnp.zeros(batch, jnp.int32)
    start = _Walk(
        depth=jnp.int32(0),
        going=tree.live,
        at=zeros,
        node=Node(tree.root_visits + m, tree.root_value, tree.root_raw_value),
        packed=tree.edges.packed.reshape(-1, EDGE_FIELDS),
        paths=paths,
        leaf=Leaf(
            length=zeros,
            deepest=jnp.int32(0),
            new=jnp.zeros(batch, bool),
            edge=zeros,
            value=tree.root_raw_value,
        ),
    )
    walk = jax.lax.while_loop(
        lambda walk: (walk.depth < max_depth) & jnp.any(walk.going),
        lambda walk: step(walk, score),
        step(start, root_score),
    )
    packed = walk.packed.reshape(tree.edges.packed.shape)
    return tree.replace(edges=Edges(packed)), walk.paths, walk.leaf


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
    leaf, found = jax.tree.map(lambda x: x[m], (leaves, found))

    def level(step: jax.Array, carry: tuple) -> tuple:
        packed, value = carry
        depth = leaf.deepest - 1 - step
        edge = paths[m, depth]
        old = Edges(packed.at[edge].get(mode="clip"))
        last = depth == leaf.length - 1
        new = last & leaf.new
        raw = last if found.again is None else last & ~found.again
        mean = (old.value * old.visits + value) / (old.visits + 1.0)
        reward = jnp.where(new, found.reward, old.reward)
        discount = jnp.where(new, found.discount, old.discount)
        updated = jnp.stack(
            [
                old.logprior,
                old.visits + 1.0,
                old.pending,
                jnp.where(raw, value, mean),  # a leaf's value is the network's
                jnp.where(new, value, old.raw_value),
                reward,
                discount,
                jnp.where(new, found.child, old.child),
            ],
            axis=-1,
        )
        updated = jnp.where(found.counted[:, None], updated, old.packed)
        if virtual:
            updated = updated.at[:, PENDING].add(-1.0)
        on = depth < leaf.length
        value = jnp.where(on, reward + discount * value, value)
        return packed.at[edge].set(updated, mode="drop"), value

    packed, value = jax.lax.fori_loop(
        0, leaf.deepest, level, (tree.edges.packed.reshape(-1, shape[-1]), found.value)
    )
    visits = tree.root_visits
    mean = (tree.root_value * visits + value) / (visits + 1.0)
    return tree.replace(
        edges=Edges(packed.reshape(shape)),
        root_visits=visits + found.counted,
        root_value=jnp.where(found.counted, mean, tree.root_value),
    )
