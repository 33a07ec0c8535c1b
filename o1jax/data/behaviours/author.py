"""Texts with behaviours, drawn at random around an example's worked solution.

In: a task's writer, an example, and how often each behaviour shows. Out: a Text: its
segments, which of them are mistakes, and what the author knows it wrote. Mistakes that
are taken back after Ye et al. 2024, arXiv 2408.16293.
"""

from typing import Protocol

from o1jax.data.behaviours import marks
from o1jax.data.behaviours.draft import Draft, Text, bare
from o1jax.data.behaviours.marks import RIGHT, WRONG
from o1jax.data.behaviours.writer import Belief, Below, Writer, Written
from o1jax.tasks.steps import StepTask
from o1jax.tasks.task import Example

DRAWS = 16  # of a text that must fit, before it is written without behaviours


class Mix(Protocol):
    """How often what is written, see Behaviours."""

    analysis: float
    decomposition: float
    completion: float
    alternatives: float
    evaluation: float
    correction: float
    delay: int
    numbered: bool
    false_accept: float
    false_reject: float
    mistakes: str
    masked: bool
    max_words: int


def write(
    task: StepTask, writer: Writer, example: Example, mix: Mix, below: Below
) -> Text:
    """A text that the task grades as right.

    One longer than mix.max_words (if that is not 0) is drawn again; where no draw of
    DRAWS fits, the steps alone are written, whatever their length.
    """
    for _ in range(DRAWS):
        text = _Author(task, writer, example, mix, below).text()
        if not 0 < mix.max_words < text.words:
            return text
    return bare(example)


def stated_chance(mix: Mix, verdict: str) -> str:
    """The chance that checked steps are right, by Bayes' rule.

    Of a checker that accepts wrong ones and rejects right ones at the mix's own rates,
    where a share `correction` of what it checks is wrong.
    """
    wrong, accepts = mix.correction, verdict == RIGHT
    of_right = 1 - mix.false_reject if accepts else mix.false_reject
    of_wrong = mix.false_accept if accepts else 1 - mix.false_accept
    said = (1 - wrong) * of_right + wrong * of_wrong
    return marks.chance((1 - wrong) * of_right / said if said else float(accepts))


class _Author:
    """Writes one text."""

    def __init__(
        self,
        task: StepTask,
        writer: Writer,
        example: Example,
        mix: Mix,
        below: Below,
    ) -> None:
        self._task, self._writer, self._example = task, writer, example
        self._mix, self._below = mix, below
        self._draft = Draft()

    def text(self) -> Text:
        mix, example, note = self._mix, self._example, self._draft.note
        if self._draw(mix.analysis):
            note(marks.ANALYSIS, self._writer.analysis(example), "analysis")
        if self._draw(mix.decomposition):
            note(marks.PLAN, self._writer.plan(example), "plan")
        if self._draw(mix.completion):
            self._work()
        else:
            note(marks.ANSWER, example.answer, "answer")
        return self._draft.text(example)

    def _work(self) -> None:
        mix, draft = self._mix, self._draft
        belief = self._writer.begin(self._example)
        for i, step in enumerate(self._example.steps):
            while self._draw(mix.correction):
                if (slip := self._slip(i, belief)) is None:
                    break
                self._mistake(i, *slip)
            other = self._draw(mix.alternatives) and self._writer.another(
                belief, step, self._below
            )
            if other:
                draft.step(other.first, right=other.right)
                draft.note(marks.OTHER, other.other, "other")
            else:
                draft.step(step)
            belief = self._writer.right(belief, step).belief
            if self._draw(mix.evaluation) and self._check(right=True) == WRONG:
                draft.back(i + 1, needed=False, named=mix.numbered)
                draft.step(step)

    def _slip(self, i: int, belief: Belief) -> tuple[Written, bool] | None:
        """A mistake in place of step i, and whether it is none by luck."""
        if self._mix.mistakes == "plain":
            slip = self._writer.slip(belief, self._below)
            return None if slip is None else (slip, False)
        later = self._example.steps[i + 1 :]
        if not later:
            return None
        step = later[self._below(len(later))]
        path = [*self._example.steps[:i], step]
        return Written(step, None), self._task.state_value(self._example, path) > 0

    def _mistake(self, i: int, slip: Written, right: bool) -> None:
        """Writes it, perhaps goes on from it, and takes it back."""
        silent, draft = self._mix.masked, self._draft
        draft.step(slip.step, right=right, silent=silent)
        belief, noticed = slip.belief, False
        for _ in range(self._below(self._mix.delay + 1)):
            if self._draw(self._mix.evaluation):
                noticed = self._check(right=right) == WRONG
            if noticed or (after := self._writer.follow(belief, self._below)) is None:
                break
            draft.step(after.step, right=False, silent=silent)
            belief = after.belief
        if not noticed and self._draw(self._mix.evaluation):
            self._check(right=right, verdict=WRONG)
        draft.back(i + 1, needed=not right, named=self._mix.numbered)

    def _check(self, *, right: bool, verdict: str = "") -> str:
        """Writes a check of the standing steps, and returns its verdict."""
        mix = self._mix
        if not verdict:
            mistaken = self._draw(mix.false_reject if right else mix.false_accept)
            verdict = RIGHT if right != mistaken else WRONG
        self._draft.check(verdict, stated_chance(mix, verdict), right=right)
        return verdict

    def _draw(self, probability: float) -> bool:
        return self._below(1 << 32) < probability * (1 << 32)
