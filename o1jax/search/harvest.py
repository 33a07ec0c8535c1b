"""What finished trees over text hold, read on the host.

In: search.nodes.Nodes of any search over text, and node ids. Out: whole texts with
their log-probs and the node behind every token, and the finished paths, best first:
what cloning, voting and evaluation read (training targets: targets.py). Plain numpy;
keys and values stay on the device, for only what StepText lists is fetched.
"""

from typing import NamedTuple

import numpy as np

from o1jax.parallel.hosts import fetch
from o1jax.search.nodes import Nodes

NONE = -1  # in place of a node id


class StepText(NamedTuple):
    """The part of a node's page that is read here; the store of Nodes on the host."""

    tokens: np.ndarray  # i32[B, N, S]
    logprob: np.ndarray  # f32[B, N, S]
    length: np.ndarray  # i32[B, N]
    finished: np.ndarray  # bool[B, N]  the step ends with a stop token


class Texts(NamedTuple):
    """Texts from the root down to some nodes, right-padded; rows of any shape."""

    tokens: np.ndarray  # i32[..., T]   0 on padding
    logprob: np.ndarray  # f32[..., T]  of the sampling distribution; 0 on padding
    node: np.ndarray  # i32[..., T]     whose step the token is of; NONE on padding
    length: np.ndarray  # i32[...]      0 where no node was asked for
    finished: np.ndarray  # bool[...]   the text is a whole answer
    value: np.ndarray  # f32[...]       mean return of its last node


class Finished(NamedTuple):
    """The finished paths of each tree, best first; C is the most that a tree has."""

    at: np.ndarray  # i32[B, C]       the path's last node; NONE behind the last one
    score: np.ndarray  # f32[B, C]    the guide's value of that node; 0 where NONE
    visits: np.ndarray  # i32[B, C]
    path: np.ndarray  # i32[B, C, D]  node ids from the root on; NONE behind the path


def on_host(nodes: Nodes) -> Nodes:
    """The same nodes as numpy arrays, with a StepText for a store.

    All functions here do this first; do it once when several are called. A store may
    have rows to work in behind those of the nodes; they are left out.
    """
    count = nodes.parent.shape[1]
    text = StepText(*(getattr(nodes.store, name) for name in StepText._fields))
    text = StepText(*(rows[:, :count] for rows in text))
    return fetch(nodes.replace(store=text))


def in_use(nodes: Nodes) -> np.ndarray:
    """bool[B, N]: there is such a node."""
    return np.arange(nodes.parent.shape[1])[None] < np.asarray(nodes.used)[:, None]


def read(rows: np.ndarray, tree: np.ndarray, node: np.ndarray) -> np.ndarray:
    """rows [B, N, ...] at nodes of trees, i32[...] each; zeros where NONE."""
    found = rows[tree, np.maximum(node, 0)]
    there = np.reshape(node != NONE, (*node.shape, *[1] * (found.ndim - node.ndim)))
    return np.where(there, found, np.zeros((), rows.dtype))


def paths(nodes: Nodes, tree: np.ndarray, node: np.ndarray) -> np.ndarray:
    """i32[..., D]: ids from the root to each node, NONE behind it; D as long as needed.

    tree and node: i32[...]; a row of NONE has an empty path.
    """
    parent = np.asarray(nodes.parent)
    upwards = [np.asarray(node)]
    while (upwards[-1] != NONE).any():
        at = upwards[-1]
        upwards.append(np.where(at != NONE, parent[tree, np.maximum(at, 0)], NONE))
    climbed = np.stack(upwards[:-1] or upwards, axis=-1)
    depth = np.sum(climbed != NONE, axis=-1, keepdims=True)
    down = depth - 1 - np.arange(climbed.shape[-1])
    turned = np.take_along_axis(climbed, np.maximum(down, 0), axis=-1)
    return np.where(down >= 0, turned, NONE).astype(np.int32)


def packed(
    keep: np.ndarray, columns: tuple[np.ndarray, ...], fill: tuple, width: int = 0
) -> tuple[np.ndarray, ...]:
    """Moves what is kept of each row to its front: [..., T] each, padded with `fill`.

    keep: bool[..., X]; columns: [..., X]. T is `width`, or 0: as long as needed.
    """
    length = np.sum(keep, axis=-1)
    longest = int(length.max(initial=0))
    if width and longest > width:
        raise ValueError(f"a text of {longest} tokens does not fit width {width}")
    place = np.arange(width or max(longest, 1)) < length[..., None]
    moved = []
    for column, pad in zip(columns, fill, strict=True):
        out = np.full(place.shape, pad, column.dtype)
        out[place] = column[keep]  # both sides go through the rows in the same order
        moved.append(out)
    return tuple(moved)


def texts(
    nodes: Nodes,
    tree: np.ndarray,
    node: np.ndarray,
    width: int = 0,
    *,
    alone: bool = False,
) -> Texts:
    """Texts of nodes in trees, i32[...] each (they broadcast); NONE: an empty row.

    The prompt is not in them. T is `width`, so that shapes stay fixed, or 0: that of
    the longest text. ValueError if a text is longer than `width`. alone: without what
    the node saw, where a step is a whole attempt (Steps.level).
    """
    nodes = on_host(nodes)
    tree, node = np.broadcast_arrays(np.asarray(tree), np.asarray(node))
    path = node[..., None] if alone else paths(nodes, tree, node)
    above = np.broadcast_to(tree[..., None], path.shape)
    length = read(nodes.store.length, above, path)  # [..., D]
    slots = nodes.store.tokens.shape[-1]
    keep = np.arange(slots) < length[..., None]
    flat = lambda x: x.reshape((*node.shape, keep.shape[-2] * slots))
    columns = (
        flat(read(nodes.store.tokens, above, path)),
        flat(read(nodes.store.logprob, above, path)),
        flat(np.broadcast_to(path[..., None], keep.shape)),
    )
    tokens, logprob, of = packed(flat(keep), columns, (0, 0.0, NONE), width)
    total = length.sum(axis=-1, dtype=np.int32)
    return Texts(
        tokens=tokens,
        logprob=logprob,
        node=of,
        length=total,
        finished=read(nodes.store.finished, tree, node) & (total > 0),
        value=read(nodes.value, tree, node),
    )


def trajectories(
    nodes: Nodes, at: np.ndarray, width: int = 0, *, alone: bool = False
) -> Texts:
    """Whole responses [B, C, T] that end at node ids `at` i32[B, C]; NONE: none.

    alone: each node is one by itself, see texts(). Its log-probs are those that it had
    behind the attempts before it.
    """
    at = np.asarray(at)
    return texts(nodes, np.arange(len(at))[:, None], at, width, alone=alone)


def _columns(wanted: np.ndarray, *order: np.ndarray) -> np.ndarray:
    """i32[B, C]: ids of the wanted nodes of [B, N], by falling `order`, first first."""
    keys = [-np.asarray(key, np.float64) for key in reversed(order)]
    ids = np.broadcast_to(np.arange(wanted.shape[1]), wanted.shape)
    sorted_ids = np.lexsort((ids, *keys, ~wanted), axis=-1)
    count = wanted.sum(axis=-1, keepdims=True)
    kept = ids[:, : int(count.max(initial=0))] < count
    return np.where(kept, sorted_ids[:, : kept.shape[1]], NONE).astype(np.int32)


def leaves(nodes: Nodes) -> np.ndarray:
    """i32[B, C]: the nodes without a child, by id; NONE behind the last one."""
    there, parent = in_use(nodes), np.asarray(nodes.parent)
    tree, node = np.nonzero(there & (parent != NONE))
    inner = np.zeros_like(there)
    inner[tree, parent[tree, node]] = True
    return _columns(there & ~inner)


def finished_paths(nodes: Nodes) -> Finished:
    """Every node whose text is a whole answer, best first.

    Of equal scores the one of more visits comes first, then the one made earlier. An
    answer that several nodes hold (draws of best-of-N) is there several times: a vote.
    Where a search goes on behind an answer (solution level), each attempt counts.
    """
    nodes = on_host(nodes)
    tree = np.arange(len(nodes.used))[:, None]
    # A root without text is a prompt; that of a row of padding is called finished.
    answered = in_use(nodes) & nodes.store.finished
    answered[:, 0] &= nodes.store.length[:, 0] > 0
    at = _columns(answered, nodes.raw_value, nodes.visits)
    tree = np.broadcast_to(tree, at.shape)
    return Finished(
        at=at,
        score=read(nodes.raw_value, tree, at),
        visits=read(nodes.visits, tree, at),
        path=paths(nodes, tree, at),
    )
