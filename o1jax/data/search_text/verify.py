"""Checks a search that was written down, line by line, and not only where it ends.

In: a space and any text at all. Out: a Verdict. Sound is a trace that keeps to the
grammar, states what is so (each node's number, state and step; a goal that is one; the
steps that lead to it), visits nothing in vain and leaves no goal unsaid. `follows`
asks more: whether it is, line by line, the search that its header names.
"""

from typing import NamedTuple

from o1jax.data.behaviours.marks import number, ordinal
from o1jax.data.search_text import grammar
from o1jax.data.search_text.grammar import AT, BFS, DEAD, DFS, FAIL, GOAL, NEW
from o1jax.data.search_text.spaces import Space, State
from o1jax.data.search_text.strategies import Limits, search
from o1jax.tasks.steps import split_steps


class Verdict(NamedTuple):
    """Of a trace."""

    reason: str  # "" if it is sound, or what is wrong with its first wrong line
    line: int  # the number, from 0, of that line; how many there are if all are right
    solved: bool  # it is sound and ends in a goal
    nodes: int  # found, the question included
    back: int  # visits of a node that is older than the newest one

    @property
    def sound(self) -> bool:
        return not self.reason


class Fault(Exception):
    """What is wrong with a line."""


class _Node(NamedTuple):
    state: State
    path: tuple[str, ...]
    children: set[State]
    dead: list[bool]  # empty until it is said


class _Reader:
    """What the lines read so far say."""

    def __init__(self, space: Space, names: tuple[str, ...]) -> None:
        self._space, self._names = space, names
        self.nodes = [_Node(space.start, (), set(), [])]
        self.back = 0
        self.ended = False
        self._lines = 0
        self._at = -1
        self._idle = False  # the visit has led to nothing yet
        self._goal = -1  # a node that must be said to be the goal
        self._ending: list[str] | None = None  # steps still to come

    @property
    def solved(self) -> bool:
        return self._ending == []

    def take(self, line: str) -> None:
        """Fault if the line is wrong."""
        words = line.split(" ")
        mark, first = words[0], self._lines == 0
        self._lines += 1
        if self._ending is not None:
            if not self._ending or line != self._ending.pop(0):
                raise Fault("is not the next step to the goal")
            self.ended = not self._ending
        elif self.ended:
            raise Fault("comes after the end")
        elif self._goal >= 0 and mark != GOAL:
            raise Fault("goes on behind a goal")
        elif self._idle and mark not in (NEW, DEAD):
            raise Fault("leaves a node where nothing was done")
        elif mark in (DFS, BFS):
            if not first or named(line, self._names) is None:
                raise Fault("is no header")
        elif mark == AT:
            self._visit(words)
        elif mark == NEW:
            self._new(words)
        elif mark == DEAD and len(words) == 1:
            if self._at < 0 or self.nodes[self._at].dead:
                raise Fault("gives up no node")
            self.nodes[self._at].dead.append(True)
            self._idle = False
        elif mark == GOAL:
            if self._goal < 0 or words[1:] != [ordinal(self._goal)]:
                raise Fault("is not a goal that was just found")
            self._ending = list(self.nodes[self._goal].path)
        elif mark == FAIL and len(words) == 1:
            self.ended = True
        else:
            raise Fault("is no line of a search")

    def _visit(self, words: list[str]) -> None:
        id = number(words[1]) if len(words) > 1 else -1
        if not 0 <= id < len(self.nodes):
            raise Fault("visits a node that was not found")
        if id == self._at:
            raise Fault("goes to where the search is")
        node = self.nodes[id]
        if node.dead:
            raise Fault("visits a node that was given up")
        if " ".join(words[2:]) != self._space.shown(node.state):
            raise Fault("is not that node's state")
        self.back += id < len(self.nodes) - 1
        self._at, self._idle = id, True

    def _new(self, words: list[str]) -> None:
        if self._at < 0 or self.nodes[self._at].dead:
            raise Fault("is a child of no node")
        if len(words) < 3 or words[1] != ordinal(len(self.nodes)):
            raise Fault("has not the next number")
        node, step = self.nodes[self._at], " ".join(words[2:])
        found = [c for c in self._space.children(node.state) if c.step == step]
        if not found:
            raise Fault("is no step from that node")
        state = found[0].state
        if state in node.children:
            raise Fault("was found before")
        node.children.add(state)
        self.nodes.append(_Node(state, (*node.path, step), set(), []))
        self._idle = False
        if self._space.solved(state):
            self._goal = len(self.nodes) - 1


def verify(space: Space, text: str, names: tuple[str, ...] = ()) -> Verdict:
    """Whether a whole trace is sound. `names`: of the heuristics that a header may use.

    Reads MAX_RESPONSE characters, what is longer is not closed.
    """
    steps, _, rest = split_steps(text)
    reader = _Reader(space, names)
    reason, read = "", 0
    try:
        for line in steps:
            reader.take(line.removeprefix(" ").removesuffix(" "))
            read += 1
        if rest.strip() or not reader.ended:
            reason = "has no end"
    except Fault as fault:
        reason = str(fault)
    return Verdict(
        reason=reason,
        line=read,
        solved=not reason and reader.solved,
        nodes=len(reader.nodes),
        back=reader.back,
    )


def named(line: str, names: tuple[str, ...]) -> tuple[str, int, str] | None:
    """(mark, width, heuristic) of a header; None if the line is none."""
    words = line.split(" ")
    if len(words) != 3 or words[0] not in (DFS, BFS) or words[2] not in names:
        return None
    widths = {f"w{width}": width for width in grammar.WIDTHS}
    if words[1] not in widths:
        return None
    return words[0], widths[words[1]], words[2]


def follows(space: Space, text: str, names: tuple[str, ...], limits: Limits) -> bool:
    """Whether the text is the very search that its header names."""
    header = named(split_steps(text)[0][0].strip() if ";" in text else "", names)
    if header is None:
        return False
    return text == grammar.response(search(space, *header, limits).lines)
