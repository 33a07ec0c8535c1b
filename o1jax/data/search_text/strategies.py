"""Searches written down as they go: depth first, breadth first, and the way alone.

In: a space, a width, a heuristic and how long the text may be. Out: its lines, which
end in `<goal>` and a solution, or in `<fail>` where nothing is left to try or the next
line would be too much. Both take a state's `width` best children; breadth first goes on
from the `width` best states of a level. Equal scores stay in the space's order.
"""

from collections.abc import Callable
from typing import NamedTuple

from o1jax.data.search_text import grammar
from o1jax.data.search_text.grammar import BFS, DFS
from o1jax.data.search_text.spaces import Child, Space, State


class Limits(NamedTuple):
    """Of a trace."""

    words: int  # of its text, the marks that close lines included
    nodes: int  # numbers that a node may have


class Full(Exception):
    """The next line would break a limit."""


class Node(NamedTuple):
    """A state that was found, and how."""

    id: int
    state: State
    path: tuple[str, ...]  # steps from the question


class Trace(NamedTuple):
    """Lines of a search."""

    lines: tuple[str, ...]
    solution: tuple[str, ...]  # its last lines; empty if none was found

    @property
    def words(self) -> int:
        return sum(map(grammar.words, self.lines))


class Scribe:
    """Writes lines while they fit, numbers nodes, and knows where the search is."""

    def __init__(self, space: Space, limits: Limits) -> None:
        self._space, self._limits = space, limits
        self._left = limits.words - grammar.words(grammar.FAIL)
        self.root = Node(0, space.start, ())
        self._used = 1  # nodes
        self._at = -1
        self.lines: list[str] = []
        self.solution: tuple[str, ...] = ()

    def say(self, line: str) -> None:
        """Full if it does not fit."""
        self._left -= grammar.words(line)
        if self._left < 0:
            raise Full
        self.lines.append(line)

    def visit(self, node: Node) -> None:
        """Goes to a node, unless the search is there."""
        if self._at != node.id:
            self.say(grammar.at(node.id, self._space.shown(node.state)))
            self._at = node.id

    def found(self, parent: Node, child: Child) -> Node:
        """A child of the node that the search is at; writes the ending of a goal."""
        if self._used == self._limits.nodes:
            raise Full
        node = Node(self._used, child.state, (*parent.path, child.step))
        self.say(grammar.new(node.id, child.step))
        self._used += 1
        if self._space.solved(child.state):
            ending = (grammar.goal(node.id), *node.path)
            # The line that would have said that it failed is not needed.
            more = sum(map(grammar.words, ending)) - grammar.words(grammar.FAIL)
            if self._left < more:
                del self.lines[-1]
                raise Full
            self.lines += ending
            self.solution = node.path
        return node

    def trace(self) -> Trace:
        """What was written; without a solution it failed."""
        if not self.solution:
            if self.lines and self.lines[-1].startswith(grammar.AT):
                del self.lines[-1]  # a visit for which there was no more room
            self.lines.append(grammar.FAIL)
        return Trace(tuple(self.lines), self.solution)


def search(
    space: Space, mark: str, width: int, heuristic: str, limits: Limits
) -> Trace:
    """A trace that opens with what kind of search it is (DFS or BFS)."""
    scribe = Scribe(space, limits)

    def best(state: State) -> list[Child]:
        children = space.children(state)
        return sorted(children, key=lambda c: space.score(heuristic, c.state))[:width]

    try:
        scribe.say(grammar.header(mark, width, heuristic))
        if mark == DFS:
            depth_first(scribe, scribe.root, best)
        else:
            score = lambda node: space.score(heuristic, node.state)
            breadth_first(scribe, width, best, score)
    except Full:
        pass
    return scribe.trace()


def depth_first(
    scribe: Scribe, node: Node, best: Callable[[State], list[Child]]
) -> None:
    """Goes down at once, and back to the nearest state with children left."""
    children = best(node.state)
    if not children:
        return  # its parent goes on
    for child in children:
        scribe.visit(node)
        below = scribe.found(node, child)
        if not scribe.solution:
            depth_first(scribe, below, best)
        if scribe.solution:
            return
    scribe.visit(node)
    scribe.say(grammar.DEAD)


def breadth_first(
    scribe: Scribe,
    width: int,
    best: Callable[[State], list[Child]],
    score: Callable[[Node], float],
) -> None:
    """Level by level; only the `width` best states of a level go on."""
    level = [scribe.root]
    while level:
        after: list[Node] = []
        for node in level:
            children = best(node.state)
            if children:
                scribe.visit(node)
            for child in children:
                after.append(scribe.found(node, child))
                if scribe.solution:
                    return
        level = sorted(after, key=score)[:width]


STRATEGIES = {"depth_first": DFS, "breadth_first": BFS}
