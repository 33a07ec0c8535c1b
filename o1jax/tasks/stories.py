"""Arithmetic word problems of one to three steps, for models that read plain text.

Question `Dara fills 3 bags with 7 stones each and then gives 4 stones away. How many
stones are left?`; steps `3 * 7 = 21`, `21 - 4 = 17`; answer 17. A response answers with
what tasks/final.py finds in it. A step is a line, and right if its equation is true.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from o1jax.config import configurable
from o1jax.tasks.final import find_answer, plain
from o1jax.tasks.task import Example, StepCheck, draw

NAMES = ("Dara", "Eli", "Mina", "Noor", "Sven", "Tala")
THINGS = ("apples", "books", "coins", "pens", "stones")
MAX_RESPONSE = 16_384  # characters; of a longer one the beginning is checked
_NUMBER = re.compile(r"-?[0-9]{1,12}(?:,[0-9]{3})*(?:\.0+)?")
_EQUATION = re.compile(
    r"(-?[0-9]{1,9}) ?([-+*/x]) ?(-?[0-9]{1,9}) ?= ?(-?[0-9]{1,18})(?![0-9./*+-])"
)


@configurable
@dataclass(frozen=True)
class Stories:
    """Questions about somebody's things."""

    min_steps: int = 1
    max_steps: int = 3
    most: int = 20  # of a thing at first

    value_needs_answer = True

    def __post_init__(self) -> None:
        if not 1 <= self.min_steps <= self.max_steps <= 3:
            raise ValueError("min_steps and max_steps must be in 1, 2, 3, in order")
        if not 4 <= self.most <= 1000:
            raise ValueError("most must be between 4 and 1000")

    @property
    def name(self) -> str:
        return "stories"

    def symbols(self) -> list[str]:
        """None: its questions are text for a tokenizer of text."""
        return []

    def example(self, seed: int, split: str, index: int) -> Example:
        """Question `index` of `split`: the same at every call, on every machine."""
        return draw(self._make, seed, split, index)

    def _make(self, rng: np.random.Generator) -> Example:
        below = lambda n: int(rng.integers(n))
        name, thing = NAMES[below(len(NAMES))], THINGS[below(len(THINGS))]
        count = self.min_steps + below(self.max_steps - self.min_steps + 1)
        a, b = 2 + below(self.most - 1), 2 + below(self.most - 1)
        if count == 1:
            kind = below(3)
            if kind == 0:
                text = f"{name} has {a} {thing} and buys {b} more."
                asked, steps = f"How many {thing} does {name} have?", [(a, "+", b)]
            elif kind == 1:
                text = f"{name} has {a + b} {thing} and gives {a} of them away."
                asked, steps = f"How many {thing} are left?", [(a + b, "-", a)]
            else:
                share = 2 + below(8)
                text = (
                    f"{name} shares {a * share} {thing} equally among {share} friends."
                )
                asked = f"How many {thing} does each friend get?"
                steps = [(a * share, "/", share)]
        else:
            bags, each = 2 + below(8), 2 + below(8)
            away = 1 + below(bags * each - 1)
            text = f"{name} fills {bags} bags with {each} {thing} each"
            steps = [(bags, "*", each), (bags * each, "-", away)]
            if count == 2:
                text += f" and then gives {away} {thing} away."
            else:
                text += f", gives {away} {thing} away and then buys {b} more."
                steps.append((bags * each - away, "+", b))
            asked = f"How many {thing} are left?"
            if count == 3:
                asked = f"How many {thing} does {name} have?"
        lines = [f"{x} {sign} {y} = {_result(x, sign, y)}" for x, sign, y in steps]
        answer = lines[-1].rpartition(" ")[2]
        return Example(f"{text} {asked}", tuple(lines), answer, count)

    def parse(self, question: str) -> Example:
        """A question whose answer is not known: nothing is right."""
        return Example(question.strip(), (), "", 0)

    def grade(self, example: Example, response: str) -> float:
        """1.0 if the response answers with the number, whatever else it says."""
        found = _NUMBER.findall(plain(find_answer(response)))
        if not example.answer or len(found) != 1:
            return 0.0
        return float(int(float(found[0].replace(",", ""))) == int(example.answer))

    def check_steps(self, example: Example, response: str) -> list[StepCheck]:
        """A verdict on each line that ends and holds an equation of two numbers."""
        checks: list[StepCheck] = []
        end, so_far = 0, True
        for line in response[:MAX_RESPONSE].splitlines(keepends=True):
            end += len(line)
            if line.endswith("\n") and (found := _EQUATION.search(line)):
                x, sign, y, said = found.groups()
                right = _result(int(x), sign, int(y)) == int(said)
                why = "" if right else f"{x} {sign} {y} is not {said}"
                if right and not so_far:
                    why = "follows a wrong step"
                so_far = so_far and right
                checks.append(StepCheck(end=end, correct=so_far, reason=why))
        return checks

    def state_value(self, example: Example, steps: Sequence[str]) -> float | None:
        """Unknown: a wrong step may be put right."""
        return None


def _result(x: int, sign: str, y: int) -> float:
    """As an int where it is a whole number."""
    if sign == "/":
        if y == 0:
            return float("nan")
        return x // y if x % y == 0 else x / y
    return x + y if sign == "+" else x - y if sign == "-" else x * y
