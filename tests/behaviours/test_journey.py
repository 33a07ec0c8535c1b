"""A tree as a journey: its wrong turns, each left by a check and a step back."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from o1jax.data.behaviours import Behaviours, counts, journey
from o1jax.data.behaviours.meter import COUNTS
from o1jax.data.recorded import TreeText
from o1jax.search.trace import Trace, write_traces
from o1jax.tasks import Chain, Countdown, Task


def response(steps) -> str:
    return " ".join(f"{step} ;" for step in steps)


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
    assert made(turns=0, checks=1) == (
        "<work> 12 ; <check> right 80% ; 13 ; <check> right 100% ;"
    )
    assert made(checks=1, max_words=13) == made(turns=0, checks=1)
    assert made(checks=1, max_words=12) == "<work> 12 ; 13 ;"
    assert task.grade(task.parse("7 + 5 * 3"), made(turns=2)) == 1
    assert journey(base, example, tree("", ROWS[:5])) is None  # no right answer
    assert journey(base, example, tree("", ROWS), max_words=3) is None


def test_a_wrong_choice_is_not_the_way():
    """The tree chose the node of 5; its right answer is another."""
    base = Chain()
    text = journey(base, base.parse("7 + 5 * 3"), tree("", ROWS, 5), turns=0)
    assert text.response == "<work> 12 ; 13 ;"


@given(data=st.data())
@settings(max_examples=30)
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
    asked = tree(example.question, rows)
    share = data.draw(st.sampled_from((0, 0.5, 1)))
    text = journey(base, example, asked, turns=3, depth=3, checks=share)
    assert task.grade(text.as_example(), text.response) == 1
    own = counts(base, example, text.response)
    assert Counter({n: own[n] for n in COUNTS if own[n]}) == text.labels
    said = text.labels
    assert said["back"] == said["back_found"] and said["check"] == said["check_right"]
    way = len(journey(base, example, asked, turns=0).segments)
    right = said["check"] - said["back"]
    assert right == {0: 0, 1: way}.get(share, right) and 0 <= right <= way


def test_an_end_of_an_answer_is_no_step():
    """As a search records it: the chosen node's step is empty, its parent answers."""
    base = Chain()
    rows = [*ROWS, (6, "", 2, 1.0), (2, "", 9, 0.0), (5, "", 1, 0.0)]
    made = journey(base, base.parse("7 + 5 * 3"), tree("", rows, 7))
    assert made == journey(base, base.parse("7 + 5 * 3"), tree("", ROWS, 6))


def test_trees_of_a_file_are_a_task(tmp_path):
    base = Chain(min_steps=2, max_steps=2)
    asked = [base.example(0, "train", 0), base.example(0, "test", 0)]
    trees = []
    for example in [*asked, asked[0]]:
        first, last = example.steps
        wrong = str((int(first) + 1) % 23)
        rows = [(0, f"{wrong} ;", 3, 0.2), (0, f"{first} ;", 2, 0.5)]
        rows.append((2, f"{last} ;", 2, 1.0))
        trees.append(tree(example.question, rows[: 1 if len(trees) == 2 else 3]))
    file = tmp_path / "trees.jsonl"
    write_traces(file, trees)
    task = TreeText(path=str(file), task=base, checks=0.0)
    assert isinstance(task, Task) and task.name == "chain-journey"
    told = task.example(0, "train", 0)
    text = response(told.steps)
    first, last = asked[0].steps
    wrong = str((int(first) + 1) % 23)
    assert (
        text == f"<work> {wrong} ; <check> wrong 20% ; <back> #1 ; {first} ; {last} ;"
    )
    # Neither the test question nor the tree without an answer is trained on.
    assert task.example(0, "train", 1) == told
    assert task.grade(told, text) == task.state_value(told, told.steps) == 1
    assert task.check_steps(told, text)[-1].correct
    assert task.measure([told], [text])["back_mended"] == 1
    assert task.example(0, "test", 0).steps == asked[1].steps
    assert set(text.split()) <= set(task.symbols())
    assert task.parse("7 + 5").steps == ("12",)


def test_half_of_the_right_steps_are_checked(tmp_path):
    """A check says right half as often as wrong, where each step has a wrong turn."""
    base, trees = Chain(min_steps=3, max_steps=3), []
    for index in range(200):
        example = base.example(0, "train", index)
        steps = [(n, f"{step} ;", 2, 0.9) for n, step in enumerate(example.steps)]
        wrong = [
            (n, f"{(int(s) + 1) % 23} ;", 1, 0.2) for n, s in enumerate(example.steps)
        ]
        trees.append(tree(example.question, [*steps, *wrong]))
    file = tmp_path / "trees.jsonl"
    write_traces(file, trees)
    task = TreeText(path=str(file), task=base)
    texts = [response(task.example(0, "train", i).steps) for i in range(200)]
    assert sum(text.count("<check> wrong") for text in texts) == 600
    # 600 draws of 1/2, four standard deviations.
    assert abs(sum(text.count("<check> right") for text in texts) - 300) < 4 * 150**0.5
    # Not the same places each time: all ways to check some of three steps are there.
    places = {tuple("right" in s for s in text.split("<check>")) for text in texts}
    assert len(places) == 2**3
    with pytest.raises(ValueError, match="checks must be from 0 to 1"):
        TreeText(path="", checks=1.5)


def test_searches_of_a_file_and_what_is_refused(tmp_path):
    base = Countdown()
    example = base.example(0, "train", 1)
    rows = [(0, f"{example.steps[0]} ;", 1, 0.5), (1, f"{example.steps[1]} ;", 1, 1.0)]
    file = tmp_path / "trees.jsonl"
    write_traces(file, [tree(example.question, rows)])
    task = TreeText(path=str(file), task=base, form="search")
    told = task.example(0, "train", 5)
    assert told.steps[0].startswith("<at> #0") and "<goal> #2" in told.steps
    assert task.grade(told, response(told.steps)) == 1
    for text, culprit in [
        ("{}", ':1: "question" is not a text'),
        ('{"question": "x", "parent": [-1]}', ':1: "step" is no list'),
        ('{"question": "x", "parent": ["-1"]}', ':1: "parent" holds something'),
        ("", ": no search of a train question"),
    ]:
        file.write_text(text)
        with pytest.raises(ValueError, match=culprit):
            TreeText(path=str(file), form="search").example(0, "train", 0)
    with pytest.raises(ValueError, match="form must be"):
        TreeText(path="", form="story")
    with pytest.raises(ValueError, match="searches are over Countdown, Graph"):
        TreeText(path="", form="search", task=Chain())
