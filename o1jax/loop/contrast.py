"""What preferences and tree policies are learned from: the rows of a round.

In: a round's responses and trees. Out: a PairBatch of right against wrong answers, or
of better against worse steps behind the same text (step-DPO), and a DistilBatch of
nodes whose children the search weighed. Shapes are fixed, whatever was found. Losses:
learn/preference.py and learn/distil.py; where the targets come from: search/targets.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import jax
import numpy as np

from o1jax.config import configurable
from o1jax.data.pairs import PairBatch, pairs_of_samples, pairs_of_tree
from o1jax.learn.distil import DistilBatch, DistilConfig
from o1jax.learn.preference import PreferenceConfig
from o1jax.loop.experience import Collected
from o1jax.search.harvest import NONE, on_host, texts
from o1jax.search.nodes import Nodes
from o1jax.search.targets import pair_texts, policy_targets, sibling_pairs
from o1jax.types import Prompts


@configurable
@dataclass(frozen=True)
class Prefer:
    """Learns which of two texts is better (DPO)."""

    loss: PreferenceConfig = field(default_factory=PreferenceConfig)
    # answer: right against wrong ones of a question; step: children of a node whose
    # values differ by the margin at least.
    level: Literal["answer", "step"] = "answer"
    most: int = 4  # pairs of a question, or of a tree
    margin: float = 0.5  # of level step
    min_visits: int = 1  # of each side, of level step

    def __post_init__(self) -> None:
        if self.level not in ("answer", "step"):
            raise ValueError("level must be answer or step")
        for name in ("most", "min_visits"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        if not self.margin > 0:
            raise ValueError("margin must be above 0")


@configurable
@dataclass(frozen=True)
class Distil:
    """Learns the policy that the search made of the policy."""

    loss: DistilConfig = field(default_factory=DistilConfig)
    # visits: in proportion to them (expert iteration); improved: of completed Q values,
    # good for few simulations.
    rule: Literal["visits", "improved"] = "visits"
    min_visits: int = 4  # of a node whose children are learned
    children: int = 4  # of a node, the heaviest; the others count as not there

    def __post_init__(self) -> None:
        if self.rule not in ("visits", "improved"):
            raise ValueError("rule must be visits or improved")
        for name in ("min_visits", "children"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")


def no_pairs(width: int) -> PairBatch:
    """Pairs [0, ...] of rows of `width` tokens."""
    tokens = np.zeros((0, 2, width), np.int32)
    none = np.zeros(0, np.float32)
    return PairBatch(
        tokens=tokens,
        prompt_length=np.zeros(0, np.int32),
        length=np.zeros((0, 2), np.int32),
        step_end=tokens > 0,
        weight=none,
        margin=none,
    )


def answer_pairs(found: Collected, config: Prefer, seed: Sequence[int]) -> PairBatch:
    """Right against wrong answers of each question."""
    of: dict[str, list[int]] = {}
    for i in np.flatnonzero(found.keep):
        of.setdefault(found.examples[i].question, []).append(int(i))
    rng = np.random.default_rng(seed)
    sides = []
    for question, rows in of.items():
        place = {found.texts[i]: i for i in reversed(rows)}
        pairs = pairs_of_samples(
            question,
            [found.texts[i] for i in rows],
            [found.grades[i] for i in rows],
            config.most,
            rng,
        )
        sides += [(place[pair.chosen], place[pair.rejected]) for pair in pairs]
    at = np.array(sides, int).reshape(-1, 2)
    rows = found.rows
    return PairBatch(
        tokens=rows.tokens[at],
        prompt_length=rows.prompt_length[at[:, 0]],
        length=rows.length[at],
        step_end=found.step_end[at],
        weight=np.ones(len(at), np.float32),
        margin=np.zeros(len(at), np.float32),
    )


def step_pairs(
    found: Collected,
    config: Prefer,
    width: int,
    *,
    step_end_ids: Sequence[int],
    stop_ids: Sequence[int],
) -> PairBatch:
    """Better against worse children of the trees' nodes."""
    made = [no_pairs(width)]
    for nodes, asked, kept in found.trees:
        pairs = sibling_pairs(
            nodes,
            margin=config.margin,
            max_pairs=config.most,
            min_visits=config.min_visits,
        )
        pairs = jax.tree.map(lambda x, at=kept[pairs.tree]: x[at], pairs)
        if len(pairs.tree):
            made.append(
                pairs_of_tree(
                    asked,
                    pairs.tree,
                    pair_texts(nodes, pairs),
                    step_end_ids=step_end_ids,
                    stop_ids=stop_ids,
                    length=width,
                )
            )
    return jax.tree.map(lambda *parts: np.concatenate(parts), *made)


def no_nodes(config: Distil, width: int) -> DistilBatch:
    """Nodes [0, ...] of rows of `width` tokens."""
    whole = np.zeros((0, config.children), np.int32)
    none = np.zeros(0, np.float32)
    return DistilBatch(
        tokens=np.zeros((0, config.children, width), np.int32),
        prefix_length=np.zeros(0, np.int32),
        length=whole,
        target=whole.astype(np.float32),
        rest=none,
        value=none,
        weight=none,
    )


def distilled(found: Collected, config: Distil, width: int) -> DistilBatch:
    """Nodes of the trees with what the search makes of their children."""
    made = [no_nodes(config, width)]
    made += [_nodes(*tree, config, width) for tree in found.trees]
    return jax.tree.map(lambda *parts: np.concatenate(parts), *made)


def _nodes(
    nodes: Nodes, asked: Prompts, kept: np.ndarray, config: Distil, width: int
) -> DistilBatch:
    nodes = on_host(nodes)
    found = policy_targets(nodes, min_visits=config.min_visits, rule=config.rule)
    found = jax.tree.map(lambda x: x[kept[found.tree]], found)
    order = np.argsort(-found.weight, axis=1, kind="stable")[:, : config.children]
    pad = ((0, 0), (0, config.children - order.shape[1]))
    child = np.pad(np.take_along_axis(found.child, order, 1), pad, constant_values=NONE)
    target = np.pad(np.take_along_axis(found.weight, order, 1), pad)
    above = texts(nodes, found.tree, found.node)
    tokens = np.zeros((*child.shape, width), np.int32)
    asked_tokens, asked_length = np.asarray(asked.tokens), np.asarray(asked.length)
    begin = (asked_length[found.tree] + above.length).astype(np.int32)
    length = np.repeat(begin[:, None], config.children, axis=1)
    for m, (tree, start) in enumerate(zip(found.tree, begin)):
        question = asked_length[tree]
        tokens[m, :, :question] = asked_tokens[tree, :question]
        tokens[m, :, question:start] = above.tokens[m, : start - question]
        for k in np.flatnonzero(child[m] != NONE):
            size = nodes.store.length[tree, child[m, k]]
            length[m, k] += size
            step = nodes.store.tokens[tree, child[m, k], :size]
            tokens[m, k, start : start + size] = step
    return DistilBatch(
        tokens=tokens,
        prefix_length=begin,
        length=length,
        target=target,
        rest=np.maximum(1 - target.sum(axis=1), 0).astype(np.float32),
        value=nodes.value[found.tree, found.node].astype(np.float32),
        weight=np.ones(len(begin), np.float32),
    )
