"""Competition problems with the first wrong step of solutions, as people marked it.

In: the package `champ-dataset` (extra `champ`). Out: 540 solutions that models wrote to
270 problems, cut into paragraphs, each with the number of its first wrong one. A test
set for models that judge steps: nothing here was made by a policy of ours.
Source: Mao et al. 2024, CHAMP, arXiv 2401.06961.
"""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from o1jax.data.marked import Marked

FILE = "dataset_files/v0.json"


def read_champ(
    split: Callable[[str], list[str]], file: str | Path | None = None
) -> list[Marked]:
    """All annotated solutions, by problem. `split` cuts a text into steps.

    The package is not imported: only its file is read. ValueError if it is missing, or
    if an annotation lies outside its text.
    """
    problems = json.loads((_file() if file is None else Path(file)).read_text("utf-8"))
    return [
        _annotated(name, problem, annotation, split)
        for name, problem in problems["problems"].items()
        for annotation in problem["fws_annotations"].values()
    ]


def _annotated(
    name: str,
    problem: dict[str, Any],
    annotation: dict[str, Any],
    split: Callable[[str], list[str]],
) -> Marked:
    steps = tuple(split(annotation["text"]))
    return Marked(
        problem=name,
        question=problem["_text"],
        steps=steps,
        first_error=_step_at(steps, annotation["start_idx"], name),
        author=annotation["author"],
    )


def _step_at(steps: tuple[str, ...], place: int | None, name: str) -> int:
    """The number of the step that a character lies in; -1 for none."""
    if place is None:
        return -1
    end = 0
    for number, step in enumerate(steps):
        end += len(step)
        if place < end:
            return number
    raise ValueError(f"{name}: an error is marked at {place}, behind the text's {end}")


def _file() -> Path:
    found = importlib.util.find_spec("champ_dataset")
    if found is None or found.origin is None:
        raise ValueError("champ is a package: pip install 'o1jax[champ]'")
    return Path(found.origin).parent / FILE
