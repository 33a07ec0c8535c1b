"""A tree as a journey: its wrong turns, each left by a check and a step back."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from o1jax.data.behaviours import Behaviours, counts, journey
from o1jax.data.behaviours.meter import COUNTS
from o1jax.search.trace import Trace
from o1jax.tasks import Chain, Countdown


def tree(question: str, rows, chosen: int = 0) -> Trace:
    """A recorded tree of (parent, step, visits, value)."""
    parent, step, visits, value = zip((-1, "", 9, 0.5), *rows)
    count = len(parent)
    return Trace(
        question=question,
        method="test",
        parent=parent,
        step=step,
        visits=visits,
        value=value,
        action=(-1, *range(1, count)),
        raw_value=value,
        logprob=value,
        finished=(False,) * count,
        verdict=("",) * count,
        chosen=chosen,
    )


ROWS = [  # of 7 + 5 * 3, whose steps are 12 ; 13
    (0, "2 ;", 2, 0.2),  # wrong, and so is all below
    (0, "12 ;", 5, 0.8),
    (0, "4 ;", 3, 0.4),  # wrong, visited more often
    (3, "12 ;", 2, 0.31),
    (2, "5 ;", 1, -0.1),
    (2, "13 ;", 3, 1.0),
]


def test_a_journey_by_hand():
    task, base = Behaviours(task=Chain()), Chain()
    example = base.parse("7 + 5 * 3")
    made = lambda **knobs: journey(base, example, tree("", ROWS, 6), **knobs).response
    assert made() == (
        "<work> 4 ; 12 ; <check> wrong 30% ; <back> #1 ; 12 ; "
        "5 ; <check> wrong 0% ; <back> #2 ; 13 ;"
    )
    assert made(turns=2, depth=1) == (
        "<work> 4 ; <check> wrong 40% ; <back> #1 ; 2 ; <check> wrong 20% ; "
        "<back> #1 ; 12 ; 5 ; <check> wrong 0% ; <back> #2 ; 13 ;"
    )
    assert made(turns=0) == "<work> 12 ; 13 ;"
    assert made(turns=2, max_words=10) == "<work> 12 ; 13 ;"  # nothing else fits
    assert task.grade(task.parse("7 + 5 * 3"), made(turns=2)) == 1
    assert journey(base, example, tree("", ROWS[:5])) is None  # no right answer
    assert journey(base, example, tree("", ROWS), max_words=3) is None


def test_a_wrong_choice_is_not_the_way():
    """The tree chose the node of 5; its right answer is another."""
    base = Chain()
    text = journey(base, base.parse("7 + 5 * 3"), tree("", ROWS, 5), turns=0)
    assert text.response == "<work> 12 ; 13 ;"


@given(data=st.data())
@settings(max_examples=60)
def test_every_journey_is_right_and_is_counted(data):
    """Trees of right steps and mistakes, of a task with dead ends."""
    base = Countdown()
    task = Behaviours(task=base, correction=0.6, analysis=0, decomposition=0)
    example = base.example(0, "train", data.draw(st.integers(0, 40)))
    words = task.example(0, "train", data.draw(st.integers(0, 40))).hidden.segments
    pool = [*example.steps, *(w for w in words if not w.startswith("<"))]
    rows = []
    for n in range(data.draw(st.integers(0, 10))):
        step, visits = data.draw(st.sampled_from(pool)), data.draw(st.integers(1, 9))
        parent = data.draw(st.integers(0, n))
        rows.append((parent, f"{step} ;", visits, data.draw(st.floats(-1, 1))))
    first = len(rows) + 1
    rows.append((0, f"{example.steps[0]} ;", 1, 1.0))
    rows.append((first, f"{example.steps[1]} ;", 1, 1.0))
    text = journey(base, example, tree(example.question, rows), turns=3, depth=3)
    assert task.grade(text.as_example(), text.response) == 1
    own = counts(base, example, text.response)
    assert Counter({n: own[n] for n in COUNTS if own[n]}) == text.labels
    assert text.labels["back"] == text.labels["back_found"] == text.labels["check"]
