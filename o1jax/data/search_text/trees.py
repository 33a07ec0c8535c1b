"""Recorded trees of our own searches, beam or MCTS, as traces in the same language.

In: a tree (search.trace.Trace, or anything with its columns) and the space of its
question. Out: lines without a header: nodes in the order in which the search made them,
up to the first one that answers. A policy's steps may be wrong, which no line of a
search can say: they are left out, with all below them, as is a second way to a
sibling's state.
"""

import contextlib
from collections.abc import Sequence
from typing import Protocol

from o1jax.data.search_text.spaces import Space
from o1jax.data.search_text.strategies import Full, Limits, Node, Scribe, Trace
from o1jax.tasks.task import STEP_END


class Tree(Protocol):
    """Columns over nodes; node 0 is the question, parents come before children."""

    parent: Sequence[int]
    step: Sequence[str]


def tree_trace(space: Space, tree: Tree, limits: Limits) -> Trace:
    """The tree as a trace that verifies."""
    scribe = Scribe(space, limits)
    nodes: dict[int, Node] = {0: scribe.root}
    states = {0: set()}
    with contextlib.suppress(Full):
        for n in range(1, len(tree.parent)):
            if (parent := nodes.get(tree.parent[n])) is None:
                continue
            step = plain(tree.step[n])
            child = next(
                (c for c in space.children(parent.state) if same_step(c.step, step)),
                None,
            )
            if child is None or child.state in states[tree.parent[n]]:
                continue
            scribe.visit(parent)
            nodes[n], states[n] = scribe.found(parent, child), set()
            states[tree.parent[n]].add(child.state)
            if scribe.solution:
                break
    return scribe.trace()


def plain(step: str) -> str:
    """A step of a tree without the mark that closes it."""
    return " ".join(step.split()).removesuffix(STEP_END).rstrip()


def same_step(one: str, other: str) -> bool:
    """Equal, but for the order of the operands of + and *."""
    a, b = one.split(), other.split()
    if a == b:
        return True
    swapped = len(b) > 3 and b[1] in ("+", "*")
    return swapped and a == [b[2], b[1], b[0], *b[3:]]
