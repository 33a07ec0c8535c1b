"""A task whose solutions are searches written as text, with the switches for a file.

In: countdown or graph. Out: a task of the same questions. What is graded are the steps
behind `<goal>`, or all of a text that does not search; whether the search itself is
sound counts where `strict` asks for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from o1jax.config import configurable
from o1jax.data.search_text import grammar
from o1jax.data.search_text.grammar import GOAL, WIDTHS
from o1jax.data.search_text.spaces import heuristics, space
from o1jax.data.search_text.strategies import STRATEGIES, Limits, Trace, search
from o1jax.data.search_text.verify import Verdict, verify
from o1jax.data.template import Template
from o1jax.tasks import Countdown
from o1jax.tasks.steps import MAX_RESPONSE, check_int, integers, split_steps
from o1jax.tasks.task import SPLITS, STEP_END, Example, StepCheck, Task

WEIGHTS = ("depth_first", "breadth_first", "optimal")


class Searched(NamedTuple):
    """`hidden` of an example of SearchText."""

    example: Example  # the task's own
    trace: Trace


@configurable
@dataclass(frozen=True)
class SearchText:
    """Which searches a text shows, and how long it may be.

    Each text's strategy is drawn by the three weights, its width and heuristic evenly.
    A test question is always the task's own of that number, solved or not.
    """

    task: Task = field(default_factory=Countdown)
    depth_first: float = 1.0
    breadth_first: float = 1.0
    optimal: float = 0.0  # the steps alone, without any search
    widths: tuple[int, ...] = WIDTHS
    heuristics: tuple[str, ...] = ()  # names of spaces.py; none: both of the task
    max_words: int = 256  # of a response
    max_nodes: int = 64
    keep_failed: bool = True  # train on searches that found nothing, too
    strict: bool = False  # grade the search as well as the solution

    def __post_init__(self) -> None:
        known = heuristics(self.task)
        for name in WEIGHTS:
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be finite and at least 0")
        if not sum(getattr(self, name) for name in WEIGHTS):
            raise ValueError("optimal, depth_first and breadth_first are all 0")
        if not self.widths or set(self.widths) - set(WIDTHS):
            raise ValueError("widths must be some of 1 to 5")
        if wrong := sorted(set(self.heuristics) - set(known)):
            raise ValueError(f"heuristics: {wrong[0]!r} is none of {', '.join(known)}")
        check_int(self, "max_words", 16, MAX_RESPONSE)
        check_int(self, "max_nodes", 2, 1000)

    @property
    def name(self) -> str:
        return f"{self.task.name}-search"

    @property
    def value_needs_answer(self) -> bool:
        return self.task.value_needs_answer

    @property
    def limits(self) -> Limits:
        return Limits(self.max_words, self.max_nodes)

    def symbols(self) -> list[str]:
        """Words that the tokenizer keeps as one piece each."""
        own = grammar.symbols(self.max_nodes, heuristics(self.task))
        return list(dict.fromkeys([*self.task.symbols(), *own]))

    def example(self, seed: int, split: str, index: int) -> Example:
        """A question with a search for its answer, drawn for (seed, split, index).

        Without keep_failed, a train question whose search fails makes way for another.
        """
        key = [seed, SPLITS.index(split), index, 2]
        below = integers(np.random.default_rng(key))
        for attempt in range(10_000):
            example = self.task.example(seed, split, index + (attempt << 32))
            trace = self._drawn(example, below)
            if trace.solution or self.keep_failed or split != "train":
                return as_example(example, trace)
        raise ValueError("keep_failed is False, and 10,000 searches failed")

    def _drawn(self, example: Example, below) -> Trace:
        weights = [getattr(self, name) for name in WEIGHTS]
        point = below(1 << 32) / (1 << 32) * sum(weights)
        i = int(np.searchsorted(np.cumsum(weights), point, side="right"))
        if WEIGHTS[i] == "optimal":
            return Trace(example.steps, example.steps)
        names = self.heuristics or heuristics(self.task)
        return search(
            space(self.task, example),
            STRATEGIES[WEIGHTS[i]],
            self.widths[below(len(self.widths))],
            names[below(len(names))],
            self.limits,
        )

    def parse(self, question: str) -> Example:
        """A user's question, with the plain steps of a solution."""
        example = self.task.parse(question)
        return as_example(example, Trace(example.steps, example.steps))

    def grade(self, example: Example, response: str) -> float:
        """1.0 if the steps behind the one `<goal>`, or all steps of a text that does
        not search, are right and answer the question.
        """
        own = own_example(example)
        if len(response) > MAX_RESPONSE:
            return 0.0
        if self.strict and searches(response) and not self.verify(own, response).sound:
            return 0.0
        return self.task.grade(own, solution(response))

    def verify(self, example: Example, response: str) -> Verdict:
        """Of the whole search, see verify.py."""
        own = own_example(example)
        return verify(space(self.task, own), response, heuristics(self.task))

    def check_steps(self, example: Example, response: str) -> list[StepCheck]:
        """Of each line, whether the search is sound so far.

        Of a text that does not search, what the task says.
        """
        if not searches(response):
            return self.task.check_steps(own_example(example), response)
        verdict = self.verify(example, response)
        wrong = verdict.line if verdict.reason not in ("", "has no end") else None
        return [
            StepCheck(
                end,
                wrong is None or i < wrong,
                ""
                if wrong is None or i < wrong
                else verdict.reason
                if i == wrong
                else "follows a wrong line",
            )
            for i, end in enumerate(split_steps(response)[1])
        ]

    def state_value(self, example: Example, steps: Sequence[str]) -> float:
        """Best outcome still reachable, where a sound search can always go on."""
        text = "".join(f"{step} {STEP_END} " for step in steps)
        if not searches(text):
            return self.task.state_value(own_example(example), list(steps))
        checks = self.check_steps(example, text)
        ended = any(line.split()[:1] == [grammar.FAIL] for line in steps)
        return float(not ended and all(check.correct for check in checks))

    def measure(
        self, examples: Sequence[Example], texts: Sequence[str]
    ) -> dict[str, float]:
        """Among sampled texts: how many search, are sound, end in a solution, the nodes
        they find and how often they go back.
        """
        searched = [(e, t) for e, t in zip(examples, texts) if searches(t)]
        found = {"searches": len(searched) / max(len(texts), 1)}
        if not searched:
            return found
        verdicts = [self.verify(example, text) for example, text in searched]
        mean = lambda values: float(np.mean(list(values)))
        return found | {
            "sound": mean(v.sound for v in verdicts),
            "solved": mean(v.solved for v in verdicts),
            "nodes": mean(v.nodes for v in verdicts),
            "back": mean(v.back for v in verdicts),
        }


def searches(response: str) -> bool:
    """Whether a text holds any mark of a search."""
    return any(mark in response for mark in grammar.MARKS)


def solution(response: str) -> str:
    """The part of a text that is graded: what stands behind its one `<goal>` line.

    All of a text that does not search; nothing of one with no goal, or several.
    """
    if not searches(response):
        return response
    _, mark, behind = response.partition(GOAL)
    _, closed, steps = behind.partition(STEP_END)
    return steps if mark and closed and GOAL not in steps else ""


def own_example(example: Example) -> Example:
    """The task's own example, of one whose steps are a search."""
    if isinstance(example.hidden, Searched):
        return example.hidden.example
    return Example(example.question, (), example.answer, example.difficulty)


def as_example(example: Example, trace: Trace) -> Example:
    """The example whose steps are the lines of a search."""
    return replace(example, steps=trace.lines, hidden=Searched(example, trace))


@configurable
@dataclass(frozen=True)
class SearchTemplate(Template):
    """Reads the solution of a search, so that votes are about answers."""

    def parse(self, response: str) -> tuple[tuple[str, ...], str]:
        """(steps of the solution, the last of them) of any text at all."""
        return super().parse(solution(response))
