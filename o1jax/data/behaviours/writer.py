"""What one must know of a task to write about it.

In: an example. Out: its analysis and plan as words, the next step as somebody who made
mistakes before would write it, plausible mistakes, and other ways. A belief is the
state such a person thinks to be in.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from o1jax.tasks.task import Example

Belief = Any
Below = Callable[[int], int]  # n -> uniform in [0, n)


class Written(NamedTuple):
    """A step, and what is believed behind it."""

    step: str
    belief: Belief


class Another(NamedTuple):
    """A step that is written first, and what is written behind `<other>`."""

    first: str
    right: bool  # it leads on to an answer
    other: str


class Writer(Protocol):
    """Writes about examples of one task."""

    words: tuple[str, ...]  # that it needs besides the task's own
    most_steps: int  # of any path worth numbering

    def analysis(self, example: Example) -> str: ...

    def plan(self, example: Example) -> str:
        """Of the example's own steps."""
        ...

    def plans(self, example: Example, plan: str) -> bool:
        """Whether any text is a plan that leads to the answer."""
        ...

    def begin(self, example: Example) -> Belief: ...

    def right(self, belief: Belief, step: str) -> Written:
        """A step of the example's own, and what is known behind it."""
        ...

    def follow(self, belief: Belief, below: Below) -> Written | None:
        """Any step that seems right from a wrong belief; None: it seems done."""
        ...

    def slip(self, belief: Belief, below: Below) -> Written | None:
        """A plausible step that is wrong."""
        ...

    def another(self, belief: Belief, step: str, below: Below) -> Another | None:
        """Another way at this point, which ends in `step`; None if there is none."""
        ...

    def derives(self, why: str, step: str) -> bool:
        """Whether WHY is another way to a step's value, in `<other> WHY : STEP`."""
        ...
