"""Texts with behaviours: what is graded of them, and that every text made is right."""

import dataclasses
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from o1jax.data.behaviours import Behaviours, PathTemplate, Walk
from o1jax.data.behaviours.author import stated_chance
from o1jax.data.behaviours.marks import MARKS, number, segments
from o1jax.data.tokenizer import from_symbols
from o1jax.tasks import Chain, Countdown, Graph, Task
from o1jax.tasks.steps import MAX_RESPONSE, StepTask

BASES = [
    Chain(),
    Chain(min_steps=1, max_steps=3, modulus=2, operators="-"),
    Countdown(),
    Countdown(numbers=4, max_number=13),
    Graph(),
    Graph(min_variables=1, max_variables=3, max_inputs=1, distractors=0),
]
SWITCHES = (
    "analysis",
    "decomposition",
    "alternatives",
    "evaluation",
    "correction",
    "delay",
)
every_base = pytest.mark.parametrize("base", BASES, ids=repr)


def response(steps) -> str:
    return " ".join(f"{step} ;" for step in steps)


def standing(text: str) -> list[str]:
    """The steps that stand, by another way than Walk: rewriting from the left."""
    parts = [part.split() for part in text.split(";")[:-1]]
    kept = []
    for words in parts:
        mark = words[0]
        if mark in ("<analysis>", "<plan>", "<check>"):
            continue
        if mark == "<back>":
            kept = kept[: int(words[1][1:]) - 1] if words[1:] else kept[:-1]
        elif mark == "<other>":
            kept[-1] = " ".join(words[words.index(":") + 1 if ":" in words else 1 :])
        else:
            kept.append(" ".join(words[1:] if mark == "<work>" else words))
    return kept


@every_base
@given(index=st.integers(0, 10_000), rates=st.tuples(*[st.sampled_from([0, 0.4])] * 2))
@settings(max_examples=40)
def test_every_text_is_right_by_the_task_itself(base, index, rates):
    accept, reject = rates
    task = Behaviours(
        task=base,
        correction=0.4,
        alternatives=0.4,
        delay=2,
        false_accept=accept,
        false_reject=reject,
    )
    example = task.example(1, "train", index)
    text = response(example.steps)
    own = base.example(1, "train", index)
    assert (example.question, example.answer) == (own.question, own.answer)
    assert task.grade(example, text) == 1
    assert base.grade(own, response(standing(text))) == 1
    frozen = dataclasses.replace(example, hidden=None)  # as read from a file
    assert task.grade(frozen, text) == 1
    assert task.check_steps(frozen, text)[-1].correct
    assert task.state_value(frozen, example.steps) == 1


@every_base
def test_every_word_is_one_piece_and_comes_back(base):
    task = Behaviours(task=base)
    assert isinstance(task, Task) and task.name == f"{base.name}-behaviours"
    tokenizer = from_symbols(task.symbols())
    assert [len(tokenizer.encode(mark)) for mark in MARKS] == [1] * len(MARKS)
    for i in range(50):
        example = task.example(0, "train", i)
        for text in (example.question, response(example.steps)):
            ids = tokenizer.encode(text)
            assert len(ids) == len(text.split()) and tokenizer.decode(ids) == text


@every_base
def test_a_switch_turns_its_behaviour_off(base):
    marks = {
        "analysis": "<analysis>",
        "decomposition": "<plan>",
        "alternatives": "<other>",
        "evaluation": "<check>",
        "correction": "<back>",
    }
    all_off = dict.fromkeys(SWITCHES, 0)
    for name, mark in marks.items():
        without = Behaviours(task=base, **{name: 0})
        alone = Behaviours(task=base, **(all_off | {name: 0.5}))
        texts = [
            [response(task.example(0, "train", i).steps) for i in range(60)]
            for task in (without, alone)
        ]
        assert not any(mark in text for text in texts[0])
        shown = {m for text in texts[1] for m in MARKS if m in text}
        # A chain of one-input definitions may have no other way at any step.
        assert shown - {"<work>"} == {mark} or (shown, name) == (
            {"<work>"},
            "alternatives",
        )


def test_the_answer_alone_counts_only_where_texts_give_it_alone():
    quick = Behaviours(task=Chain(), completion=0, analysis=0, decomposition=0)
    example = quick.example(0, "train", 3)
    assert example.steps == (f"<answer> {example.answer}",)
    text = response(example.steps)
    assert quick.grade(example, text) == 1
    assert quick.check_steps(example, text)[0].correct
    assert Behaviours(task=Chain()).grade(example, text) == 0
    wrong = f"<answer> {(int(example.answer) + 1) % 23} ;"
    assert quick.grade(example, wrong) == quick.state_value(example, [wrong[:-2]]) == 0
    steps = response(Chain().example(0, "train", 3).steps)
    assert quick.grade(example, steps) == 1
    assert quick.grade(example, f"{steps} {text}") == 0  # both, to be safe
    assert quick.grade(example, f"{text} {text}") == 0
    assert quick.parse("7 + 5 =").steps == ("12",)


GRADES = [  # of 7 + 5 * 3 - 2, whose steps are 12 ; 13 ; 11
    ("12 ; 13 ; 11 ;", 1),
    ("<work> 12 ; 13 ; 11 ;", 1),
    ("12 ; 5 ; <back> #2 ; 13 ; 11 ;", 1),
    ("12 ; 5 ; 3 ; <check> wrong 10% ; <back> #2 ; 13 ; 11 ;", 1),
    ("12 ; 5 ; <back> ; 13 ; 11 ;", 1),  # the last step
    ("12 ; 5 ; <back> ; <back> ; 12 ; 13 ; 11 ;", 1),
    ("<back> ; 12 ; 13 ; 11 ;", 0),
    ("12 ; 5 ; <other> 13 ; 11 ;", 1),
    ("12 ; 13 ; <other> 3 * 12 : 13 ; 11 ;", 1),
    ("12 ; 13 ; 11 ; <check> wrong 0% ;", 1),  # a wrong note is a note
    ("<plan> nonsense ; <check> ; 12 ; 13 ; 11 ;", 1),
    ("12 ; 13 ; 11 ; 4 ; <back> #4 ;", 1),
    ("12 ; 5 ; 11 ;", 0),
    ("12 ; 13 ;", 0),
    ("12 ; 13 ; 11", 0),  # the last step is not closed
    ("12 ; 13 ; 11 ; <check> right", 0),
    ("12 ; 13 ; 11 ; <back> #3 ;", 0),  # the answer was taken back
    ("12 ; <back> #2 ; 13 ; 11 ;", 0),  # no such step stands
    ("12 ; <back> #0 ; 12 ; 13 ; 11 ;", 0),
    ("12 ; 5 ; <back> 2 ; 13 ; 11 ;", 0),
    ("12 ; 5 ; <back> #2 #2 ; 13 ; 11 ;", 0),
    ("<other> 12 ; 13 ; 11 ;", 0),  # in place of nothing
    ("12 ; 13 ; <back> #9 ; <back> #1 ; 12 ; 13 ; 11 ;", 0),  # broken for good
    ("12 ; 13 ; <other> 3 * 12 ; 11 ;", 0),
    ("12 ; 13 <back> ; 11 ;", 0),
]


@pytest.mark.parametrize("text, grade", GRADES)
def test_what_is_graded_are_the_steps_that_stand(text, grade):
    task = Behaviours(task=Chain())
    example = task.parse("7 + 5 * 3 - 2")
    assert task.grade(example, text) == grade


def test_a_mistake_is_wrong_until_it_is_taken_back():
    task = Behaviours(task=Chain())
    example = task.parse("7 + 5 * 3 - 2")
    text = "12 ; 5 ; <check> wrong 10% ; <back> #2 ; 13 ; <back> #7 ; 11 ;"
    checks = task.check_steps(example, text)
    assert [c.correct for c in checks] == [1, 0, 0, 1, 1, 0, 0]
    assert [text[: c.end][-3:] for c in checks][:2] == ["2 ;"[-3:], "5 ;"]
    assert checks[1].reason == "should be 13"
    assert checks[5].reason == "goes back to a step that does not stand"
    steps = [part.strip() for part in text.split(";")[:-1]]
    values = [task.state_value(example, steps[:n]) for n in range(8)]
    assert values == [1, 1, 0, 0, 1, 1, 0, 0]


@every_base
@given(data=st.data())
@settings(max_examples=60)
def test_any_words_are_graded_like_the_steps_that_stand(base, data):
    """A text is right exactly where another reader's standing steps are."""
    task = Behaviours(task=base)
    example = task.example(0, "train", data.draw(st.integers(0, 50)))
    random_words = st.lists(st.sampled_from(task.symbols()), max_size=4)
    pieces = st.one_of(
        st.sampled_from(example.steps), random_words.map(" ".join), st.just("<back> #1")
    )
    text = response([*example.steps, *data.draw(st.lists(pieces, max_size=4))])
    grade = task.grade(example, text)
    assert grade in (0, 1)
    if grade:
        assert base.grade(example.hidden.example, response(standing(text))) == 1
    checks = task.check_steps(example, text)
    assert len(checks) == text.count(";")
    assert all(bool(check.reason) != check.correct for check in checks)


HOSTILE = [
    "",
    ";" * 1_000_000,
    "<back> #1 ;" * 100_000,
    "1 ; <back> #1 ; " * 100_000,
    "<other> 1 : 1 ; " * 100_000,
    "<back> #" + "9" * 1_000_000 + " ;",
    "<back> #\u0661 ; <back> #\u00b2 ;",
    "\ud800 ; <check> \udfff ;",
    "<answer> " * 100_000 + ";",
]


@pytest.mark.parametrize(
    "text", HOSTILE, ids=lambda t: t[:12].encode().hex() if t.isprintable() else "x"
)
@every_base
def test_hostile_text_is_wrong_in_bounded_work(base, text):
    task = Behaviours(task=base)
    example = task.example(0, "train", 0)
    assert task.grade(example, text) == 0
    checks = task.check_steps(example, text)
    assert len(checks) <= MAX_RESPONSE
    assert max((len(check.reason) for check in checks), default=0) < 100
    PathTemplate().parse(text)


def test_the_oracle_reads_each_step_once():
    """However often steps are taken back: work grows with the text, not its square."""
    asked = []

    class Counting(Chain):
        def advance(self, state, step):
            asked.append(step)
            return super().advance(state, step)

    task = Counting()
    walk = Walk(task, task.parse("7 + 5 ="))
    for segment in segments("12 ; 3 ; <back> #2 ; " * 500)[0]:
        walk.take(segment)
        assert walk.alive in (True, False) and walk.first_wrong in (0, 2, 3)
    assert len(asked) <= 1000


def test_votes_are_about_the_steps_that_stand():
    parse = PathTemplate().parse
    assert parse("12 ; 5 ; <back> #2 ; 13 ; <check> right 90% ;") == (
        ("12", "13"),
        "13",
    )
    assert parse("12 ; 13 ; 1") == (("12", "13"), "")
    assert parse("12 ; <back> #4 ;") == (("12",), "")
    assert parse("<analysis> 7 ; <answer> 13 ;") == ((), "13")


def test_the_stated_chance_is_bayes_rule():
    """A checker that errs one time in four, of steps of which one in five is wrong."""
    mix = Behaviours(correction=0.2, false_accept=0.25, false_reject=0.25)
    # P(right | accepts) = .8 * .75 / (.8 * .75 + .2 * .25) = .6 / .65 = .92
    assert stated_chance(mix, "right") == "90%"
    # P(right | rejects) = .8 * .25 / (.8 * .25 + .2 * .75) = .2 / .35 = .57
    assert stated_chance(mix, "wrong") == "60%"
    sure = Behaviours(correction=0.2)
    assert [stated_chance(sure, v) for v in ("right", "wrong")] == ["100%", "0%"]


def test_a_text_keeps_to_its_limit():
    free = Behaviours(task=Chain(max_steps=4), correction=0.5)
    tight = dataclasses.replace(free, max_words=20)
    words = lambda task: [
        len(response(task.example(0, "train", i).steps).split()) for i in range(80)
    ]
    assert max(words(free)) > 40
    assert min(words(tight)) >= 8 and max(words(tight)) <= 20


def test_numbers_of_steps():
    assert [number(w) for w in ("#0", "#12", "#012", "#", "12", "#-1", "")] == [
        *(0, 12, -1, -1, -1, -1, -1)
    ]


@pytest.mark.parametrize(
    "knobs, culprit",
    [
        ({"analysis": 1.5}, "analysis must be from 0 to 1"),
        ({"correction": 1}, "correction must be below 1"),
        ({"delay": -1}, "Behaviours.delay"),
        ({"max_words": True}, "Behaviours.max_words"),
        ({"mistakes": "odd"}, "mistakes must be 'plain' or 'weak'"),
        ({"mistakes": "weak", "delay": 1}, "delay: nothing follows"),
        ({"numbered": False, "delay": 1}, "delay: a mistake that others follow"),
        ({"task": Countdown(), "completion": 0.5}, "completion must be 1"),
        ({"task": StepTask()}, "task is StepTask; texts are for Chain, Countdown"),
    ],
)
def test_bad_knob_is_named(knobs, culprit):
    with pytest.raises(ValueError, match=culprit):
        Behaviours(**knobs)


def test_texts_are_a_function_of_their_index():
    task = Behaviours()
    order = random.Random(0).sample(range(20), 20)
    again = {i: task.example(0, "train", i).steps for i in order}
    assert again == {i: task.example(0, "train", i).steps for i in range(20)}
    assert task.example(0, "train", 0) != task.example(1, "train", 0)
