"""A text in the making, with a count of what its author knows to have written.

In: steps, checks and corrections, each with the truth about it. Out: a Text. The counts
go by the names of the meter, which finds them again without being told.
"""

from collections import Counter
from dataclasses import replace
from typing import NamedTuple

from o1jax.data.behaviours import marks
from o1jax.data.behaviours.marks import RIGHT, WRONG
from o1jax.tasks.task import STEP_END, Example


class Text(NamedTuple):
    """What was written about an example."""

    example: Example  # the task's own
    segments: tuple[str, ...]
    silent: tuple[int, ...]  # segments that are not trained on
    labels: Counter  # what the author knows it wrote, by the names of the meter

    @property
    def words(self) -> int:
        """Words of the response, the marks that close segments included."""
        return sum(len(s.split()) + 1 for s in self.segments)

    @property
    def response(self) -> str:
        return " ".join(f"{segment} {STEP_END}" for segment in self.segments)

    def as_example(self) -> Example:
        """The example whose steps are the segments."""
        return replace(self.example, steps=self.segments, hidden=self)


class Draft:
    """Segments so far."""

    def __init__(self) -> None:
        self._segments: list[str] = []
        self._silent: list[int] = []
        self._labels: Counter = Counter()
        self._redo = False  # the next step is one that was wrong before

    def step(self, step: str, *, right: bool = True, silent: bool = False) -> None:
        """A worked step. The first one opens the work."""
        if silent:
            self._silent.append(len(self._segments))
        if not self._labels["step"]:
            step = f"{marks.WORK} {step}"
            self._labels["work"] += 1
        self._segments.append(step)
        self._labels["step"] += 1
        self._labels["step_right"] += right
        self._labels["back_mended"] += right and self._redo
        self._redo = False

    def check(self, verdict: str, chance: str, *, right: bool) -> None:
        """A check of standing steps that are right, or are not."""
        self._segments.append(f"{marks.CHECK} {verdict} {chance}")
        self._labels["check"] += 1
        self._labels["check_right"] += (verdict == RIGHT) == right
        self._labels["false_accept"] += verdict == RIGHT and not right
        self._labels["false_reject"] += verdict == WRONG and right

    def back(self, k: int, *, needed: bool, named: bool = True) -> None:
        """Takes back step k, from 1, which is the first wrong one if any is.

        Without its name it must be the last one.
        """
        name = f" {marks.ordinal(k)}" if named else ""
        self._segments.append(f"{marks.BACK}{name}")
        self._labels["back"] += 1
        self._labels["back_needed"] += needed
        self._labels["back_found"] += needed
        self._redo = needed

    def note(self, mark: str, body: str, label: str) -> None:
        """Any other segment, a right one."""
        self._segments.append(f"{mark} {body}")
        self._labels[label] += 1
        self._labels[f"{label}_right"] += 1

    def text(self, example: Example) -> Text:
        return Text(example, tuple(self._segments), tuple(self._silent), +self._labels)


def bare(example: Example) -> Text:
    """The worked steps, and nothing else."""
    steps = len(example.steps)
    return Text(example, example.steps, (), Counter(step=steps, step_right=steps))
