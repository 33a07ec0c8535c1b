"""Several tasks in one stage, each with its weight.

In: tasks and weights. Out: a task whose examples are theirs: example i is one of the
task that a draw from (seed, split, i) names, so the mixture is the same at every call
and its splits are as disjoint as theirs. Weights count examples, not tokens. A task of
weight 0 brings its words alone, for a later run that goes on with these parameters.
Of a user's questions, of which valid and test hold so many, each is asked once.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from o1jax.config import configurable
from o1jax.tasks.task import SPLITS, Example, StepCheck, Task


@dataclass(frozen=True)
class Mixed(Example):
    """An example that knows which task it is of."""

    part: int = 0


@configurable
@dataclass(frozen=True)
class Mixture:
    """What a stage learns from, where it is more than one thing."""

    tasks: tuple[Task, ...] = ()
    weights: tuple[float, ...] = ()  # of examples, any positive scale; (): all equal

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ValueError("tasks is empty: nothing to mix")
        if self.weights and len(self.weights) != len(self.tasks):
            raise ValueError(
                f"weights: {len(self.weights)} of them for {len(self.tasks)} tasks"
            )
        if any(not weight >= 0 for weight in self.weights):
            raise ValueError("weights must not be negative")
        if self.weights and not sum(self.weights) > 0:
            raise ValueError("weights are all 0: nothing is left to learn from")

    @property
    def shares(self) -> tuple[float, ...]:
        """Of each task, in [0, 1]; they add up to 1."""
        weights = self.weights or (1.0,) * len(self.tasks)
        return tuple(weight / sum(weights) for weight in weights)

    @property
    def name(self) -> str:
        parts = zip(self.shares, self.tasks)
        return " + ".join(f"{share:.2f} {task.name}" for share, task in parts if share)

    @property
    def value_needs_answer(self) -> bool:
        return any(task.value_needs_answer for task in self.tasks)

    def symbols(self) -> list[str]:
        """The words of all tasks."""
        words = [word for task in self.tasks for word in task.symbols()]
        return list(dict.fromkeys(words))

    def within(self, folder: Path) -> "Mixture":
        """The same, of a run in `folder` (data/recorded.py)."""
        own = lambda t: t.within(folder) if hasattr(t, "within") else t
        return Mixture(tuple(map(own, self.tasks)), self.weights)

    def example(self, seed: int, split: str, index: int) -> Mixed:
        """Example `index` of the task that was drawn for it."""
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}; choose from {SPLITS}")
        part = _part(self.shares, seed, split, index)
        task, number = self.tasks[part], index
        if split != "train" and getattr(task, "finite", False):
            earlier = (_part(self.shares, seed, split, i) for i in range(index))
            number = sum(i == part for i in earlier)
        return _mixed(task.example(seed, split, number), part)

    def parse(self, question: str) -> Mixed:
        """An example of the first task that knows an answer, else that can read it."""
        why, read = [], []
        for part, task in enumerate(self.tasks):
            try:
                read.append(_mixed(task.parse(question), part))
            except ValueError as error:
                why.append(f"{task.name}: {error}")
        if not read:
            raise ValueError(f"no task of the mixture reads it: {'; '.join(why)}")
        return next((example for example in read if example.answer), read[0])

    def grade(self, example: Example, response: str) -> float:
        """As the example's own task does."""
        return self._of(example).grade(example, response)

    def check_steps(self, example: Example, response: str) -> list[StepCheck]:
        """As the example's own task does."""
        return self._of(example).check_steps(example, response)

    def state_value(self, example: Example, steps: Sequence[str]) -> float | None:
        """As the example's own task does."""
        return self._of(example).state_value(example, steps)

    def measure(
        self, examples: Sequence[Example], texts: Iterable[str]
    ) -> dict[str, float]:
        """Shares of what texts show, of the tasks that can tell; NAME/ before each."""
        pairs = list(zip(examples, texts, strict=True))
        found: dict[str, float] = {}
        for part, task in enumerate(self.tasks):
            own = [pair for pair in pairs if getattr(pair[0], "part", 0) == part]
            measure: Callable[..., dict] | None = getattr(task, "measure", None)
            if own and measure is not None:
                shares = measure(*map(list, zip(*own)))
                found |= {f"{task.name}/{name}": x for name, x in shares.items()}
        return found

    def _of(self, example: Example) -> Task:
        if not isinstance(example, Mixed):
            raise ValueError("the example is of no mixture: it does not name its task")
        return self.tasks[example.part]


@functools.lru_cache(maxsize=65_536)
def _part(shares: tuple[float, ...], seed: int, split: str, index: int) -> int:
    """Which task example `index` is of."""
    rng = np.random.default_rng([seed, SPLITS.index(split), index, 2])
    part = int(np.searchsorted(np.cumsum(shares), rng.random(), side="right"))
    # The shares may add up to a little less than 1.
    return min(part, max(i for i, share in enumerate(shares) if share))


def _mixed(example: Example, part: int) -> Mixed:
    values: dict[str, Any] = {f.name: getattr(example, f.name) for f in fields(Example)}
    return Mixed(**values, part=part)
