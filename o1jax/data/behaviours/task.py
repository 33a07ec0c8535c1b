"""A task whose solutions show reasoning behaviours, with the switches for a file.

In: a synthetic task. Out: a task of the same questions, so that every stage can train
on it, sample from it and grade it. A text is right if no move in it is malformed,
nothing is left unclosed, and the steps that stand at its end are right and answer the
question: mistakes that were taken back cost nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Literal

import numpy as np

from o1jax.config import configurable
from o1jax.data.behaviours import marks, meter
from o1jax.data.behaviours.author import write
from o1jax.data.behaviours.draft import Text, bare
from o1jax.data.behaviours.walk import Walk
from o1jax.data.behaviours.writers import writer
from o1jax.data.template import Template
from o1jax.tasks import Chain
from o1jax.tasks.steps import MAX_RESPONSE, check_int, integers
from o1jax.tasks.task import SPLITS, Example, StepCheck, Task


@configurable
@dataclass(frozen=True)
class Behaviours:
    """Chances of six behaviours: 0 turns one off.

    The defaults are a mixture of all. Retry data is correction alone: set the others to
    0, and correction to the rate at which a step is first written wrong.
    """

    task: Task = field(default_factory=Chain)
    analysis: float = 1.0  # of a text: the question restated, with what it needs
    decomposition: float = 1.0  # of a text: a plan
    completion: float = 1.0  # of a text: worked steps, instead of the answer alone
    alternatives: float = 0.2  # of a step: another way first
    evaluation: float = 0.5  # behind a step: a check, with the chance of being right
    correction: float = 0.2  # of a step: a mistake, again and again, and taken back
    delay: int = 0  # at most so many steps follow a mistake before it is noticed
    numbered: bool = True  # a correction names the wrong step; else it is the last one
    false_accept: float = 0.0  # of checks of wrong steps
    false_reject: float = 0.0  # of checks of right steps; it is then written again
    # "weak": a later step of the solution, which is cheap and needs no idea of what a
    # mistake is; "plain": the task's own mistakes.
    mistakes: Literal["plain", "weak"] = "plain"
    masked: bool = False  # mistakes are read, but not learned
    max_words: int = 0  # of a response; 0: no limit

    def __post_init__(self) -> None:
        for own in fields(self):
            value = getattr(self, own.name)
            if own.type is float and not 0 <= value <= 1:
                raise ValueError(f"{own.name} must be from 0 to 1")
        if self.correction == 1:
            raise ValueError("correction must be below 1: no mistake is the last one")
        check_int(self, "delay", 0, 64)
        check_int(self, "max_words", 0, MAX_RESPONSE)
        if self.mistakes not in ("plain", "weak"):
            raise ValueError("mistakes must be 'plain' or 'weak'")
        if self.mistakes == "weak" and self.delay:
            raise ValueError("delay: nothing follows from a weak mistake")
        if self.delay and not self.numbered:
            raise ValueError("delay: a mistake that others follow must be numbered")
        if self.completion < 1 and not self.task.value_needs_answer:
            raise ValueError(
                f"completion must be 1: the answer to {self.task.name} is its steps"
            )
        writer(self.task)  # refuses a task that nobody can write about

    @property
    def name(self) -> str:
        return f"{self.task.name}-behaviours"

    @property
    def value_needs_answer(self) -> bool:
        return self.task.value_needs_answer

    def symbols(self) -> list[str]:
        """Words that the tokenizer keeps as one piece each."""
        own = writer(self.task)
        words = [*self.task.symbols(), *own.words, *marks.symbols(own.most_steps)]
        return list(dict.fromkeys(words))

    def example(self, seed: int, split: str, index: int) -> Example:
        """The task's own example of that number, with a text drawn about it."""
        example = self.task.example(seed, split, index)
        below = integers(np.random.default_rng([seed, SPLITS.index(split), index, 1]))
        return write(self.task, writer(self.task), example, self, below).as_example()

    def parse(self, question: str) -> Example:
        """A user's question, with the plain steps of a solution."""
        return bare(self.task.parse(question)).as_example()

    def grade(self, example: Example, response: str) -> float:
        """1.0 if the steps that stand at the end of the text answer the question.

        An answer without steps counts only where `completion` is below 1.
        """
        walk = Walk(self.task, own_example(example))
        found, rest = marks.segments(response)
        if len(response) > MAX_RESPONSE or rest.strip():
            return 0.0
        for segment in found:
            walk.take(segment)
        return float(walk.done and (walk.given is None or self.completion < 1))

    def check_steps(self, example: Example, response: str) -> list[StepCheck]:
        """Of each segment, whether the steps that stand behind it are right.

        So a mistake is wrong until it is taken back.
        """
        walk, checks = Walk(self.task, own_example(example)), []
        for segment in marks.segments(response)[0]:
            walk.take(segment)
            fault = walk.fault
            if walk.given is not None and not fault:
                fault = "" if walk.done else "is not the answer"
            checks.append(StepCheck(segment.end, not fault, fault))
        return checks

    def state_value(self, example: Example, steps: Sequence[str]) -> float:
        """Best outcome of the steps that stand, if nothing more is taken back."""
        walk = Walk(self.task, own_example(example))
        for segment in marks.segments("".join(f"{step};" for step in steps))[0]:
            walk.take(segment)
        return float(walk.alive if walk.given is None else walk.done)

    def measure(
        self, examples: Sequence[Example], texts: Sequence[str]
    ) -> dict[str, float]:
        """Shares of behaviours among sampled texts, see meter.rates."""
        return meter.rates(self.task, [own_example(e) for e in examples], texts)


def own_example(example: Example) -> Example:
    """The task's own example, of one whose steps are a text about it."""
    if isinstance(example.hidden, Text):
        return example.hidden.example
    return Example(example.question, (), example.answer, example.difficulty)


@configurable
@dataclass(frozen=True)
class PathTemplate(Template):
    """Reads the steps that stand, so that votes are about answers, not about marks."""

    def parse(self, response: str) -> tuple[tuple[str, ...], str]:
        """(steps that stand, the last of them) of any text at all."""
        walk = Walk(_Anything(), Example("", (), "", 0))
        found, rest = marks.segments(response)
        for segment in found:
            walk.take(segment)
        if walk.given is not None:
            return (), walk.given
        steps = tuple(walk.steps)
        closed = steps and not rest.strip() and not walk.broken
        return steps, steps[-1] if closed else ""


class _Anything:
    """A task of which every step is right."""

    def start(self, example: Example) -> tuple:
        return ()

    def advance(self, state: tuple, step: str) -> tuple[tuple, str]:
        return state, ""
