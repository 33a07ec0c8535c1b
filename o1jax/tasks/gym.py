"""Any family of reasoning-gym as a task, by its name (extra `gym`).

In: the family and its options. Out: a task whose question i of a split is a function of
(seed, split, i), as everywhere; its scorer's grade is 1 or 0, since garbage may earn
up to 0.11 there and nearly the answer 0.99. Generators and scorers run in a worker
process, with a time-out. Source: Stojanovski et al. 2025, arXiv 2505.24760.
"""

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from o1jax.config import configurable, nearest
from o1jax.tasks.final import find_answer, plain
from o1jax.tasks.task import Example, StepCheck, draw
from o1jax.tasks.worker import Reply, shared_worker

PROCESS = "o1jax.tasks.gym_process:call"
NUMBERS = 1 << 31  # questions of a family are drawn among so many
SECONDS = 10.0  # of processor time for a question or a score
MAX_ANSWER = 65_536  # characters; a longer one is wrong
_BY_NUMBER = re.compile(r"#([0-9]{1,9})")


@configurable
@dataclass(frozen=True)
class Gym:
    """One of the families of `benchmarks/gym_families.py`; its answers have no steps.

    A response answers with what tasks/final.py finds in it.
    """

    family: str = "chain_sum"
    # Of the family's own config: (("min_terms", 2), ("max_terms", 3)).
    options: tuple[tuple[str, Any], ...] = ()
    threshold: float = 0.999  # the least score of a right answer

    value_needs_answer = True

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise ValueError(f"threshold must be in (0, 1], got {self.threshold}")
        names = [name for name, _ in self.options]
        for name in names:
            if name in ("seed", "size") or names.count(name) > 1:
                raise ValueError(f"options: {name!r} is set elsewhere, or twice")
        try:
            hash(self.options)
        except TypeError:
            raise ValueError("options: a value is a list, write a tuple") from None

    @property
    def name(self) -> str:
        return f"gym-{self.family}"

    def symbols(self) -> list[str]:
        """None: its questions are text for a tokenizer of text."""
        return []

    def example(self, seed: int, split: str, index: int) -> Example:
        """Question `index` of `split`: the same at every call, on every machine."""
        return _example(self, seed, split, index)

    def numbered(self, number: int) -> Example | None:
        """Question `number` of the family, of whatever split; None if it has a fault.

        ValueError if the family can't make questions with these options.
        """
        made = self._ask("make", number)
        if made.fault:
            raise ValueError(f"{self.name}, question {number}: {made.fault}")
        if made.value is None:
            return None
        return Example(
            question=made.value["question"].strip(),
            steps=tuple(made.value["steps"]),
            answer=made.value["answer"],
            difficulty=len(made.value["steps"]),
            hidden=number,
        )

    def parse(self, question: str) -> Example:
        """Question `#12` of the test split; others have no answer to be known."""
        if not (found := _BY_NUMBER.fullmatch(question.strip())):
            raise ValueError(
                f"{self.name} asks its own questions: give the number of one, as '#12'"
            )
        return self.example(0, "test", int(found[1]))

    def grade(self, example: Example, response: str) -> float:
        """1.0 if the family's scorer gives the threshold to the answer, else 0.0."""
        return float(self.score(example, response) >= self.threshold)

    def score(self, example: Example, response: str) -> float:
        """What the scorer gives to the answer, or to it without marks around it."""
        if example.hidden is None:
            raise ValueError(f"{self.name}: the question's number is not known")
        found = find_answer(response)
        answers = [a for a in dict.fromkeys((found, plain(found))) if a]
        best = 0.0
        for answer in answers:
            if len(answer) <= MAX_ANSWER and best < self.threshold:
                scored = self._ask("score", example.hidden, answer)
                best = max(best, 0.0 if scored.fault else scored.value)
        return best

    def check_steps(self, example: Example, response: str) -> list[StepCheck]:
        """None: nothing is known of steps."""
        return []

    def state_value(self, example: Example, steps: Sequence[str]) -> float | None:
        """Unknown."""
        return None

    def _ask(self, what: str, *args: Any) -> Reply:
        if self.family not in families():
            raise ValueError(
                f"reasoning-gym has no family {self.family!r}"
                f"{nearest(self.family, families())}"
            )
        return _worker()(what, self.family, self.options, *args)


@functools.lru_cache(maxsize=8192)
def _example(task: Gym, seed: int, split: str, index: int) -> Example:
    def make(rng: np.random.Generator) -> Example:
        example = None
        while example is None:
            example = task.numbered(int(rng.bit_generator.random_raw() % NUMBERS))
        return example

    return draw(make, seed, split, index)


@functools.cache
def families() -> tuple[str, ...]:
    """The names of all families. ValueError if the library is not installed."""
    try:
        return tuple(_worker()("families").value)
    except ValueError as error:
        if "No module named 'reasoning_gym'" not in str(error):
            raise
    raise ValueError("tasks of reasoning-gym need it: pip install 'o1jax[gym]'")


def _worker() -> Any:
    return shared_worker(PROCESS, SECONDS)
