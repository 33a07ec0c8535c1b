"""Behaviours asked of a chat model in its system prompt, and read from its plain text.

In: names of behaviours. Out: the system prompt that asks for them; and, of any English
text, which of them it shows, by the phrases that open them. Marks are exact, phrases
are not: this meter says how often a model talks so, not whether it is right to. After
the prompts of o1-like wrappers of chat models (the survey of Zeng et al. 2024, arXiv
2412.14135, section 3), without their demonstrations.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from o1jax.config import configurable
from o1jax.data.template import TextTemplate

BEGIN = "You solve problems by thinking in writing before you answer."
ASKS = {
    "analysis": "First restate the problem in your own words: what is given, and what "
    "is asked.",
    "decomposition": "Then make a plan: a numbered list of the smaller problems to "
    "solve, in order.",
    "completion": "Work through it step by step, one calculation in each step.",
    "alternatives": "Before you settle on a result, try another way to reach it and "
    "begin that with 'Alternatively'.",
    "evaluation": "After each step write 'Let me check', verify the step, and say how "
    "sure you are in percent.",
    "correction": "When a check fails, write 'Wait', say which step was wrong, go back "
    "to it and do it again.",
}
END = "Finish with one line that holds the answer and nothing else."

# A phrase may open a sentence or stand in it; each was chosen to be rare otherwise.
_CUES = {
    "analysis": r"\bwe (?:are given|need to find|have to find|know that)\b"
    r"|\bgiven:|\bthe (?:problem|question) (?:asks|is asking|gives)\b"
    r"|\bin other words\b|\brestat(?:e|ing)\b|\bwe are asked\b",
    "decomposition": r"\b(?:my|the|a) plan(?: is)?\b|\bplan:|\bbreak (?:this|it|the "
    r"problem) (?:down|into)\b|\bsub-?(?:problem|task)s?\b|\bsmaller problems\b",
    "completion": r"\bstep \d+\b|^\s*\d+[.)]\s"
    r"|\bfirst,.{1,200}\b(?:then|next|second)\b",
    "alternatives": r"\balternatively\b|\banother (?:way|approach|method)\b"
    r"|\b(?:a )?different (?:way|approach|method)\b",
    "evaluation": r"\blet(?:'s| me| us) (?:double[- ])?(?:check|verify)\b"
    r"|\bto (?:check|verify)\b|\bchecking\b|\b\d+ ?(?:%|percent) (?:sure|confident|"
    r"certain)\b|\bi am (?:sure|confident|certain)\b",
    "correction": r"\bwait\b[,.:!]|\bi made (?:a|an) (?:mistake|error)\b|\bthat(?:'s| "
    r"is) (?:wrong|not right|incorrect)\b|\bgo(?:ing)? back to\b|\bcorrection:"
    r"|\blet me (?:redo|correct|fix|try again)\b",
}
CUES = {
    name: re.compile(cue, re.IGNORECASE | re.MULTILINE) for name, cue in _CUES.items()
}
READ = 20_000  # characters of a text


@dataclass(frozen=True)
class SystemPrompt:
    """What is asked for."""

    behaviours: tuple[str, ...] = tuple(ASKS)
    extra: str = ""  # put before the last sentence, such as demonstrations

    def __post_init__(self) -> None:
        for name in self.behaviours:
            if name not in ASKS:
                raise ValueError(
                    f"behaviours: {name!r} is none; choose from {', '.join(ASKS)}"
                )

    @property
    def text(self) -> str:
        """The system prompt; "" if nothing is asked for."""
        asks = [ask for name, ask in ASKS.items() if name in self.behaviours]
        if not asks and not self.extra:
            return ""
        return " ".join(filter(None, [BEGIN, *asks, self.extra, END]))


@configurable
@dataclass(frozen=True)
class PromptTemplate(TextTemplate):
    """A chat template with a system prompt, which is part of `before_question`."""

    behaviours: tuple[str, ...] = ()  # that it asks for
    system: str = ""  # the system prompt alone

    def measure(self, texts: Sequence[str]) -> dict[str, float]:
        """Of each behaviour the part of sampled texts that show it."""
        return shares(texts)


def shown(text: str) -> tuple[str, ...]:
    """The behaviours that a text shows."""
    text = text[:READ].replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    return tuple(name for name, cue in CUES.items() if cue.search(text))


def shares(texts: Sequence[str]) -> dict[str, float]:
    """Of each behaviour the part of the texts that show it."""
    found = [shown(text) for text in texts]
    return {
        name: sum(name in one for one in found) / max(len(found), 1) for name in ASKS
    }
