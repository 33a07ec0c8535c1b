"""What of reasoning-gym runs in a worker process: its generators and its scorers.

In: a family, its options and the number of a question; for a grade an answer, written
by a model. Out: question and worked answer, or a score in [0, 1]. Seven scorers hand
the answer to eval or to sympy, which evaluates it too: here it is read as a literal,
or looked at before; five more are replaced. Source: Stojanovski et al. 2025, arXiv
2505.24760.
"""

import ast
import functools
import importlib
import json
import random
import re
import sys
from collections import OrderedDict
from collections.abc import Callable
from datetime import date
from typing import Any

import numpy as np

from o1jax.tasks.answers import expression, parse_number

LIBRARY = "reasoning_gym"
# Where the worked answer is, if it is not "answer".
GOLD = {
    "propositional_logic": "example_answer",
    "graph_color": "possible_answer",
    "rubiks_cube": "example_correct_answer",
}
# Families that draw all their questions when they are made: so many at a time.
DRAWN_AHEAD = {"acre": 20, "list_functions": 1, "gsm_symbolic": 1}
LEAST = {"word_ladder": 500}  # which refuses to be larger, but has no end
# Modules that call eval on an answer: it is a literal or nothing.
EVALUATES = ("string_insertion", "spiral_matrix", "binary_matrix", "n_queens")
# Families whose scorer gives the answer to sympy, and what such an answer may hold.
SYMBOLIC = (
    "polynomial_multiplication",
    "simple_integration",
    "intermediate_integration",
)
FUNCTIONS = {*("sin", "cos", "tan", "exp", "log", "ln", "sqrt", "pi", "asin", "acos")}
FUNCTIONS |= {*("sinh", "cosh", "tanh", "atan", "Abs")}
_FORMULA = re.compile(r"[A-Za-z0-9\s+\-*/^().,=]{1,2000}")
KEPT = 4096  # entries
RIGHT = 0.999  # what a worked answer scores, or its question is left out


class _Fixed(date):
    """A day that stays the same: a generator begins with today."""

    @classmethod
    def today(cls) -> date:
        return date(2025, 1, 1)


@functools.cache
def _library() -> Any:
    library = importlib.import_module(LIBRARY)
    factory = importlib.import_module(f"{LIBRARY}.factory")
    for name, module in list(sys.modules.items()):
        if name.startswith(LIBRARY) and name.rpartition(".")[2] in EVALUATES:
            module.eval = ast.literal_eval
        if name.endswith(".time_intervals"):
            module.date = _Fixed
    return library, factory.DATASETS


@functools.lru_cache(maxsize=64)
def _dataset(family: str, options: tuple, seed: int, size: int) -> Any:
    library, _ = _library()
    return library.create_dataset(family, seed=seed, size=size, **dict(options))


_entries: OrderedDict[tuple, dict[str, Any]] = OrderedDict()


def _entry(family: str, options: tuple, number: int) -> dict[str, Any]:
    """Question `number` of a family: the same in every process, on every day."""
    key = family, options, number
    if key not in _entries:
        random.seed(number)  # some generators use the global ones
        np.random.seed(number)
        ahead = DRAWN_AHEAD.get(family, 0)
        if ahead:
            seed, index = divmod(number, ahead)
            entry = _dataset.__wrapped__(family, options, seed, ahead)[index]
        else:
            entry = _dataset(family, options, 0, LEAST.get(family, 1 << 31))[number]
        _entries[key] = entry
        while len(_entries) > KEPT:
            _entries.popitem(last=False)
    _entries.move_to_end(key)
    return _entries[key]


def _frozen(options: Any) -> tuple:
    """Lists, which JSON makes of tuples, as tuples again."""
    if isinstance(options, list):
        return tuple(_frozen(x) for x in options)
    return options


def families() -> list[str]:
    """Names of all families."""
    return sorted(_library()[1])


def make(family: str, options: list, number: int) -> dict[str, Any] | None:
    """{"question", "answer", "steps"} of a question; the answer "" if none is known.

    None if its scorer refuses its worked answer: an integral that the library could
    not solve, a conclusion that it calls trivial.
    """
    entry = _entry(family, _frozen(options), number)
    answer = entry["answer"]
    if answer is None:
        answer = entry["metadata"].get(GOLD.get(family, ""), "")
    if not isinstance(answer, str):
        answer = json.dumps(answer)
    if answer and score(family, options, number, answer) < RIGHT:
        return None
    worked = entry["metadata"].get("answer_cot", "").rpartition("####")[0]
    steps = [line.strip() for line in worked.split("\n") if line.strip()]
    return {"question": entry["question"], "answer": answer, "steps": steps}


def score(family: str, options: list, number: int, answer: str) -> float:
    """What the family's scorer gives for an answer; 0.0 where it raises."""
    entry = _entry(family, _frozen(options), number)
    if family in OWN:
        return float(OWN[family](answer, entry))
    if family in SYMBOLIC and not harmless(answer):
        return 0.0
    size = (LEAST | DRAWN_AHEAD).get(family, 1 << 31)
    dataset = _dataset(family, _frozen(options), 0, size)
    try:
        return float(dataset.score_answer(answer, entry))
    except Exception:  # a scorer that cannot read the answer
        return 0.0


def _same_word(answer: str, entry: dict[str, Any]) -> bool:
    return answer.split() == str(entry["answer"]).split()


def _one_number(answer: str, entry: dict[str, Any]) -> bool:
    """The number; words may stand beside it, but no other number."""
    found = re.findall(r"-?[0-9][0-9,]*(?:[.][0-9]+)?", answer)
    right = parse_number(str(entry["answer"]))
    return len(found) == 1 and parse_number(found[0].strip(",")) == right


def _close(answer: str, entry: dict[str, Any]) -> bool:
    value, right = parse_number(answer), parse_number(entry["answer"])
    return value is not None and abs(value - right) <= 1e-4


def _arithmetic(answer: str, entry: dict[str, Any]) -> float:
    """Arithmetic with the target as value that uses each number once."""
    target = str(entry["metadata"].get("target", 24))
    return expression(answer, target, entry["metadata"]["numbers"])


# Scorers of our own, for those of the library that can be deceived: any text is right
# where the answer is True; of several numbers the first counts; 0 is right; 24 may be
# made of other numbers, or be 24.9.
OWN: dict[str, Callable[[str, dict[str, Any]], float]] = {
    "game_of_life_halting": _same_word,
    "gsm_symbolic": _one_number,
    "coin_flip": _close,
    "puzzle24": _arithmetic,
    "countdown": _arithmetic,
}


def harmless(formula: str) -> bool:
    """Whether sympy may evaluate it: numbers, variables, functions, operators.

    Names are single letters or FUNCTIONS; no attribute, no string, no call of a call.
    """
    if not _FORMULA.fullmatch(formula) or re.search(r"[.]\s*[A-Za-z]", formula):
        return False
    return all(
        len(name) == 1 or name in FUNCTIONS
        for name in re.findall(r"[A-Za-z]+", formula)
    )


def prepare() -> None:
    """Imports the library, which takes seconds."""
    _library()


def call(what: str, *args: Any) -> Any:
    """The function that a worker serves."""
    return {"families": families, "make": make, "score": score}[what](*args)
