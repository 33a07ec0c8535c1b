"""Arithmetic solved in words, with one mistake in every second solution.

Question `Start with 14. Add 9, then multiply by 3. What is the result?`; steps are
paragraphs such as `Adding 9 gives 14 + 9 = 23.`, the last one names the answer. A
mistake is a slip in a result, an operand that the question does not say, or another
operation; what follows goes on from it without a fault of its own. Which step is the
first wrong one is known exactly. The mistakes are those of the writers in
data/behaviours, told in plain words for models that read text.
"""

from dataclasses import dataclass

import numpy as np

from o1jax.config import configurable
from o1jax.data.marked import BLANK, Marked
from o1jax.tasks.task import draw

TELL = {"+": "add {}", "-": "subtract {}", "*": "multiply by {}"}
DOING = {"+": "Adding {}", "-": "Subtracting {}", "*": "Multiplying by {}"}
# n: the operand; x: the equation; r: its result.
PHRASES = (
    "{doing} gives {x}.",
    "Next, we {tell}: {x}.",
    "Now {tell}, so we have {x}.",
    "We {tell} and get {r}, since {x}.",
)


@configurable
@dataclass(frozen=True)
class Flawed:
    """How long the solutions are, and how many have a mistake."""

    min_steps: int = 3
    max_steps: int = 6
    wrong: float = 0.5  # share of the solutions

    def __post_init__(self) -> None:
        if not 1 <= self.min_steps <= self.max_steps <= 20:
            raise ValueError("min_steps and max_steps must be from 1 to 20, in order")
        if not 0 <= self.wrong <= 1:
            raise ValueError("wrong must be from 0 to 1")

    def marked(self, seed: int, split: str, count: int) -> list[Marked]:
        """Solution i of a split is the same at every call."""
        found = (draw(self._make, seed, split, i) for i in range(count))
        return [one._replace(problem=f"{split}-{i}") for i, one in enumerate(found)]

    def _make(self, rng: np.random.Generator) -> Marked:
        start, moves = self._moves(rng)
        steps, wrong = self._solved(rng, start, moves)
        return Marked("", _question(start, moves), steps, wrong, "flawed")

    def _moves(self, rng: np.random.Generator) -> tuple[int, list[tuple[str, int]]]:
        start = value = int(rng.integers(2, 30))
        moves = []
        for _ in range(int(rng.integers(self.min_steps, self.max_steps + 1))):
            kinds = ["+"] + ["-"] * (value > 3) + ["*"] * (value < 200)
            kind = kinds[int(rng.integers(len(kinds)))]
            most = {"+": 60, "-": min(value - 1, 60), "*": 9}[kind]
            number = int(rng.integers(2, most + 1))
            moves.append((kind, number))
            value = result(value, kind, number)
        return start, moves

    def _solved(
        self, rng: np.random.Generator, start: int, moves: list[tuple[str, int]]
    ) -> tuple[tuple[str, ...], int]:
        """The paragraphs, and which of them is wrong; the last names the answer."""
        wrong = -1
        if rng.random() < self.wrong:
            wrong = int(rng.integers(len(moves) + 1))
        value, steps = start, []
        for number, (kind, operand) in enumerate(moves):
            after = result(value, kind, operand)
            if number == wrong:
                kind, operand, after = _mistaken(rng, value, kind, operand)
            said = {
                "doing": DOING[kind].format(operand),
                "tell": TELL[kind].format(operand),
                "x": f"{value} {kind} {operand} = {after}",
                "r": after,
            }
            steps.append(PHRASES[int(rng.integers(len(PHRASES)))].format(**said))
            value = after
        if wrong == len(moves):
            value = _slip(rng, value)
        return (*(step + BLANK for step in steps), f"The result is {value}."), wrong


def result(value: int, kind: str, operand: int) -> int:
    """What an operation makes of a value."""
    if kind == "*":
        return value * operand
    return value + operand if kind == "+" else value - operand


def _mistaken(
    rng: np.random.Generator, value: int, kind: str, operand: int
) -> tuple[str, int, int]:
    """(operation, operand, what is said to come of it), not what was asked for."""
    right = result(value, kind, operand)
    while True:
        said = kind, operand, right
        mistake = int(rng.integers(3))
        if mistake == 0:
            said = kind, operand, _slip(rng, right)
        elif mistake == 1:
            other = max(2, operand + int(rng.choice([-3, -2, -1, 1, 2, 3])))
            said = kind, other, result(value, kind, other)
        else:
            other = "+-*"[int(rng.integers(3))]
            said = other, operand, result(value, other, operand)
        if said[2] != right and said[2] >= 0:
            return said


def _slip(rng: np.random.Generator, value: int) -> int:
    """A number near it, and never the same."""
    near = value + int(rng.choice([-10, -3, -2, -1, 1, 2, 3, 10]))
    return near if near >= 0 else value + 1


def _question(start: int, moves: list[tuple[str, int]]) -> str:
    told = ", then ".join(TELL[kind].format(number) for kind, number in moves)
    told = told[0].upper() + told[1:]
    return f"Start with {start}. {told}. What is the result?"
