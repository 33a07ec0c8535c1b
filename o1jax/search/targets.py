"""Finished trees as things to learn: step labels, policy targets, preferences.

In: search.nodes.Nodes of a search over text. Out: StepLabels for a process reward
model, distributions over the children of a node for the policy, and pairs of texts of
which one is better. Nodes are named by (tree, node); harvest.texts has their tokens.
Sources: Zhang et al. 2024 (ReST-MCTS*: labels), Danihelka et al. 2022 (completed Q),
Xie et al. 2024, https://arxiv.org/abs/2405.00451 (pairs of siblings).
"""

from typing import Literal, NamedTuple

import numpy as np

from o1jax.search.gumbel import Gumbel
from o1jax.search.harvest import NONE, in_use, on_host, packed, paths, read, texts
from o1jax.search.nodes import Nodes
from o1jax.types import Prompts, StepLabels

UNSEEN = 1e-5  # prior mass below this is rounding, not a child that was never made


class PolicyTargets(NamedTuple):
    """What the search makes of the policy at M nodes with at most K children."""

    tree: np.ndarray  # i32[M]
    node: np.ndarray  # i32[M]
    child: np.ndarray  # i32[M, K]   node ids; NONE behind the last child
    weight: np.ndarray  # f32[M, K]  of the child's step; 0 where NONE
    rest: np.ndarray  # f32[M]  1 - sum(weight): of children that have no node


class Pairs(NamedTuple):
    """R pairs of texts with a common prefix; each names three nodes of one tree."""

    tree: np.ndarray  # i32[R]
    prefix: np.ndarray  # i32[R]    the last node that both texts share
    chosen: np.ndarray  # i32[R]    where the better text ends
    rejected: np.ndarray  # i32[R]
    gap: np.ndarray  # f32[R]       by how much it is better; > 0


class PairTexts(NamedTuple):
    """The tokens of pairs, right-padded with 0; the prompt is not in them."""

    prefix: np.ndarray  # i32[R, T]
    prefix_length: np.ndarray  # i32[R]
    chosen: np.ndarray  # i32[R, X]  what follows the prefix
    chosen_length: np.ndarray  # i32[R]
    rejected: np.ndarray  # i32[R, Y]
    rejected_length: np.ndarray  # i32[R]


def step_labels(
    nodes: Nodes,
    prompts: Prompts,
    at: np.ndarray,
    *,
    min_visits: int = 1,
    by_visits: bool = True,
    low: float = 0.0,
    high: float = 1.0,
    width: int = 0,
) -> StepLabels:
    """The steps on the paths to `at` i32[B, C], labelled with their nodes' values.

    A row for each id that is not NONE, problem by problem. The label is the mean return
    of the node, mapped from [low, high] to [0, 1] and clipped, for a value head may
    stray. A step weighs its visits (or 1, if not `by_visits`), shared equally by the
    rows it is in: however many leaves lie below, it counts once. A node visited once
    holds no more than its guide said, so `min_visits` can leave those out; the last
    step of a whole answer always counts.
    """
    if not low < high:
        raise ValueError(f"low ({low}) must be less than high ({high})")
    nodes, at = on_host(nodes), np.asarray(at)
    tree, column = np.nonzero(at != NONE)
    text = texts(nodes, tree, at[tree, column])
    asked = np.asarray(prompts.tokens)[tree]
    in_prompt = np.arange(asked.shape[1]) < np.asarray(prompts.length)[tree, None]
    tokens, node = packed(
        np.concatenate([in_prompt, text.node != NONE], axis=1),
        (
            np.concatenate([asked, text.tokens], axis=1),
            np.concatenate([np.full_like(asked, NONE), text.node], axis=1),
        ),
        (0, NONE),
        width,
    )
    after = np.concatenate([node[:, 1:], np.full_like(node[:, :1], NONE)], axis=1)
    step_end = (node != NONE) & (node != after)
    row = np.broadcast_to(tree[:, None], node.shape)
    share = np.zeros(nodes.parent.shape, np.float32)
    np.add.at(share, (row[step_end], node[step_end]), 1.0)
    weight = nodes.visits.astype(np.float32) if by_visits else np.ones_like(share)
    weight = weight * ((nodes.visits >= min_visits) | nodes.store.finished)
    weight /= np.maximum(share, 1.0)
    label = np.clip((nodes.value - low) / (high - low), 0.0, 1.0).astype(np.float32)
    return StepLabels(
        tokens=tokens,
        prompt_length=np.asarray(prompts.length)[tree],
        length=np.sum(in_prompt, axis=1) + text.length,
        step_end=step_end,
        label=np.where(step_end, read(label, row, node), np.float32(0)),
        weight=np.where(step_end, read(weight, row, node), np.float32(0)),
    )


def policy_targets(
    nodes: Nodes,
    *,
    min_visits: int = 2,
    rule: Literal["visits", "improved"] = "visits",
    gumbel: Gumbel | None = None,
    discount: float = 1.0,
) -> PolicyTargets:
    """Distributions over the children of nodes that have at least `min_visits`.

    visits: in proportion to the children's visits (expert iteration), good where visits
    follow the values: a tree search, many simulations (in a beam, of one visit a node,
    all children are equal and `min_visits` must be 1). improved: softmax(logprior +
    sigma(completed q)) with the scale of `gumbel`, good for few. It is exact from nodes
    alone: a child without a node has the mixed value, whatever its prior, so all of
    them are one child of the prior that is left, and what they get is `rest`. q is
    discount * value, that of a finished child its value: true where a search is paid
    for the answer alone, as over text.
    """
    if rule not in ("visits", "improved"):
        raise ValueError(f"rule must be visits or improved, not {rule!r}")
    nodes = on_host(nodes)
    tree, node, child = _children(nodes, max(min_visits, 1))
    row = np.broadcast_to(tree[:, None], child.shape)
    visits = read(nodes.visits, row, child).astype(np.float32)
    if rule == "visits":
        weight = visits / np.maximum(visits.sum(axis=1, keepdims=True), 1.0)
    else:
        scale = np.where(nodes.finished, np.float32(1), np.float32(discount))
        qvalue = read(scale * nodes.value, row, child)
        logprior = np.where(child != NONE, read(nodes.logprior, row, child), -np.inf)
        raw_value = nodes.raw_value[tree, node]
        weight = _improved(logprior, qvalue, visits, raw_value, gumbel or Gumbel())
    rest = np.maximum(1.0 - weight.sum(axis=1), 0.0)
    rest = np.where(rest > UNSEEN, rest, 0.0)
    return PolicyTargets(
        tree, node, child, weight.astype(np.float32), rest.astype(np.float32)
    )


def _children(
    nodes: Nodes, min_visits: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(tree i32[M], node i32[M], child i32[M, K]) of nodes with a visited child."""
    size = nodes.parent.shape[1]
    enough = in_use(nodes) & (nodes.visits >= min_visits)
    row, below = np.nonzero(in_use(nodes) & (nodes.parent != NONE) & (nodes.visits > 0))
    flat = row * size + nodes.parent[row, below]
    kept = enough.reshape(-1)[flat]
    flat, below = flat[kept], below[kept]
    order = np.argsort(flat, kind="stable")
    parent, first, group, count = np.unique(
        flat[order], return_index=True, return_inverse=True, return_counts=True
    )
    child = np.full((len(parent), int(count.max(initial=0))), NONE, np.int32)
    child[group, np.arange(len(order)) - first[group]] = below[order]
    return (
        (parent // size).astype(np.int32),
        (parent % size).astype(np.int32),
        child,
    )


def _improved(
    logprior: np.ndarray,
    qvalue: np.ndarray,
    visits: np.ndarray,
    raw_value: np.ndarray,
    config: Gumbel,
) -> np.ndarray:
    """gumbel.improved_policy of f32[M, K] children, the rest of the prior one more.

    v_mix = (v + N sum(p q) / sum(p)) / (1 + N), over the children, N their visits.
    """
    prior = np.exp(logprior)
    total, seen = visits.sum(axis=1), prior.sum(axis=1)
    mean = (prior * qvalue).sum(axis=1) / np.maximum(seen, np.finfo(np.float32).tiny)
    mixed = (raw_value + total * mean) / (total + 1.0)
    left = np.where(1.0 - seen > UNSEEN, 1.0 - seen, 0.0)
    with np.errstate(divide="ignore"):
        logits = np.concatenate([logprior, np.log(left)[:, None]], axis=1)
    completed = np.concatenate([qvalue, mixed[:, None]], axis=1)
    if config.rescale:
        valid = logits > -np.inf
        low = np.where(valid, completed, np.inf).min(axis=1, keepdims=True)
        high = np.where(valid, completed, -np.inf).max(axis=1, keepdims=True)
        completed = (completed - low) / np.maximum(high - low, 1e-8)
    most = visits.max(axis=1, keepdims=True, initial=0.0)
    score = logits + (config.maxvisit_init + most) * config.value_scale * completed
    power = np.exp(score - score.max(axis=1, keepdims=True))
    return (power / power.sum(axis=1, keepdims=True))[:, :-1]


def sibling_pairs(
    nodes: Nodes, *, margin: float, max_pairs: int = 16, min_visits: int = 1
) -> Pairs:
    """Different steps behind the same text whose values differ by at least `margin`.

    Both have `min_visits`. At most `max_pairs` a tree, the widest gaps first; of equal
    gaps, such as to use as many different steps as possible.
    """
    nodes = on_host(nodes)
    wanted = in_use(nodes) & (nodes.parent != NONE) & (nodes.visits >= min_visits)
    tree, chosen, rejected, gap = _pairs(
        nodes, nodes.value, wanted, nodes.parent, margin, max_pairs
    )
    return Pairs(tree, nodes.parent[tree, chosen], chosen, rejected, gap)


def answer_pairs(
    nodes: Nodes, *, margin: float, max_pairs: int = 16, score: np.ndarray | None = None
) -> Pairs:
    """Whole answers to the same question whose scores differ by at least `margin`.

    score: f32[B, N]; the guide's value if left out. Right against wrong: 1 and 0 by a
    grader, which makes these pairs training data (no search sees them), and margin 1.
    """
    nodes = on_host(nodes)
    score = nodes.raw_value if score is None else np.asarray(score, np.float32)
    if score.shape != nodes.parent.shape:
        raise ValueError(f"score is {score.shape}, the nodes are {nodes.parent.shape}")
    wanted = in_use(nodes) & nodes.store.finished
    wanted[:, 0] = False  # the root is above all others: there is nothing to compare
    everyone = np.zeros_like(nodes.parent)
    tree, chosen, rejected, gap = _pairs(
        nodes, score, wanted, everyone, margin, max_pairs
    )
    one, other = paths(nodes, tree, chosen), paths(nodes, tree, rejected)
    depth = min(one.shape[-1], other.shape[-1])
    one, other = one[:, :depth], other[:, :depth]
    shared = ((one == other) & (one != NONE)).sum(axis=-1)
    prefix = np.take_along_axis(one, np.maximum(shared - 1, 0)[:, None], axis=1)[:, 0]
    return Pairs(tree, prefix, chosen, rejected, gap)


def _pairs(
    nodes: Nodes,
    score: np.ndarray,
    wanted: np.ndarray,
    group: np.ndarray,
    margin: float,
    max_pairs: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(tree, better, worse, gap) [R] of wanted nodes [B, N] of the same group."""
    if not margin > 0:
        raise ValueError(f"margin must be above 0, not {margin}")
    found: list[tuple[np.ndarray, ...]] = []
    for b in range(len(wanted)):  # a matrix a tree: all of them would not fit
        ids = np.flatnonzero(wanted[b])
        s, g = score[b, ids], group[b, ids]
        gap = s[:, None] - s[None]
        i, j = np.nonzero((gap >= margin) & (g[:, None] == g[None]))
        one, other, gap = ids[i], ids[j], gap[i, j]
        differ = _differ(nodes, b, one, other)
        i, j, one, other, gap = (x[differ] for x in (i, j, one, other, gap))
        # Among pairs of one turn a node is at most once on either side.
        i, j = (np.unique(x, return_inverse=True)[1] for x in (i, j))
        turn = (j - i) % (max(i.max(initial=0), j.max(initial=0)) + 1)
        order = np.lexsort((i, turn, -gap))[:max_pairs]
        found.append((np.full(len(order), b), one[order], other[order], gap[order]))
    tree, one, other, gap = (np.concatenate(column) for column in zip(*found))
    ids_of = lambda x: x.astype(np.int32)
    return ids_of(tree), ids_of(one), ids_of(other), gap.astype(np.float32)


def _differ(nodes: Nodes, b: int, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """bool[R]: not two draws of the same step, as independent chains may hold them."""
    tokens, length, parent = nodes.store.tokens[b], nodes.store.length[b], nodes.parent
    differ = (length[one] != length[other]) | (parent[b, one] != parent[b, other])
    return differ | (tokens[one] != tokens[other]).any(axis=-1)


def pair_texts(nodes: Nodes, pairs: Pairs) -> PairTexts:
    """The tokens of both sides behind the prefix that they share."""
    nodes = on_host(nodes)
    prefix = texts(nodes, pairs.tree, pairs.prefix)

    def behind(node: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        text = texts(nodes, pairs.tree, node)
        place = np.arange(text.tokens.shape[-1])
        later = (place >= prefix.length[:, None]) & (place < text.length[:, None])
        (tokens,) = packed(later, (text.tokens,), (0,))
        return tokens, text.length - prefix.length

    return PairTexts(
        prefix.tokens, prefix.length, *behind(pairs.chosen), *behind(pairs.rejected)
    )
