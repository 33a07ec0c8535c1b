"""Solutions whose first wrong step is known, and where to get them.

In: a source that an experiment names. Out: Marked records, to train a model that judges
steps, or to test one. `MarkedFile` reads a user's JSONL in the shape of ProcessBench
(Zheng et al. 2024, arXiv 2412.06559): "problem", "steps", and "label", the number of
the first wrong step, from 0, or -1. What writes its own is in flawed.py.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

from o1jax.config import configurable
from o1jax.data.lines import read_lines, text_field
from o1jax.tasks.task import split_of

BLANK = "\n\n"  # closes a step


class Marked(NamedTuple):
    """A solution and which of its steps is the first wrong one."""

    problem: str  # its name, such as P_Combinatorics_1
    question: str
    steps: tuple[str, ...]  # paragraphs; joined, they are the text
    first_error: int  # number of the first wrong one; -1: none is wrong
    author: str  # who wrote it


@runtime_checkable
class Solutions(Protocol):
    """Where marked solutions come from."""

    def marked(self, seed: int, split: str, count: int) -> list[Marked]:
        """At most `count` of a split; the same at every call."""
        ...


@configurable
@dataclass(frozen=True)
class MarkedFile:
    """A user's own, in the shape of ProcessBench. The split is a hash's of the text."""

    path: str

    def marked(self, seed: int, split: str, count: int) -> list[Marked]:
        """The first ones of a split. ValueError `file:line: reason` of a bad line."""
        every = read_lines(self.path, _marked)
        found = [one for one in every if split_of(one.question) == split][:count]
        if not found:
            raise ValueError(f"{self.path}: none of {len(every)} solutions is {split}")
        return found


def _marked(record: dict[str, Any]) -> Marked:
    question = text_field(record, "problem").strip()
    steps = record.get("steps")
    texts = isinstance(steps, list) and all(isinstance(s, str) for s in steps)
    if not texts or not steps or not all(s.strip() for s in steps):
        raise ValueError('"steps" must be a list of texts that are not blank')
    label = record.get("label")
    if type(label) is not int or not -1 <= label < len(steps):
        raise ValueError(f'"label" is {label!r}, not a step from 0, nor -1')
    name, author = record.get("id", question), record.get("generator", "")
    return Marked(str(name), question, in_paragraphs(steps), label, str(author))


def in_paragraphs(steps: list[str]) -> tuple[str, ...]:
    """Steps that a blank line parts, and that have none inside."""
    lines = [[x.strip() for x in step.splitlines() if x.strip()] for step in steps]
    whole = ["\n".join(of_step) for of_step in lines]
    return (*(step + BLANK for step in whole[:-1]), whole[-1])
