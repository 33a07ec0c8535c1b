"""A search tree as one text: its wrong turns, and the reflection that leaves them.

In: a tree that was recorded (search.trace.Trace, or anything with its columns) and the
example it searched. Out: a Text in the language of the behaviours: the way to a right
answer, and on it turns that lead to none, each checked, with the tree's own value as
the chance of being right, and taken back; some of the right steps are checked too, or
whoever learns from it would say "wrong" to all. Source: journey learning, Qin et al.
2024, O1 Replication Journey, arXiv 2410.18982, without rewriting by a language model.
"""

import hashlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from o1jax.data.behaviours import marks
from o1jax.data.behaviours.draft import Draft, Text
from o1jax.data.behaviours.marks import RIGHT, WRONG
from o1jax.tasks.steps import StepTask
from o1jax.tasks.task import STEP_END, Example


class Tree(Protocol):
    """Columns over nodes; node 0 is the question, parents come before children.

    A node whose step is empty ends the answer above it.
    """

    parent: Sequence[int]
    step: Sequence[str]
    visits: Sequence[int]
    value: Sequence[float]
    chosen: int


def journey(
    task: StepTask,
    example: Example,
    tree: Tree,
    *,
    turns: int = 1,
    depth: int = 2,
    checks: float = 0.0,
    max_words: int = 0,
) -> Text | None:
    """A text that the task grades as right; None if no path of the tree is.

    turns: wrong turns at each step of the way, those with most visits. depth: steps of
    a wrong turn. checks: share of the steps of the way that are checked; which ones
    the question decides. Where the text is longer than max_words (0: no limit), with
    fewer turns, then without these checks; None if even the way alone is too long.
    """
    seen = _Seen(task, example, tree)
    if not (way := seen.way()):
        return None
    digest = hashlib.blake2b(example.question.encode(), digest_size=8).digest()
    checked = np.random.default_rng([*digest]).random(len(way)) < checks
    tries = [(fewer, checked) for fewer in range(turns, -1, -1)]
    for fewer, some in [*tries, (0, np.zeros_like(checked))]:
        text = _text(example, tree, seen, way, fewer, depth, some)
        if not 0 < max_words < text.words:
            return text
    return None


class _Seen:
    """What the oracle says of each node."""

    def __init__(self, task: StepTask, example: Example, tree: Tree) -> None:
        self._task, self._tree = task, tree
        self.steps = [" ".join(s.split()).removesuffix(STEP_END) for s in tree.step]
        self.steps = [step.rstrip() for step in self.steps]
        states = [task.start(example)]
        self.children: list[list[int]] = [[] for _ in tree.parent]
        for n in range(1, len(tree.parent)):
            state = states[tree.parent[n]]
            # An empty step ends an answer, and changes nothing.
            if state is not None and self.steps[n]:
                state, fault = task.advance(state, self.steps[n])
                state = None if fault else state
            states.append(state)
            self.children[tree.parent[n]].append(n)
        self.alive = [s is not None and task.value(s) > 0 for s in states]
        self.done = [s is not None and task.done(s) for s in states]
        # Most visited first; sorting keeps the order of the tree among equals.
        for below in self.children:
            below.sort(key=lambda n: -tree.visits[n])

    def way(self) -> list[int]:
        """Nodes to a right answer, the root left out: the chosen one if it is right."""
        ends = [n for n, done in enumerate(self.done) if done]
        if not ends:
            return []
        node = self._tree.chosen if self._tree.chosen in ends else ends[0]
        path = []
        while node:
            if self.steps[node]:
                path.append(node)
            node = self._tree.parent[node]
        return path[::-1]


def _text(
    example: Example,
    tree: Tree,
    seen: _Seen,
    way: list[int],
    turns: int,
    depth: int,
    checked: np.ndarray,
) -> Text:
    """checked: bool[W], of the steps of the way."""
    draft = Draft()
    for k, (parent, node) in enumerate(zip([0, *way], way), start=1):
        wrong = [n for n in seen.children[parent] if not seen.alive[n]]
        for turn in wrong[:turns]:
            last, at = turn, turn
            for _ in range(depth):
                draft.step(seen.steps[at], right=False)
                last = at
                after = [n for n in seen.children[at] if seen.steps[n]]
                if not after:
                    break
                at = after[0]
            draft.check(WRONG, marks.chance(tree.value[last]), right=False)
            draft.back(k, needed=True)
        draft.step(seen.steps[node])
        if checked[k - 1]:
            draft.check(RIGHT, marks.chance(tree.value[node]), right=True)
    return draft.text(example)
