"""Predictions as JSON lines, a problem a line, and back.

In: the problems and what an arm did with them. Out: a file that is written whole or not
at all, and reads back to equal Predictions.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from o1jax.loop.reproduce.claim import Predictions
from o1jax.tasks.task import Example

COLUMNS = ("right", "samples", "tokens", "flops")
OF_PROBLEM = ("question", "difficulty")


def write_predictions(
    file: Path, examples: Sequence[Example], predictions: Predictions
) -> None:
    """A line a problem. ValueError if a column is not one entry a problem."""
    columns = columns_of(predictions, len(examples))
    lines = []
    for i, example in enumerate(examples):
        row = {"question": example.question, "difficulty": example.difficulty}
        row |= {name: column[i] for name, column in columns.items()}
        lines.append(json.dumps(row) + "\n")
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.partial")
    with partial.open("w") as out:
        out.writelines(lines)
        out.flush()
        os.fsync(out.fileno())
    partial.replace(file)


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
