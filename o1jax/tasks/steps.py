"""What the tasks with a step oracle share: a response is a walk over states.

In: a response, any text at all. Out: its steps, the verdict on each one, the outcome.
A task says where the walk starts, how one step moves it, and where it is done; a fault
ends the walk. Responses beyond MAX_RESPONSE characters are wrong, so work is bounded.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from o1jax.tasks.task import STEP_END, Example, StepCheck, draw

MAX_RESPONSE = 16_384  # characters; the longest right response of any task is below 2k
MAX_QUESTION = 4_096

State = Any


def split_steps(response: str) -> tuple[list[str], list[int], str]:
    """Closed steps, the offset behind each one's STEP_END, and the unclosed rest.

    Reads the first MAX_RESPONSE characters only.
    """
    *steps, rest = response[:MAX_RESPONSE].split(STEP_END)
    ends, end = [], 0
    for step in steps:
        end += len(step) + len(STEP_END)
        ends.append(end)
    return steps, ends, rest


class StepTask:
    """Grades responses by walking over states; a task fills in the five below."""

    value_needs_answer = True

    def make(self, rng: np.random.Generator) -> Example:
        """One random example; which split it belongs to does not matter here."""
        raise NotImplementedError

    def start(self, example: Example) -> State:
        """The state before the first step. ValueError if the question is malformed."""
        raise NotImplementedError

    def advance(self, state: State, step: str) -> tuple[State, str]:
        """The state after a step and "", or the same state and what is wrong."""
        raise NotImplementedError

    def done(self, state: State) -> bool:
        """Whether the question is answered."""
        raise NotImplementedError

    def value(self, state: State) -> float:
        """1.0 if the question can still be answered from here, else 0.0."""
        raise NotImplementedError

    def example(self, seed: int, split: str, index: int) -> Example:
        """Example `index` of `split`: the same at every call, on every machine."""
        return draw(self.make, seed, split, index)

    def grade(self, example: Example, response: str) -> float:
        """1.0 if every step is right and closed and the last one answers, else 0.0."""
        state = self.start(example)
        steps, _, rest = split_steps(response)
        if len(response) > MAX_RESPONSE or rest.strip():
            return 0.0
        for step in steps:
            state, fault = self.advance(state, step)
            if fault:
                return 0.0
        return float(self.done(state))

    def check_steps(self, example: Example, response: str) -> list[StepCheck]:
        """The exact verdict on each closed step within MAX_RESPONSE characters."""
        state, fault, checks = self.start(example), "", []
        steps, ends, _ = split_steps(response)
        for step, end in zip(steps, ends):
            if fault:
                fault = "follows a wrong step"
            else:
                state, fault = self.advance(state, step)
            checks.append(StepCheck(end, not fault, fault))
        return checks

    def state_value(self, example: Example, steps: Sequence[str]) -> float:
        """Best outcome still reachable after these steps, exact; 0.0 after a fault."""
        state = self.state_after(example, steps)
        return 0.0 if state is None else self.value(state)

    def state_after(self, example: Example, steps: Sequence[str]) -> State | None:
        """Where these steps lead, whatever way they took; None after a fault."""
        state = self.start(example)
        for step in steps:
            state, fault = self.advance(state, step)
            if fault:
                return None
        return state


def integers(rng: np.random.Generator) -> Callable[[int], int]:
    """A function n -> uniform integer in [0, n), for n far below 2**64.

    It reads the raw bits of `rng`, whose stream NumPy keeps the same across versions
    (that of `rng.integers` may change); 0.2 us a call against 2 us.
    """
    words: list[int] = []

    def below(n: int) -> int:
        if not words:
            words.extend(rng.bit_generator.random_raw(32).tolist())
        return (words.pop() * n) >> 64

    return below


def check_int(task: object, field: str, low: int, high: int) -> None:
    """Raise ValueError unless the task's field is an int in [low, high]."""
    value = getattr(task, field)
    if type(value) is not int or not low <= value <= high:
        raise ValueError(
            f"{type(task).__name__}.{field} must be a whole number "
            f"from {low} to {high}, got {value!r}"
        )


def malformed(task: str, question: str, why: str) -> ValueError:
    """The error for a question that `task` can't read, in one bounded line."""
    shown = question if len(question) <= 60 else question[:57] + "..."
    return ValueError(f"{task} question {shown!r}: {why}")
