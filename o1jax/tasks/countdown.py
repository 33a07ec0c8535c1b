"""Countdown: reach the target from k numbers, each used exactly once.

Question `3 5 7 -> 22 :`; a step takes two of the numbers, and restates what remains, in
ascending order: `5 * 3 = 15 , 7 15 ; 15 + 7 = 22 , 22 ;`. Results are whole numbers in
[0, max_value]; / must be exact. Numbers in a question are sorted, so that one problem
can't be in two splits. Difficulty is k. (Gandhi et al. 2024, arXiv 2404.03683, allow
subsets of the numbers; here all are used.)
"""

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from o1jax.config import configurable
from o1jax.tasks.steps import MAX_QUESTION, StepTask, check_int, integers, malformed
from o1jax.tasks.task import STEP_END, Example

OPERATORS = "+-*/"
MAX_NUMBERS = 6  # exact values by enumeration stay below a second up to here

_QUESTION = re.compile(
    r"\s*([0-9]{1,4}(?:[\s,]+[0-9]{1,4})*)\s*->\s*([0-9]{1,4})\s*:?\s*"
)


class Move(NamedTuple):
    """One legal step: `left operator right = result`, and the numbers after it."""

    left: int
    operator: str
    right: int
    result: int
    remaining: tuple[int, ...]  # ascending

    @property
    def step(self) -> str:
        """The move as text."""
        rest = " ".join(map(str, self.remaining))
        return f"{self.left} {self.operator} {self.right} = {self.result} , {rest}"


class State(NamedTuple):
    """Where a solution stands."""

    remaining: tuple[int, ...]  # ascending
    target: int


def apply(operator: str, left: int, right: int, max_value: int) -> int | None:
    """The result, or None unless it is a whole number in [0, max_value]."""
    if operator == "+":
        result = left + right
    elif operator == "-":
        result = left - right
    elif operator == "*":
        result = left * right
    elif right and left % right == 0:
        result = left // right
    else:
        return None
    return result if 0 <= result <= max_value else None


def legal_moves(numbers: Sequence[int], max_value: int = 100) -> list[Move]:
    """Every different legal move, larger operand first, in a fixed order.

    Identities such as * 1 are legal. The mirrored forms that a verifier also accepts
    (3 * 5, 0 / 5) lead to the same remaining numbers as a move listed here.
    """
    numbers = tuple(sorted(numbers, reverse=True))
    moves: dict[Move, None] = {}
    for i, left in enumerate(numbers):
        for j in range(i + 1, len(numbers)):
            others = numbers[:i] + numbers[i + 1 : j] + numbers[j + 1 :]
            for operator in OPERATORS:
                result = apply(operator, left, numbers[j], max_value)
                if result is not None:
                    remaining = tuple(sorted((*others, result)))
                    moves[Move(left, operator, numbers[j], result, remaining)] = None
    return list(moves)


@functools.lru_cache(maxsize=2**17)
def reachable(numbers: tuple[int, ...], max_value: int = 100) -> int:
    """Which targets the numbers (ascending) can make: bit t is set if t is one."""
    if len(numbers) == 1:
        return 1 << numbers[0]
    bits = 0
    for remaining in {move.remaining for move in legal_moves(numbers, max_value)}:
        bits |= reachable(remaining, max_value)
    return bits


def solve(
    numbers: Sequence[int], target: int, max_value: int = 100
) -> tuple[str, ...] | None:
    """Steps that reach the target, the first in the order of moves, or None."""
    remaining = tuple(sorted(numbers))
    if not remaining or target < 0 or not reachable(remaining, max_value) >> target & 1:
        return None
    steps = []
    while len(remaining) > 1:
        move = next(
            move
            for move in legal_moves(remaining, max_value)
            if reachable(move.remaining, max_value) >> target & 1
        )
        steps.append(move.step)
        remaining = move.remaining
    return tuple(steps)


@functools.cache
def _number_words(max_value: int) -> dict[str, int]:
    return {str(n): n for n in range(max_value + 1)}


@configurable
@dataclass(frozen=True)
class Countdown(StepTask):
    """`numbers` of them in [min_number, max_number]; target and results bounded."""

    numbers: int = 3
    min_number: int = 1
    max_number: int = 20
    min_target: int = 10
    max_target: int = 50
    max_value: int = 100

    value_needs_answer = False  # the target is in the question

    def __post_init__(self) -> None:
        check_int(self, "numbers", 2, MAX_NUMBERS)
        check_int(self, "max_value", 1, 1000)
        check_int(self, "max_number", 1, self.max_value)
        check_int(self, "min_number", 1, self.max_number)
        check_int(self, "max_target", 1, self.max_value)
        check_int(self, "min_target", 1, self.max_target)
        self.make(np.random.default_rng(0))  # impossible knobs fail before any compute

    @property
    def name(self) -> str:
        return "countdown"

    def symbols(self) -> list[str]:
        """Words that the tokenizer keeps as one piece each."""
        marks = [STEP_END, "=", ",", "->", ":"]
        return [*marks, *OPERATORS, *map(str, range(self.max_value + 1))]

    def make(self, rng: np.random.Generator) -> Example:
        """A random play that ends on a target in range; the play is the solution.

        Plays avoid moves that a person would not write: * 1, / 1, and results of 0.
        """
        below, span = integers(rng), self.max_number - self.min_number + 1
        for _ in range(10_000):
            numbers = sorted(self.min_number + below(span) for _ in range(self.numbers))
            target, steps = self._play(numbers, below)
            if self.min_target <= target <= self.max_target:
                return self._example(numbers, target, tuple(steps))
        raise ValueError(
            f"Countdown.min_target {self.min_target} to max_target {self.max_target} "
            f"was not reached in 10,000 plays of {self.numbers} numbers "
            f"from {self.min_number} to {self.max_number}"
        )

    def _play(
        self, numbers: Sequence[int], below: Callable[[int], int]
    ) -> tuple[int, list[str]]:
        """Last value and steps of a random play; the value is -1 if it gets stuck."""
        remaining, steps = list(numbers), []
        while (n := len(remaining)) > 1:
            for _ in range(16):  # draw a pair and an operator until they are legal
                i, j = below(n), below(n - 1)
                j += j >= i
                left, right = remaining[i], remaining[j]
                if left < right:
                    left, right = right, left
                operator = OPERATORS[below(4)]
                result = apply(operator, left, right, self.max_value)
                if result and (right > 1 or operator in "+-"):
                    break
            else:
                return -1, []
            remaining = [x for at, x in enumerate(remaining) if at not in (i, j)]
            remaining.append(result)
            remaining.sort()
            steps.append(Move(left, operator, right, result, tuple(remaining)).step)
        return remaining[0], steps

    def parse(self, question: str) -> Example:
        """A user's question such as `3 5 7 -> 22`; steps stay empty if unsolvable."""
        found = len(question) <= MAX_QUESTION and _QUESTION.fullmatch(question)
        if not found:
            raise malformed("countdown", question, "expected the form 3 5 7 -> 22")
        numbers = sorted(map(int, re.findall("[0-9]+", found[1])))
        target = int(found[2])
        if not 2 <= len(numbers) <= MAX_NUMBERS:
            why = f"expected 2 to {MAX_NUMBERS} numbers, got {len(numbers)}"
            raise malformed("countdown", question, why)
        largest = max(*numbers, target)
        if largest > self.max_value:
            why = f"{largest} is above max_value {self.max_value}"
            raise malformed("countdown", question, why)
        steps = solve(numbers, target, self.max_value)
        return self._example(numbers, target, steps or ())

    def _example(
        self, numbers: Sequence[int], target: int, steps: tuple[str, ...]
    ) -> Example:
        return Example(
            question=f"{' '.join(map(str, numbers))} -> {target} :",
            steps=steps,
            answer=str(target) if steps else "",
            difficulty=len(numbers),
            hidden=State(tuple(numbers), target),
        )

    def start(self, example: Example) -> State:
        """All numbers of the question."""
        own = isinstance(example.hidden, State)
        return example.hidden if own else self.parse(example.question).hidden

    def advance(self, state: State, step: str) -> tuple[State, str]:
        """A step is right if it is legal, restates the rest, and ends on the target.

        A legal step into a dead end is right; `state_value` knows that it is dead.
        """
        remaining, target = state
        if len(remaining) == 1:
            return state, "comes after the answer"
        words, number = step.split(), _number_words(self.max_value)
        if len(words) < 7 or words[3] != "=" or words[5] != ",":
            return state, "is not of the form a + b = c , rest"
        left, operator, right = number.get(words[0]), words[1], number.get(words[2])
        if operator not in OPERATORS or len(operator) != 1:
            return state, f"uses an operator other than {' '.join(OPERATORS)}"
        rest = list(remaining)
        for operand in (left, right):
            if operand not in rest:
                return state, "uses a number that is not there"
            rest.remove(operand)
        result = apply(operator, left, right, self.max_value)
        if result is None:
            allowed = f"a whole number from 0 to {self.max_value}"
            return state, f"{left} {operator} {right} is not {allowed}"
        if words[4] != str(result):
            return state, f"{left} {operator} {right} is {result}"
        after = sorted((*rest, result))
        if words[6:] != [str(n) for n in after]:
            return state, f"the numbers after it are {' '.join(map(str, after))}"
        if len(after) == 1 and result != target:
            return state, f"ends on {result}, not on {target}"
        return State(tuple(after), target), ""

    def done(self, state: State) -> bool:
        """Whether only the target remains."""
        return state.remaining == (state.target,)

    def value(self, state: State) -> float:
        """1.0 if the remaining numbers reach the target, by enumeration."""
        return float(reachable(state.remaining, self.max_value) >> state.target & 1)

    @property
    def goals(self) -> tuple[str, ...]:
        """The targets that a question may ask for."""
        return tuple(map(str, range(self.min_target, self.max_target + 1)))

    def reach(self, example: Example, steps: Sequence[str]) -> np.ndarray:  # bool[G]
        """Which of the goals these steps leave within reach; none after a fault."""
        after = self.state_after(example, steps)
        bits = 0 if after is None else reachable(after.remaining, self.max_value)
        targets = range(self.min_target, self.max_target + 1)
        return np.array([bits >> target & 1 for target in targets], bool)
