"""A user's questions as a task: sampled, graded and searched like those made here.

In: a JSONL file or a prepared dataset of questions with answers, and what compares
answers. Out: a task. Its train questions come again in another order when all were
asked; of valid and test there are so many and no more. Steps are not judged.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from o1jax.config import configurable
from o1jax.data.datasets import DatasetConfig, read_questions
from o1jax.tasks.mathematics import VERIFIERS
from o1jax.tasks.task import SPLITS, Example, StepCheck

Verifier = Literal["math", "number", "words"]


@configurable
@dataclass(frozen=True)
class Questions:
    """Questions from files, graded by their final answers (tasks/final.py)."""

    dataset: DatasetConfig
    # math: however it is written, by math-verify (extra `math`); number: the same
    # number; words: the same words.
    verifier: Verifier = "math"
    # The answer is a last step of its own, `<answer> 42 </answer>`, for a template that
    # marks none, such as that of the synthetic tasks.
    answer_step: bool = False

    value_needs_answer = True
    finite = True  # valid and test come to an end

    def __post_init__(self) -> None:
        if self.verifier not in get_args(Verifier):
            raise ValueError(f"verifier must be one of {', '.join(get_args(Verifier))}")

    @property
    def name(self) -> str:
        return "questions"

    @functools.cached_property
    def _splits(self) -> dict[str, list[Example]]:
        splits = read_questions(self.dataset)
        if not self.answer_step:
            return splits
        step = lambda e: (*e.steps, f"<answer> {e.answer} </answer>")
        whole = lambda e: replace(e, steps=step(e))
        return {split: list(map(whole, each)) for split, each in splits.items()}

    def example(self, seed: int, split: str, index: int) -> Example:
        """Question `index` of a split; those of train in the order of the seed."""
        if split not in SPLITS:
            raise ValueError(
                f"unknown split {split!r}; choose from {', '.join(SPLITS)}"
            )
        examples = self._splits.get(split, [])
        if not examples or (split != "train" and index >= len(examples)):
            raise ValueError(
                f"{self.dataset.path} has {len(examples)} {split} questions: number "
                f"{index} was asked for"
            )
        if split != "train":
            return examples[index]
        again, place = divmod(index, len(examples))
        return examples[_order(seed, again, len(examples))[place]]

    def parse(self, question: str) -> Example:
        """The question of the files with these words; else one without an answer."""
        words = question.split()
        known = (e for examples in self._splits.values() for e in examples)
        found = (example for example in known if example.question.split() == words)
        return next(found, Example(question.strip(), (), "", 0))

    def grade(self, example: Example, response: str) -> float:
        """1.0 if the final answer is right; 0.0 also where none is known."""
        if not example.answer:
            return 0.0
        return VERIFIERS[self.verifier](response, example.answer)

    def check_steps(self, example: Example, response: str) -> list[StepCheck]:
        """None: nothing is known of steps."""
        return []

    def state_value(self, example: Example, steps: Sequence[str]) -> float | None:
        """Unknown."""
        return None

    def symbols(self) -> list[str]:
        """None: its questions are text for a tokenizer of text."""
        return []


@functools.lru_cache(maxsize=8)
def _order(seed: int, again: int, count: int) -> np.ndarray:
    return np.random.default_rng([seed, again]).permutation(count)
