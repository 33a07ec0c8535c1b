r"""A user's questions, one JSON object a line.

In: a .jsonl file. Out: `Example`s. A line holds "question" and either "steps" (a list
of texts) with "answer", or an "answer" of the GSM8K shape, steps on lines of their own
and then `#### 42`. Or it has the shape of MATH: "problem" and "solution", in which the
answer stands in \boxed{}, with "level" such as "Level 5". "difficulty" (an int) is
optional and is else the level or the number of steps.
Sources: Cobbe et al. 2021, arXiv 2110.14168; Hendrycks et al. 2021, arXiv 2103.03874.
"""

import math
import re
from pathlib import Path
from typing import Any

from o1jax.data.lines import read_lines
from o1jax.tasks.final import last_box
from o1jax.tasks.task import Example

ANSWER_MARK = "####"
_LEVEL = re.compile(r"Level ([0-9]+)")
# A line break inside of these ends no step.
_DISPLAY = re.compile(
    r"\\\[.*?\\\]|\$\$.*?\$\$|\\begin\{(\w+\*?)\}.*?\\end\{\1\}|\[asy\].*?\[/asy\]",
    re.DOTALL,
)
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z$])")


def read_jsonl(file: str | Path) -> list[Example]:
    """The examples of `file`; ValueError `file:line: reason` for the first bad line."""
    examples = read_lines(file, example_of)
    if not examples:
        raise ValueError(f"{file}: no questions in it")
    return examples


def example_of(record: dict[str, Any]) -> Example:
    """The example of a record of any of the shapes; ValueError says what is amiss."""
    if "problem" in record and "question" not in record:
        question = _text(record, "problem")
        steps, answer = _worked(record)
    else:
        question = _text(record, "question")
        steps, answer = _answered(record)
    difficulty = record.get("difficulty", _level(record) or len(steps))
    if type(difficulty) is not int or abs(difficulty) >= 2**63:
        raise ValueError(f'"difficulty" is {difficulty!r}, not a 64-bit whole number')
    "".join((question, *steps, answer)).encode()  # refuses lone surrogates here
    return Example(question, steps, answer, difficulty)


def _answered(record: dict[str, Any]) -> tuple[tuple[str, ...], str]:
    """(steps, answer) with "steps", or of the GSM8K shape."""
    answer = _text(record, "answer")
    if "steps" in record:
        steps = record["steps"]
        if not isinstance(steps, list):
            raise ValueError('"steps" is not a list')
        if not all(isinstance(step, str) and step.strip() for step in steps):
            raise ValueError('"steps" holds something other than texts')
        return tuple(steps), answer
    worked, mark, answer = answer.rpartition(ANSWER_MARK)
    if not mark:
        raise ValueError(f'no "steps", and no {ANSWER_MARK} mark in "answer"')
    if not (answer := answer.strip()):
        raise ValueError(f'nothing after {ANSWER_MARK} in "answer"')
    return tuple(s for line in worked.split("\n") if (s := line.strip())), answer


def _worked(record: dict[str, Any]) -> tuple[tuple[str, ...], str]:
    """(steps, answer) of the MATH shape; an "answer" beside it goes before the box."""
    solution = _text(record, "solution")
    answer = _text(record, "answer") if "answer" in record else last_box(solution)
    if not answer or not answer.strip():
        raise ValueError('no \\boxed{} with an answer in "solution", and no "answer"')
    return solution_steps(solution), answer.strip()


def solution_steps(solution: str) -> tuple[str, ...]:
    """A worked text in steps of one line: its lines, and their sentences.

    Displayed formulas, environments and drawings are parts of the step they stand in.
    """
    joined = _DISPLAY.sub(lambda found: " ".join(found[0].split()), solution)
    lines = (line.strip() for line in joined.split("\n"))
    return tuple(
        part.strip() for line in lines if line for part in _SENTENCE.split(line)
    )


def _level(record: dict[str, Any]) -> int:
    found = _LEVEL.fullmatch(str(record.get("level", "")))
    return int(found[1]) if found else 0


def _text(record: dict[str, Any], name: str) -> str:
    """The field as text; an answer may be a plain number."""
    if name not in record:
        raise ValueError(f'no "{name}"; the fields are {sorted(record)}')
    value = record[name]
    if name == "answer" and type(value) in (int, float) and math.isfinite(value):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f'"{name}" is {value!r}, not a text')
    return value.strip()
