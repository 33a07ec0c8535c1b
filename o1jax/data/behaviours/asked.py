"""Behaviours on request: the question says which of them its text shows.

In: a mixture of behaviours. Out: a task whose questions begin with the marks of the
behaviours that are asked for, each with chance 1/2, and whose texts show these and no
others. A policy that has learned it stands in for a chat model that does what a system
prompt says; asking for other behaviours then needs no training at all.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from o1jax.config import configurable
from o1jax.data.behaviours import marks
from o1jax.data.behaviours.task import Behaviours
from o1jax.tasks.task import SPLITS, Example, StepCheck

MARK_OF = {
    "analysis": marks.ANALYSIS,
    "decomposition": marks.PLAN,
    "alternatives": marks.OTHER,
    "evaluation": marks.CHECK,
    "correction": marks.BACK,
}
NAME_OF = {mark: name for name, mark in MARK_OF.items()}


@configurable
@dataclass(frozen=True)
class Asked:
    """`<check> <back> 3 5 7 -> 22 :` asks for self-evaluation and correction."""

    # How often a behaviour shows where it is asked for.
    mixture: Behaviours = field(default_factory=Behaviours)
    # What is asked for: "all", "none", names joined by +, or "any": drawn each time.
    ask: str = "any"

    def __post_init__(self) -> None:
        if self.ask not in ("any", "all", "none"):
            for name in self.ask.split("+"):
                if name not in MARK_OF:
                    raise ValueError(
                        f"ask: {name!r} is no behaviour; join with +: "
                        f"{', '.join(MARK_OF)}"
                    )

    @property
    def name(self) -> str:
        return f"{self.mixture.name}, asked for {self.ask}"

    @property
    def value_needs_answer(self) -> bool:
        return self.mixture.value_needs_answer

    def symbols(self) -> list[str]:
        """Words that the tokenizer keeps as one piece each."""
        return self.mixture.symbols()

    def example(self, seed: int, split: str, index: int) -> Example:
        """The mixture's own example, with what was not asked for turned off."""
        asked = self._asked(seed, split, index)
        off = {name: 0.0 for name in MARK_OF if name not in asked}
        example = replace(self.mixture, **off).example(seed, split, index)
        words = [MARK_OF[name] for name in asked]
        return replace(example, question=" ".join([*words, example.question]))

    def _asked(self, seed: int, split: str, index: int) -> tuple[str, ...]:
        if self.ask == "any":
            rng = np.random.default_rng([seed, SPLITS.index(split), index, 3])
            drawn = rng.random(len(MARK_OF)) < 0.5
            return tuple(name for name, wanted in zip(MARK_OF, drawn) if wanted)
        chosen = {"all": tuple(MARK_OF), "none": ()}.get(self.ask, self.ask.split("+"))
        return tuple(name for name in MARK_OF if name in chosen)

    def parse(self, question: str) -> Example:
        """A user's question, with the marks of what is asked for or without."""
        _, bare = asked_for(question)
        return replace(self.mixture.parse(bare), question=question)

    def grade(self, example: Example, response: str) -> float:
        """As Behaviours do: whether what was asked for is shown counts for nothing."""
        return self.mixture.grade(_bare(example), response)

    def check_steps(self, example: Example, response: str) -> list[StepCheck]:
        """As Behaviours do."""
        return self.mixture.check_steps(_bare(example), response)

    def state_value(self, example: Example, steps: Sequence[str]) -> float:
        """As Behaviours do."""
        return self.mixture.state_value(_bare(example), steps)

    def measure(
        self, examples: Sequence[Example], texts: Sequence[str]
    ) -> dict[str, float]:
        """The meter's shares, and how often texts show what is and is not asked for.

        obeyed: of behaviours that were asked for; unasked: of those that were not.
        """
        shown = np.array([_shows(text) for text in texts], bool)
        wanted = np.array(
            [[n in asked_for(e.question)[0] for n in MARK_OF] for e in examples], bool
        )
        found = self.mixture.measure([_bare(e) for e in examples], texts)
        for name, of in (("obeyed", wanted), ("unasked", ~wanted)):
            if of.any():
                found[name] = float(shown[of].mean())
        return found


def asked_for(question: str) -> tuple[tuple[str, ...], str]:
    """(names of behaviours that a question asks for, the question behind them)."""
    words, names = question.split(" "), []
    while words and words[0] in NAME_OF:
        names.append(NAME_OF[words.pop(0)])
    return tuple(names), " ".join(words)


def _shows(text: str) -> list[bool]:
    """Of each behaviour whether the text has it."""
    opened = {segment.mark for segment in marks.segments(text)[0]}
    return [MARK_OF[name] in opened for name in MARK_OF]


def _bare(example: Example) -> Example:
    return replace(example, question=asked_for(example.question)[1])
