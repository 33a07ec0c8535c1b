"""What every task with a step oracle promises, on the same tests for all of them."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from o1jax.tasks import SPLITS, Chain, Countdown, Graph, Task, split_of
from o1jax.tasks.steps import MAX_RESPONSE

TASKS = [
    Chain(),
    Chain(min_steps=1, max_steps=1, modulus=6, operators="*-"),
    Countdown(),
    Countdown(numbers=4, max_number=13),
    Graph(),
    Graph(min_variables=1, max_variables=4, max_inputs=1, distractors=0, modulus=7),
]
every_task = pytest.mark.parametrize("task", TASKS, ids=repr)

# Surrogates are left in: a byte-level tokenizer can emit them.
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=60)


def response(steps) -> str:
    return "".join(f"{step} ; " for step in steps).rstrip()


@every_task
def test_is_a_task_with_a_name(task):
    assert isinstance(task, Task)
    assert task.name == type(task).__name__.lower()


@every_task
def test_worked_solution_is_right(task):
    for i in range(200):
        example = task.example(3, "train", i)
        text = response(example.steps)
        assert task.grade(example, text) == 1.0
        checks = task.check_steps(example, text)
        assert [c.correct for c in checks] == [True] * len(example.steps)
        closed = [text[: c.end].count(";") for c in checks]
        assert closed == [1 + i for i in range(len(checks))]
        assert all(text[c.end - 1] == ";" and c.reason == "" for c in checks)
        assert example.steps[-1].split()[-1] == example.answer
        prefixes = (example.steps[:n] for n in range(len(example.steps) + 1))
        assert {task.state_value(example, p) for p in prefixes} == {1.0}


@every_task
def test_example_is_a_pure_function_of_its_index(task):
    first = [task.example(0, "train", i) for i in range(5)]
    again = [type(task)(**vars(task)).example(0, "train", i) for i in (4, 3, 2, 1, 0)]
    assert first == again[::-1]
    assert task.example(1, "train", 0) != first[0]


GOLDEN = [
    (
        Chain(),
        "21 - 15 - 4 + 4 + 6 - 8 * 15 + 18 * 1 =",
        "6 ; 2 ; 6 ; 12 ; 4 ; 14 ; 9 ; 9",
    ),
    (Countdown(), "8 18 20 -> 46 :", "20 + 18 = 38 , 8 38 ; 38 + 8 = 46 , 46"),
    (
        Graph(),
        "e = t + r , j = 8 , t = f * 7 , f = r * 13 , i = r * p , p = f - e , "
        "r = j + 5 , p ?",
        "j = 8 ; r = j + 5 = 13 ; f = r * 13 = 8 ; t = f * 7 = 10 ; "
        "e = t + r = 0 ; p = f - e = 8",
    ),
]


@pytest.mark.parametrize("task, question, steps", GOLDEN, ids=lambda x: "")
def test_stream_has_not_changed(task, question, steps):
    """A changed stream makes results of older checkpoints impossible to repeat."""
    example = task.example(7, "train", 11)
    assert (example.question, " ; ".join(example.steps)) == (question, steps)


@every_task
def test_splits_share_no_question(task):
    sizes = {"train": 3000, "valid": 300, "test": 300}
    questions = {
        split: {task.example(0, split, i).question for i in range(size)}
        for split, size in sizes.items()
    }
    for split in SPLITS:
        assert {split_of(q) for q in questions[split]} == {split}
    assert sum(map(len, questions.values())) == len(set.union(*questions.values()))


@every_task
def test_symbols_cover_every_word(task):
    symbols = task.symbols()
    assert len(symbols) == len(set(symbols))
    assert all(len(s.split()) == 1 and s.isascii() for s in symbols)
    for i in range(300):
        example = task.example(1, "test", i)
        for text in (example.question, response(example.steps)):
            assert text == " ".join(text.split())
            assert set(text.split()) <= set(symbols)


@every_task
def test_parse_reads_its_own_questions(task):
    for i in range(100):
        example = task.example(2, "valid", i)
        parsed = task.parse(example.question)
        assert parsed.question == example.question
        assert parsed.answer == example.answer
        assert parsed.difficulty == example.difficulty
        assert task.grade(example, response(parsed.steps)) == 1.0
        spaced = example.question.replace(" ", "  ")
        assert task.parse(spaced).question == example.question


@every_task
def test_grades_an_example_that_lost_its_parsed_form(task):
    """As when a dataset on disk held only the text."""
    example = dataclasses.replace(task.example(0, "train", 0), hidden=None)
    assert task.grade(example, response(example.steps)) == 1.0
    assert task.state_value(example, example.steps) == 1.0
    with pytest.raises(ValueError, match=f"^{task.name} question 'gibberish'"):
        task.grade(dataclasses.replace(example, question="gibberish"), "1 ;")


def test_a_task_refuses_the_questions_of_another():
    """Whose parsed form it must not take for its own."""
    tasks = Chain(), Countdown(), Graph()
    for task, other in itertools.permutations(tasks, 2):
        with pytest.raises(ValueError, match=f"^{task.name} question"):
            task.grade(other.example(0, "train", 0), "1 ;")


@every_task
@given(data=st.data())
@settings(max_examples=150)
def test_one_corrupted_number_makes_its_step_wrong(task, data):
    example = task.example(0, "train", data.draw(st.integers(0, 10_000)))
    at = data.draw(st.integers(0, len(example.steps) - 1))
    words = example.steps[at].split()
    numbers = [i for i, word in enumerate(words) if word.isdecimal()]
    spot = data.draw(st.sampled_from(numbers))
    others = [s for s in task.symbols() if s.isdecimal() and s != words[spot]]
    words[spot] = data.draw(st.sampled_from(others))
    steps = list(example.steps)
    steps[at] = " ".join(words)
    checks = task.check_steps(example, response(steps))
    assert [c.correct for c in checks] == [i < at for i in range(len(steps))]
    assert checks[at].reason
    assert task.grade(example, response(steps)) == 0.0
    assert task.state_value(example, steps[: at + 1]) == 0.0
    assert task.state_value(example, steps[:at]) == 1.0


def assert_consistent(task, example, text):
    """Grade 1 means: all steps right, answered, and nothing unclosed; and back."""
    grade, checks = task.grade(example, text), task.check_steps(example, text)
    assert grade in (0.0, 1.0)
    right = all(c.correct for c in checks)
    # One more step is refused as late exactly if the question is answered by then.
    more = task.check_steps(example, text[: checks[-1].end] + "?;" if checks else "?;")
    answered = more[-1].reason == "comes after the answer"
    closed = not text[checks[-1].end if checks else 0 :].strip()
    assert (grade == 1.0) == (right and answered and closed)
    assert all(bool(c.reason) != c.correct for c in checks)


@every_task
@given(text=ANY_TEXT)
def test_any_text_is_graded(task, text):
    assert_consistent(task, task.example(0, "train", 0), text)


@every_task
@given(data=st.data())
@settings(max_examples=150)
def test_any_words_are_graded(task, data):
    """Right steps, dropped, repeated, reordered and mixed with the task's own words."""
    example = task.example(0, "train", data.draw(st.integers(0, 100)))
    words = st.lists(st.sampled_from(task.symbols()), max_size=8).map(" ".join)
    pieces = [st.sampled_from(example.steps), st.just(" ".join(example.steps)), words]
    steps = data.draw(st.lists(st.one_of(pieces), max_size=5))
    keep = data.draw(st.integers(0, len(example.steps)))
    text = response([*example.steps[:keep], *steps]) + data.draw(st.sampled_from("; x"))
    assert_consistent(task, example, text)


HOSTILE = {
    "empty": "",
    "only marks": ";" * 1_000_000,
    "marks and blanks": " ; " * 350_000,
    "digits": "9" * 1_000_000 + " ;",
    "power tower": "9**9**9 ;",
    "brackets": "(" * 500_000 + ")" * 500_000 + ";",
    "nan": "nan ; NaN = inf ;",
    "unicode digits": "\uff11\uff12 ; \u0661\u0662 ; \u00b2 ;",
    "surrogates": "\ud800 ; \udfff = \ud800 ;",
    "nulls": "\0;" * 1000,
}


@every_task
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_is_wrong_in_bounded_work(task, text):
    example = task.example(0, "train", 0)
    assert task.grade(example, text) == 0.0
    checks = task.check_steps(example, text)
    assert len(checks) <= MAX_RESPONSE
    assert not any(c.correct for c in checks)
    assert max((len(c.reason) for c in checks), default=0) < 100
    assert task.state_value(example, [text]) == 0.0


@every_task
def test_unicode_digits_are_not_digits(task):
    """int('\uff11') is 1 in Python; here a right answer in such digits is wrong."""
    example = task.example(0, "train", 0)
    wide = {ord(str(d)): chr(0xFF10 + d) for d in range(10)}
    assert task.grade(example, response(example.steps).translate(wide)) == 0.0
    with pytest.raises(ValueError):
        task.parse(example.question.translate(wide))


@every_task
def test_a_right_answer_may_be_padded_up_to_the_limit(task):
    example = task.example(0, "train", 0)
    text = response(example.steps)
    assert task.grade(example, text + " " * (MAX_RESPONSE - len(text))) == 1.0
    assert task.grade(example, text + " " * (MAX_RESPONSE - len(text) + 1)) == 0.0
    assert task.grade(example, text[:-1]) == 0.0  # the last step is not closed
    assert task.grade(example, text + " 1") == 0.0


@every_task
@pytest.mark.parametrize("question", ["", " ", "?", "nan", "1" * 10**6, "(" * 10**6])
def test_malformed_questions_get_one_short_line(task, question):
    with pytest.raises(ValueError, match=f"^{task.name} question ") as caught:
        task.parse(question)
    assert len(str(caught.value)) < 200 and "\n" not in str(caught.value)


@every_task
@given(text=ANY_TEXT)
def test_parse_raises_nothing_but_value_errors(task, text):
    with pytest.raises(ValueError) as caught:
        task.parse(text + "!")
    str(caught.value).encode()  # printable even if the question had surrogates


def test_bad_split_or_seed():
    with pytest.raises(ValueError, match="unknown split 'tset'"):
        Chain().example(0, "tset", 0)
    with pytest.raises(ValueError):
        Chain().example(-1, "train", 0)


@pytest.mark.parametrize(
    "task, knobs, culprit",
    [
        (Chain, {"min_steps": 0}, "Chain.min_steps"),
        (Chain, {"min_steps": 9}, "Chain.max_steps .* from 9 to 64, got 8"),
        (Chain, {"max_steps": 65}, "Chain.max_steps"),
        (Chain, {"modulus": 1}, "Chain.modulus"),
        (Chain, {"modulus": 23.0}, "Chain.modulus .* got 23.0"),
        (Chain, {"operators": ""}, "Chain.operators"),
        (Chain, {"operators": "+/"}, "Chain.operators"),
        (Chain, {"operators": "++"}, "Chain.operators"),
        (Chain, {"operators": None}, "Chain.operators"),
        (Countdown, {"numbers": 1}, "Countdown.numbers"),
        (Countdown, {"numbers": 7}, "Countdown.numbers"),
        (Countdown, {"numbers": True}, "Countdown.numbers"),
        (Countdown, {"min_number": 0}, "Countdown.min_number"),
        (Countdown, {"min_number": 21}, "Countdown.min_number"),
        (Countdown, {"max_number": 101}, "Countdown.max_number"),
        (Countdown, {"min_target": 51}, "Countdown.min_target"),
        (Countdown, {"max_target": 101}, "Countdown.max_target"),
        (Countdown, {"max_value": 1001}, "Countdown.max_value"),
        (Countdown, {"max_number": 2, "numbers": 2}, "Countdown.min_target 10 to"),
        (Graph, {"min_variables": 0}, "Graph.min_variables"),
        (Graph, {"min_variables": 7}, "Graph.max_variables"),
        (Graph, {"max_variables": 27}, "Graph.max_variables"),
        (Graph, {"distractors": 21}, "Graph.distractors .* from 0 to 20"),
        (Graph, {"distractors": -1}, "Graph.distractors"),
        (Graph, {"max_inputs": 3}, "Graph.max_inputs"),
        (Graph, {"modulus": 1001}, "Graph.modulus"),
    ],
)
def test_bad_knob_is_named(task, knobs, culprit):
    with pytest.raises(ValueError, match=culprit) as caught:
        task(**knobs)
    assert "\n" not in str(caught.value)


@given(st.integers(0, 2**31))
@settings(max_examples=50)
def test_extreme_knobs_make_right_examples(seed):
    rng = np.random.default_rng(seed)
    for task in (
        Chain(min_steps=64, max_steps=64, modulus=1000),
        Chain(min_steps=1, max_steps=2, modulus=2),
        Countdown(numbers=2),
        Countdown(numbers=6, max_number=100, max_value=1000, max_target=1000),
        Graph(min_variables=26, max_variables=26, distractors=0, modulus=1000),
        Graph(min_variables=1, max_variables=2, distractors=24, modulus=2),
    ):
        example = task.make(rng)
        assert task.grade(example, response(example.steps)) == 1.0
        assert len(response(example.steps)) < 2000 and len(example.question) < 2000
        assert task.parse(example.question).question == example.question
