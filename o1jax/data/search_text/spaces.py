"""What a search written as text moves in: states, their children, two heuristics.

In: a task and an example. Out: a Space. A child's step is one the task's own verifier
takes, but for a countdown's last step onto a wrong number, which a search may try.
Countdown's heuristics are those of Gandhi et al. 2024, arXiv 2404.03683.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from o1jax.data.behaviours.graph_writer import graph_step
from o1jax.tasks.countdown import Countdown, legal_moves
from o1jax.tasks.graph import Graph, Problem, inputs
from o1jax.tasks.steps import StepTask
from o1jax.tasks.task import Example

State = Any


class Child(NamedTuple):
    """One step on from a state."""

    step: str
    state: State


class Space(Protocol):
    """One question, as a search sees it."""

    start: State

    def children(self, state: State) -> tuple[Child, ...]:
        """In a fixed order, no two with the same state."""
        ...

    def solved(self, state: State) -> bool: ...

    def shown(self, state: State) -> str:
        """The state in words; the empty text for one without any."""
        ...

    def score(self, heuristic: str, state: State) -> float:
        """How far the state seems from an answer; less is better."""
        ...


HEURISTICS = {Countdown: ("sum", "factor"), Graph: ("readers", "inputs")}


def heuristics(task: StepTask) -> tuple[str, str]:
    """The names of a task's two. ValueError for a task that has no space."""
    for kind, names in HEURISTICS.items():
        if isinstance(task, kind):
            return names
    known = ", ".join(sorted(kind.__name__ for kind in HEURISTICS))
    raise ValueError(f"task is {type(task).__name__}; searches are over {known}")


def space(task: StepTask, example: Example) -> Space:
    """The space of a question. ValueError if it is malformed."""
    heuristics(task)
    state = task.start(example)
    if isinstance(task, Countdown):
        return CountdownSpace(state.remaining, state.target, task.max_value)
    return GraphSpace(state.problem, example.difficulty)


class CountdownSpace:
    """States are the remaining numbers; moves to the same numbers are one.

    sum: of distances to the target. factor: of distances to its nearest factor.
    """

    def __init__(
        self, numbers: tuple[int, ...], target: int, max_value: int = 100
    ) -> None:
        self.start = numbers
        self._target, self._most = target, max_value

    def children(self, state: State) -> tuple[Child, ...]:
        return _moves(state, self._most)

    def solved(self, state: State) -> bool:
        return state == (self._target,)

    def shown(self, state: State) -> str:
        return " ".join(map(str, state))

    def score(self, heuristic: str, state: State) -> float:
        target = self._target
        near = (target,) if heuristic == "sum" else _factors(target)
        return sum(min(abs(n - t) for t in near) for n in state)


@functools.lru_cache(maxsize=2**15)
def _moves(numbers: tuple[int, ...], max_value: int) -> tuple[Child, ...]:
    found: dict[tuple[int, ...], Child] = {}
    for move in legal_moves(numbers, max_value):
        found.setdefault(move.remaining, Child(move.step, move.remaining))
    return tuple(found.values())


@functools.cache
def _factors(n: int) -> tuple[int, ...]:
    return tuple(f for f in range(1, n + 1) if n % f == 0)


class GraphSpace:
    """States are the known variables, in the order of the alphabet.

    A path may have as many steps as the query needs variables, so whoever computes one
    that is not needed is in a dead end. readers: of the known ones, most first; inputs:
    of the known ones, most first, since such are nearer to the query.
    """

    def __init__(self, problem: Problem, steps: int) -> None:
        self.start: State = ()
        self._problem, self._steps = problem, steps
        reads = [inputs(d) for d in problem.definitions.values()]
        self._readers = {
            name: sum(name in read for read in reads) for name in problem.definitions
        }
        self._cached: Callable[[State], tuple[Child, ...]] = functools.cache(
            self._ready
        )

    def children(self, state: State) -> tuple[Child, ...]:
        return self._cached(state)

    def _ready(self, state: State) -> tuple[Child, ...]:
        definitions, values, query = self._problem
        if len(state) >= self._steps or query in state:
            return ()
        return tuple(
            Child(
                graph_step(definition, name, values[name]),
                tuple(sorted((*state, name))),
            )
            for name, definition in definitions.items()
            if name not in state and all(s in state for s in inputs(definition))
        )

    def solved(self, state: State) -> bool:
        return self._problem.query in state

    def shown(self, state: State) -> str:
        return " ".join(state)

    def score(self, heuristic: str, state: State) -> float:
        if heuristic == "readers":
            return -sum(self._readers[name] for name in state)
        return -sum(len(inputs(self._problem.definitions[name])) for name in state)
