"""Predictions as JSON lines, a problem a line, and back.

In: the problems and what an arm did with them. Out: a file that is written whole or not
at all, and reads back to equal Predictions.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from o1jax.loop.reproduce.claim import Predictions
from o1jax.loop.workdir import write_jsonl
from o1jax.tasks.task import Example

COLUMNS = ("right", "samples", "tokens", "flops")
OF_PROBLEM = ("question", "difficulty")


def write_predictions(
    file: Path, examples: Sequence[Example], predictions: Predictions
) -> None:
    """A line a problem. ValueError if a column is not one entry a problem."""
    columns = columns_of(predictions, len(examples))
    of_problem = [(example.question, example.difficulty) for example in examples]
    rows = [
        dict(zip(OF_PROBLEM, about))
        | {name: column[i] for name, column in columns.items()}
        for i, about in enumerate(of_problem)
    ]
    write_jsonl(file, rows)


def columns_of(predictions: Predictions, problems: int) -> dict[str, list[Any]]:
    """Every column as a list of what JSON holds, after a check of its length."""
    extra = dict(predictions.extra)
    if taken := sorted(set(extra) & {*COLUMNS, *OF_PROBLEM}):
        raise ValueError(f"extra column {taken[0]!r} has the name of another column")
    columns = {name: getattr(predictions, name) for name in COLUMNS} | extra
    for name, column in columns.items():
        if len(column) != problems:
            raise ValueError(
                f"column {name!r} has {len(column)} entries for {problems} problems"
            )
    right, samples = np.asarray(predictions.right), np.asarray(predictions.samples)
    if np.any(right < 0) or np.any(right > samples) or np.any(samples < 1):
        raise ValueError("right must lie between 0 and samples, and samples above 0")
    return {name: np.asarray(column).tolist() for name, column in columns.items()}


def read_predictions(
    file: Path, examples: Sequence[Example], facts: Mapping[str, Any]
) -> Predictions:
    """What `write_predictions` wrote. ValueError if it is about other problems."""
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    if [row["question"] for row in rows] != [e.question for e in examples]:
        raise ValueError(f"{file} holds other problems: remove it")
    names = [n for n in (rows[0] if rows else ()) if n not in OF_PROBLEM]
    columns = {name: [row[name] for row in rows] for name in names}
    main = {name: np.array(columns.pop(name)) for name in COLUMNS}
    return Predictions(**main, extra=columns, facts=facts)
