"""Chain: n steps of arithmetic modulo m, one residue a step.

Question `7 + 5 * 3 - 2 =`, read strictly left to right; response `12 ; 13 ; 11 ;`.
Multipliers are coprime with m (so never 0): each operation is then a bijection, and a
later right step never heals a wrong value. Difficulty is the number of steps.
"""

import functools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from o1jax.config import configurable
from o1jax.tasks.steps import MAX_QUESTION, StepTask, check_int, integers, malformed
from o1jax.tasks.task import STEP_END, Example

OPERATORS = "+-*"
MAX_STEPS = 64

# Blanks are optional in a user's question; [0-9] keeps other scripts' digits out.
_QUESTION = re.compile(r"\s*[0-9]{1,4}(?:\s*[-+*]\s*[0-9]{1,4})+\s*=?\s*")
_WORD = re.compile(r"[0-9]+|[-+*]")

Operation = tuple[str, int]
State = tuple[str, ...]  # the residues still to write


class Residues(tuple):
    """Those of a whole question: what tells a chain's parsed form from other tasks'."""


def apply(operator: str, left: int, right: int, modulus: int) -> int:
    """`left operator right` modulo m, for + - and *."""
    if operator == "+":
        return (left + right) % modulus
    if operator == "-":
        return (left - right) % modulus
    return left * right % modulus


@functools.cache
def units(modulus: int) -> tuple[int, ...]:
    """The residues coprime with the modulus: multiplying by them loses nothing."""
    return tuple(k for k in range(1, modulus) if math.gcd(k, modulus) == 1)


@configurable
@dataclass(frozen=True)
class Chain(StepTask):
    """Arithmetic modulo `modulus`; the number of steps is uniform in a range."""

    min_steps: int = 4
    max_steps: int = 8
    modulus: int = 23
    operators: str = OPERATORS

    def __post_init__(self) -> None:
        check_int(self, "modulus", 2, 1000)
        check_int(self, "min_steps", 1, MAX_STEPS)
        check_int(self, "max_steps", self.min_steps, MAX_STEPS)
        chosen = self.operators
        if not isinstance(chosen, str) or not chosen or set(chosen) - set(OPERATORS):
            raise ValueError(
                f"Chain.operators must be characters of {OPERATORS!r}, got {chosen!r}"
            )
        if len(set(chosen)) < len(chosen):
            raise ValueError(f"Chain.operators names one twice: {chosen!r}")

    @property
    def name(self) -> str:
        return "chain"

    def symbols(self) -> list[str]:
        """Words that the tokenizer keeps as one piece each."""
        return [STEP_END, "=", *self.operators, *map(str, range(self.modulus))]

    def make(self, rng: np.random.Generator) -> Example:
        """One random example."""
        below, modulus = integers(rng), self.modulus
        multipliers = units(modulus)
        operations = []
        for _ in range(self.min_steps + below(self.max_steps - self.min_steps + 1)):
            operator = self.operators[below(len(self.operators))]
            if operator == "*":
                operations.append(("*", multipliers[below(len(multipliers))]))
            else:
                operations.append((operator, below(modulus)))
        return self._example(below(modulus), operations)

    def parse(self, question: str) -> Example:
        """A user's question such as `7 + 5 * 3 - 2`, with or without its `=`."""
        if len(question) > MAX_QUESTION or not _QUESTION.fullmatch(question):
            raise malformed("chain", question, "expected the form 7 + 5 * 3 - 2 =")
        first, *words = _WORD.findall(question)
        start, operations = int(first), list(zip(words[::2], map(int, words[1::2])))
        if len(operations) > MAX_STEPS:
            raise malformed("chain", question, f"more than {MAX_STEPS} steps")
        for operator, number in [("", start), *operations]:
            if number >= self.modulus:
                why = f"{number} is not below the modulus {self.modulus}"
                raise malformed("chain", question, why)
            if operator not in self.operators:
                why = f"{operator} is not one of this task's {self.operators}"
                raise malformed("chain", question, why)
        return self._example(start, operations)

    def _example(self, value: int, operations: Sequence[Operation]) -> Example:
        words, steps = [str(value)], []
        for operator, number in operations:
            value = apply(operator, value, number, self.modulus)
            words += (operator, str(number))
            steps.append(str(value))
        return Example(
            question=" ".join(words) + " =",
            steps=tuple(steps),
            answer=steps[-1],
            difficulty=len(steps),
            hidden=Residues(steps),
        )

    def start(self, example: Example) -> State:
        """All residues, in order."""
        own = isinstance(example.hidden, Residues)
        return example.hidden if own else self.parse(example.question).hidden

    def advance(self, state: State, step: str) -> tuple[State, str]:
        """A step is right if it is the true running value."""
        if not state:
            return state, "comes after the answer"
        if step.split() != [state[0]]:
            return state, f"should be {state[0]}"
        return state[1:], ""

    def done(self, state: State) -> bool:
        """Whether every residue is written."""
        return not state

    def value(self, state: State) -> float:
        """1.0: right steps can always be continued.

        This is the value under the rule that each step must be right. A wrong prefix
        is worth 0 even though some text after it could end in the right number.
        """
        return 1.0
