"""What stands of a text with behaviours: the path that is graded.

In: a task with a step oracle, an example, and segments one after another. Out: the
steps that stand. A worked step is put behind them; `<back> #k` takes back step k and
all behind it, `<back>` the last step; `<other> STEP` puts a step in place of the last
one (`<other> WHY : STEP` says another way to it first). `<analysis>`, `<plan>` and
`<check>` are notes: any words, without effect. A `<back>` or `<other>` that cannot be
done breaks the text for good.
"""

from typing import Any

from o1jax.data.behaviours.marks import (
    ANALYSIS,
    ANSWER,
    BACK,
    CHECK,
    OTHER,
    PLAN,
    WHY,
    Segment,
    taken_back,
)
from o1jax.tasks.steps import StepTask
from o1jax.tasks.task import Example

NOTES = (ANALYSIS, PLAN, CHECK)


class Walk:
    """The standing steps, and the task's state behind each of them.

    Work is bounded by that of the oracle on each segment once: a state is kept until
    its step is taken back.
    """

    def __init__(self, task: StepTask, example: Example) -> None:
        """ValueError if the question is malformed."""
        self._task = task
        self._answer = example.answer
        self._states: list[Any] = [task.start(example)]  # None behind a fault
        self._faults = [""]
        self._alive: list[bool | None] = [None]  # None: not asked yet
        self.steps: list[str] = []  # that stand
        self.worked = 0  # steps ever written
        self.broken = ""  # why nothing can be right any more
        self.given: str | None = None  # the answer alone, given without steps

    def take(self, segment: Segment) -> None:
        """Goes on by one segment."""
        mark, body, _ = segment
        if self.broken or mark in NOTES:
            return
        if self.given is not None:
            self.broken = "comes after the answer"
        elif mark == ANSWER:
            if self.worked:
                self.broken = "gives an answer beside the steps"
            self.given = body
        elif mark == BACK:
            if k := taken_back(body, len(self.steps)):
                self._cut(k - 1)
            else:
                self.broken = "goes back to a step that does not stand"
        elif mark == OTHER:
            if not self.steps:
                self.broken = "stands in place of no step"
                return
            self._cut(len(self.steps) - 1)
            self._push(body.rpartition(WHY)[2].strip())
        else:
            self._push(body)

    def _cut(self, keep: int) -> None:
        del self.steps[keep:]
        del self._states[keep + 1 :], self._faults[keep + 1 :], self._alive[keep + 1 :]

    def _push(self, step: str) -> None:
        before, fault = self._states[-1], "follows a wrong step"
        after = None
        if before is not None:
            after, fault = self._task.advance(before, step)
            after = None if fault else after
        self.steps.append(step)
        self._states.append(after)
        self._faults.append(fault)
        self._alive.append(None)
        self.worked += 1

    @property
    def fault(self) -> str:
        """What is wrong with the steps that stand; "" if nothing is."""
        return self.broken or self._faults[-1]

    @property
    def done(self) -> bool:
        """Whether the question is answered as it stands."""
        if self.given is not None:
            return not self.broken and self.given == self._answer != ""
        return not self.fault and self._task.done(self._states[-1])

    @property
    def alive(self) -> bool:
        """Whether the standing steps can still be continued to a right answer."""
        return not self.broken and self._living(len(self.steps))

    def _living(self, n: int) -> bool:
        if self._alive[n] is None:
            state = self._states[n]
            self._alive[n] = state is not None and self._task.value(state) > 0
        return bool(self._alive[n])

    @property
    def first_wrong(self) -> int:
        """The number, from 1, of the first step that leads to no answer; 0: none."""
        ways = range(1, len(self.steps) + 1)
        return next((k for k in ways if not self._living(k)), 0)
