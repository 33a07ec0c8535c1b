"""A task: an endless supply of questions with a verifier and a step-level oracle.

A task is itself a frozen dataclass of difficulty knobs, so an experiment file binds it
directly (`Experiment.task = @Countdown()`). Example i of a split is a pure function of
(seed, split, i). Splits are disjoint by construction: a question belongs to the split
that a hash of its text says, and drawing goes on until the hash agrees.

A response is steps, each closed by STEP_END; the last step carries the answer.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

STEP_END = ";"
SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Example:
    """One question with one worked solution."""

    question: str
    steps: tuple[str, ...]  # without STEP_END
    answer: str
    difficulty: int  # the knob that bins results, e.g. the number of steps
    hidden: Any = field(default=None, compare=False)  # the task's own parsed form


class StepCheck(NamedTuple):
    """The oracle's verdict on one step of a response."""

    end: int  # character offset in the response just behind the step's STEP_END
    correct: bool  # this step and every step before it are right
    reason: str  # "" or what is wrong, in a few words


@runtime_checkable
class Task(Protocol):
    """What the rest of the package may ask of a task."""

    # Whether state_value knows more than the question. If it does, it may guide a
    # search for training data, but never one that is then graded.
    value_needs_answer: bool

    @property
    def name(self) -> str: ...

    def example(self, seed: int, split: str, index: int) -> Example:
        """Example `index` of `split`: the same at every call, on every machine."""
        ...

    def parse(self, question: str) -> Example:
        """An Example from a user's question; ValueError says what is malformed.

        `steps` and `answer` are empty where no solution was found.
        """
        ...

    def grade(self, example: Example, response: str) -> float:
        """Outcome in [0, 1] of any text at all, in bounded time."""
        ...

    def check_steps(self, example: Example, response: str) -> list[StepCheck]:
        """The exact verdict on each step, in order."""
        ...

    def state_value(self, example: Example, steps: Sequence[str]) -> float | None:
        """Best outcome still reachable after these steps; None if unknown."""
        ...

    def symbols(self) -> list[str]:
        """Words that the tokenizer keeps as one piece each."""
        ...


def split_of(question: str) -> str:
    """The split a question belongs to: 14/16 train, 1/16 valid, 1/16 test."""
    bucket = hashlib.blake2b(question.encode(), digest_size=1).digest()[0] % 16
    return {0: "valid", 1: "test"}.get(bucket, "train")


def draw(
    make: Callable[[np.random.Generator], Example], seed: int, split: str, index: int
) -> Example:
    """The first example made from (seed, split, index) that belongs to the split.

    Raises ValueError for an unknown split, or if 10,000 draws hit no example of it
    (the task's knobs leave too few questions).
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; choose from {', '.join(SPLITS)}")
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    for _ in range(10_000):
        example = make(rng)
        if split_of(example.question) == split:
            return example
    raise ValueError(f"no {split} example in 10,000 draws: the task has few questions")
