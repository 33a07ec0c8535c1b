"""Counts the behaviours of a text, and asks the oracle what they were worth.

In: a task, an example and any text at all. Out: how often each behaviour shows, whether
a self-evaluation was right, and whether a correction mended what was wrong. A text is
right so far if its standing steps can still be continued to a right answer: the truth
that step labels of a reward model hold, too.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

from o1jax.data.behaviours import marks
from o1jax.data.behaviours.marks import CHANCE_OF, RIGHT, WRONG, Segment
from o1jax.data.behaviours.walk import Walk
from o1jax.data.behaviours.writer import Writer
from o1jax.data.behaviours.writers import writer
from o1jax.tasks.steps import StepTask
from o1jax.tasks.task import Example

COUNTS = (
    *("analysis", "analysis_right", "plan", "plan_right", "answer", "answer_right"),
    *("work", "step", "step_right", "other", "other_right"),
    *("check", "check_right", "false_accept", "false_reject"),
    # A correction is needed where the standing steps are wrong, it has found the wrong
    # step where it names the first one, and mended it where the step that comes in its
    # place is right.
    *("back", "back_needed", "back_found", "back_mended"),
    "malformed",  # segments whose mark is followed by something it can't mean
)
BEHAVIOURS = {  # name of a behaviour -> what counts it
    "analysis": "analysis",
    "decomposition": "plan",
    "completion": "work",
    "alternatives": "other",
    "evaluation": "check",
    "correction": "back",
}


def counts(task: StepTask, example: Example, text: str) -> Counter:
    """How often each of COUNTS happens in the text. Bounded by MAX_RESPONSE."""
    meter = _Meter(task, writer(task), example)
    for segment in marks.segments(text)[0]:
        meter.read(segment)
    return +meter.found


def rates(
    task: StepTask, examples: Sequence[Example], texts: Iterable[str]
) -> dict[str, float]:
    """Shares over many texts, for a log.

    Of each behaviour the share of texts that show it; of checks the share that is wrong
    among those of wrong steps (false_accept) and of right ones (false_reject), and the
    mean squared error of the stated chance (brier); of corrections where one is needed
    the share that finds the wrong step and mends it. A share of nothing is left out.
    """
    total, shown, read = Counter(), Counter(), 0
    for example, text in zip(examples, texts, strict=True):
        own = counts(task, example, text)
        total += own
        shown += Counter(name for name, count in BEHAVIOURS.items() if own[count])
        read += 1
    right = total["check_right"] - (total["true_reject"])
    found = {name: (shown[name], read) for name in BEHAVIOURS}
    found |= {
        "analysis_right": (total["analysis_right"], total["analysis"]),
        "plan_right": (total["plan_right"], total["plan"]),
        "other_right": (total["other_right"], total["other"]),
        "false_accept": (
            total["false_accept"],
            total["false_accept"] + total["true_reject"],
        ),
        "false_reject": (total["false_reject"], total["false_reject"] + right),
        "brier": (total["squared_error"] / 100, total["check"]),
        "back_found": (total["back_found"], total["back_needed"]),
        "back_mended": (total["back_mended"], total["back_needed"]),
    }
    return {name: part / whole for name, (part, whole) in found.items() if whole}


class _Meter:
    """Reads one text."""

    def __init__(self, task: StepTask, words: Writer, example: Example) -> None:
        self._words, self._example = words, example
        self._walk = Walk(task, example)
        self._redo = 0  # the number of a step that was wrong and comes next; 0: none
        self.found: Counter = Counter()

    def read(self, segment: Segment) -> None:
        mark, body, _ = segment
        if mark == marks.ANALYSIS:
            self._add("analysis", body == self._words.analysis(self._example))
        elif mark == marks.PLAN:
            self._add("plan", self._words.plans(self._example, body))
        elif mark == marks.CHECK:
            self._check(body)
        elif mark == marks.BACK:
            self._back(segment)
        elif mark == marks.OTHER:
            self._other(segment)
        elif mark == marks.ANSWER:
            self._take(segment)
            self._add("answer", self._walk.done)
        else:
            self.found["work"] += mark == marks.WORK
            self._take(segment)
            self._add("step", self._walk.alive)
            self.found["back_mended"] += bool(self._redo and self._walk.alive)
            self._redo = 0

    def _add(self, name: str, right: bool) -> None:
        self.found[name] += 1
        self.found[f"{name}_right"] += right

    def _take(self, segment: Segment) -> None:
        whole = not self._walk.broken
        self._walk.take(segment)
        self.found["malformed"] += bool(whole and self._walk.broken)

    def _check(self, body: str) -> None:
        verdict, _, said = body.partition(" ")
        if verdict not in (RIGHT, WRONG) or said not in CHANCE_OF:
            self.found["malformed"] += 1
            return
        right, accepts = self._walk.alive, verdict == RIGHT
        self._add("check", accepts == right)
        self.found["false_accept"] += accepts and not right
        self.found["false_reject"] += right and not accepts
        self.found["true_reject"] += not right and not accepts
        # In hundredths, so that a Counter of whole numbers holds it.
        self.found["squared_error"] += round(100 * (CHANCE_OF[said] - right) ** 2)

    def _back(self, segment: Segment) -> None:
        first = self._walk.first_wrong
        named = marks.taken_back(segment.body, len(self._walk.steps))
        self._take(segment)
        if self._walk.broken:
            return
        self.found["back"] += 1
        self.found["back_needed"] += first > 0
        self.found["back_found"] += first == named
        self._redo = first

    def _other(self, segment: Segment) -> None:
        replaced = self._walk.steps[-1:]
        self._take(segment)
        if self._walk.broken:
            return
        why, named, step = segment.body.rpartition(marks.WHY)
        step = step.strip()
        differs = self._words.derives(why, step) if named else [step] != replaced
        self._add("other", self._walk.alive and differs)
