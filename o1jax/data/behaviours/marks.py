"""The words that open a behaviour, and a text cut into its segments.

A response stays a list of segments, each closed by STEP_END. One that opens with a mark
is a behaviour; any other is a worked step of the task. Each mark is one word, so one
piece of a symbol tokenizer. The six behaviours are those of the roadmap (Zeng et al.
2024, arXiv 2412.14135, section 3.3).
"""

from typing import NamedTuple

from o1jax.tasks.steps import split_steps

ANALYSIS = "<analysis>"  # what is asked, restated, with what it needs
PLAN = "<plan>"  # the sub-tasks, in order
WORK = "<work>"  # worked steps begin here
OTHER = "<other>"  # another step in place of the last one
CHECK = "<check>"  # is the work so far right? and the chance that it is
BACK = "<back>"  # step #k, or the last one, is wrong: go back to before it
ANSWER = "<answer>"  # the answer alone, with no steps
MARKS = (ANALYSIS, PLAN, WORK, OTHER, CHECK, BACK, ANSWER)

RIGHT, WRONG = "right", "wrong"
CHANCES = tuple(f"{percent}%" for percent in range(0, 101, 10))
CHANCE_OF = {word: i / 10 for i, word in enumerate(CHANCES)}
WHY = ":"  # between another way to a step and the step itself


class Segment(NamedTuple):
    """One closed segment; `mark` is "" for a worked step without one."""

    mark: str
    body: str  # words, single blanks between them
    end: int  # character offset just behind its STEP_END


def segments(response: str) -> tuple[list[Segment], str]:
    """The closed segments, and the unclosed rest; reads MAX_RESPONSE characters."""
    steps, ends, rest = split_steps(response)
    found = []
    for step, end in zip(steps, ends):
        words = step.split()
        mark = words[0] if words and words[0] in MARKS else ""
        found.append(Segment(mark, " ".join(words[bool(mark) :]), end))
    return found, rest


def ordinal(k: int) -> str:
    """The word for step (or node) number k."""
    return f"#{k}"


def number(word: str) -> int:
    """k of the word `#k`; -1 if it is none."""
    digits = word[1:]
    fits = word[:1] == "#" and digits.isascii() and digits.isdecimal()
    if not fits or len(digits) > 4 or (digits[0] == "0" and digits != "0"):
        return -1
    return int(digits)


def taken_back(body: str, standing: int) -> int:
    """Which step a `<back>` takes back, of so many that stand; 0: none of them."""
    k = number(body) if body else standing
    return k if 1 <= k <= standing else 0


def chance(probability: float) -> str:
    """The nearest word for a probability, which may lie outside of [0, 1]."""
    return CHANCES[round(10 * min(max(probability, 0.0), 1.0))]


def symbols(ordinals: int) -> list[str]:
    """Words of all behaviours, with step numbers up to `ordinals`."""
    numbers = [ordinal(k) for k in range(1, ordinals + 1)]
    return [*MARKS, RIGHT, WRONG, WHY, ",", *CHANCES, *numbers]
