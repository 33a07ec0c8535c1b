"""A user's questions, one JSON object a line.

In: a .jsonl file. Out: `Example`s. A line holds "question" and either "steps" (a list
of texts) with "answer", or an "answer" of the GSM8K shape, steps on lines of their own
and then `#### 42`; "difficulty" (an int) is optional and is else the number of steps.
Source: Cobbe et al. 2021, https://arxiv.org/abs/2110.14168
"""

import math
from pathlib import Path
from typing import Any

from o1jax.data.lines import read_lines
from o1jax.tasks.task import Example

ANSWER_MARK = "####"


def read_jsonl(file: str | Path) -> list[Example]:
    """The examples of `file`; ValueError `file:line: reason` for the first bad line."""
    examples = read_lines(file, _example)
    if not examples:
        raise ValueError(f"{file}: no questions in it")
    return examples


def _example(record: dict[str, Any]) -> Example:
    question = _text(record, "question")
    answer = _text(record, "answer")
    if "steps" in record:
        steps = record["steps"]
        if not isinstance(steps, list):
            raise ValueError('"steps" is not a list')
        if not all(isinstance(step, str) and step.strip() for step in steps):
            raise ValueError('"steps" holds something other than texts')
        steps = tuple(steps)
    else:
        worked, mark, answer = answer.rpartition(ANSWER_MARK)
        if not mark:
            raise ValueError(f'no "steps", and no {ANSWER_MARK} mark in "answer"')
        if not (answer := answer.strip()):
            raise ValueError(f'nothing after {ANSWER_MARK} in "answer"')
        steps = tuple(s for line in worked.split("\n") if (s := line.strip()))
    difficulty = record.get("difficulty", len(steps))
    if type(difficulty) is not int or abs(difficulty) >= 2**63:
        raise ValueError(f'"difficulty" is {difficulty!r}, not a 64-bit whole number')
    "".join((question, *steps, answer)).encode()  # refuses lone surrogates here
    return Example(question, steps, answer, difficulty)


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
