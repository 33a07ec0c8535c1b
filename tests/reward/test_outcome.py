"""Outcome rewards: nothing but a grade is a grade, and tokens say what texts say."""

import dataclasses
import re
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from o1jax.data.template import Template
from o1jax.data.tokenizer import from_symbols
from o1jax.reward.outcome import (
    GradeError,
    Grader,
    gold_tokens,
    grade,
    steps_match,
    token_match,
)
from o1jax.tasks import answers
from o1jax.tasks.chain import Chain
from o1jax.tasks.countdown import Countdown
from o1jax.tasks.graph import Graph
from o1jax.tasks.task import Example

CHAIN = Chain(min_steps=1, max_steps=3, modulus=7)


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"):
        yield


class Says:
    """A task whose grade is whatever the function makes of an answer."""

    name = "says"

    def __init__(self, verdict):
        self.verdict = verdict

    def grade(self, example, response):
        return self.verdict(response, example.answer)


def asks(count):
    return [Example(f"question {i}", (), str(i), 0) for i in range(count)]


def test_grades_are_the_tasks_own():
    """`2 * 3 + 5 =` mod 7: 6, then 4. A wrong first step is wrong, healed or not."""
    example = CHAIN.parse("2 * 3 + 5 =")
    texts = ["6 ; 4 ;", "5 ; 4 ;", "6 ;", ""]
    grades = grade(CHAIN, [example] * 4, texts)
    np.testing.assert_array_equal(grades, [1, 0, 0, 0])
    assert grades.dtype == np.float64
    assert grade(CHAIN, [], []).shape == (0,)


@pytest.mark.parametrize("task", [CHAIN, Graph(), Countdown()], ids=lambda t: t.name)
@pytest.mark.parametrize("question", ["", "?", "7 +", "3 5 ->", "a = b , a ?"])
def test_a_question_that_no_task_reads_is_no_zero(task, question):
    """Nor a one: the worked solution of the example does not help either."""
    example = dataclasses.replace(
        task.example(0, "train", 0), question=question, hidden=None
    )
    culprit = re.escape(f"{task.name}, question {question!r}: ")
    with pytest.raises(GradeError, match=f"^{culprit}ValueError: {task.name}"):
        grade(task, [example], [Template().response(example)])


@pytest.mark.parametrize("task", [CHAIN, Graph(), Countdown()], ids=lambda t: t.name)
def test_these_tasks_work_their_answers_out(task):
    """They never read Example.answer, so a broken one can't turn into a reward."""
    good = task.example(0, "train", 0)
    broken = dataclasses.replace(good, answer="banana", hidden=None)
    texts = [Template().response(good), "banana ;"]
    np.testing.assert_array_equal(grade(task, [broken] * 2, texts), [1, 0])


@pytest.mark.parametrize(
    "verdict, gold, reason",
    [
        (answers.numeric, "banana", "ValueError: gold answer is not a number"),
        (answers.exact, " ", "ValueError: gold answer is empty"),
        (answers.expression, "1 +", "ValueError: gold answer is not arithmetic"),
        (lambda *_: float("nan"), "7", r"the grade nan is not in \[0, 1\]"),
        (lambda *_: 1.5, "7", r"the grade 1.5 is not in \[0, 1\]"),
        (lambda *_: -0.01, "7", r"the grade -0.01 is not in \[0, 1\]"),
        (lambda *_: None, "7", "TypeError: "),
        (lambda *_: {}["answer"], "7", "KeyError: 'answer'"),
    ],
)
def test_what_is_no_grade_raises_in_one_line(verdict, gold, reason):
    """With the task and the question in it, in the background as at once."""
    examples = asks(3)
    examples[1] = Example("which " * 20, (), gold, 0)
    good = lambda response, answer: float(response == answer)
    task = Says(lambda r, a: (verdict if a == gold else good)(r, a))
    with pytest.raises(GradeError, match=f"^says, question '{'which ' * 9}.*{reason}"):
        grade(task, examples, ["0", "1", "2"])
    with Grader(task, workers=2) as grader:
        grading = grader.submit(examples, ["0", "1", "2"])
        after = grader.submit(examples[2:], ["2"])
        with pytest.raises(GradeError, match=reason) as caught:
            grading.result()
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 250
        np.testing.assert_array_equal(after.result(), [1])  # it goes on


@pytest.mark.parametrize("workers", [1, 3, 8])
def test_grades_come_back_in_order(workers):
    """7 answers shared among workers; grade i is i / 7."""
    task = Says(lambda response, answer: int(answer) / 7)
    with Grader(task, workers=workers) as grader:
        first, second = (grader.submit(asks(n), [""] * n) for n in (7, 2))
        np.testing.assert_array_equal(second.result(), [0, 1 / 7])
        np.testing.assert_array_equal(first.result(), np.arange(7) / 7)
        assert first.done()
        assert grader.submit([], []).result().shape == (0,)


def test_the_device_works_while_grades_are_made():
    """The verifier waits for what is computed after its batch was submitted."""
    computed = threading.Event()
    task = Says(lambda response, answer: float(computed.wait(timeout=10)))
    with Grader(task) as grader:
        grading = grader.submit(asks(2), ["", ""])
        x = jax.block_until_ready(jnp.ones((8, 8)) @ jnp.ones((8, 8)))
        assert not grading.done() and x[0, 0] == 8
        computed.set()
        np.testing.assert_array_equal(grading.result(), [1, 1])


def test_workers_wait_side_by_side():
    """Neither of two answers is graded before both have been begun."""
    both = threading.Barrier(2, timeout=10)
    task = Says(lambda response, answer: float(both.wait() >= 0))
    with Grader(task, workers=2) as grader:
        np.testing.assert_array_equal(grader.submit(asks(2), ["", ""]).result(), [1, 1])


def test_lists_may_be_filled_again_after_submit():
    begin = threading.Event()
    task = Says(lambda response, answer: float(begin.wait(10) and response == answer))
    texts = ["0", "1"]
    with Grader(task) as grader:
        grading = grader.submit(asks(2), texts)
        texts[:] = ["", ""]
        begin.set()
        np.testing.assert_array_equal(grading.result(), [1, 1])


def test_a_verifier_that_hangs_is_named():
    """The second of three questions; leaving the grader does not wait for it."""
    release = threading.Event()
    task = Says(lambda response, answer: float(answer != "1" or release.wait(10)))
    late = r"^says, question 'question 1': not graded within 0\.05 s$"
    with Grader(task, timeout=0.05) as grader, pytest.raises(GradeError, match=late):
        grader.submit(asks(3), [""] * 3).result()
    release.set()


def test_a_program_ends_though_its_verifier_hangs():
    code = """
import threading
from o1jax.reward.outcome import Grader
class Hangs:
    name = "hangs"
    def grade(self, example, response):
        threading.Event().wait()
with Grader(Hangs()) as grader:
    grader.submit([None], [""])
print("over")
"""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    assert (run.returncode, run.stdout) == (0, "over\n"), run.stderr


def test_misuse_of_a_grader():
    with pytest.raises(ValueError, match="at least one worker, not 0"):
        Grader(CHAIN, workers=0)
    with pytest.raises(ValueError, match="timeout must be above 0 s, not 0"):
        Grader(CHAIN, timeout=0)
    uneven = "1 answers to 2 questions"
    with Grader(CHAIN) as grader, pytest.raises(ValueError, match=uneven):
        grader.submit(asks(2), [""])
    with pytest.raises(ValueError, match="is closed"):
        grader.submit(asks(1), [""])


# Tokens by hand: 9 closes a step, 2 and 3 stop. The prompt is 5 9, its 9 no mark.
@pytest.mark.parametrize(
    "response, answer, final, whole",
    [
        ([7, 9, 2], [7], 1, 1),
        ([7, 9, 3], [7], 1, 0),  # gold ends on 2
        ([6, 9, 7, 9, 2], [7], 1, 0),  # a step before it is not checked
        ([6, 7, 9, 2], [7], 0, 0),  # part of a step
        ([7, 8, 9, 2], [7], 0, 0),
        ([7, 8, 9, 2], [7, 8], 1, 1),
        ([8, 7, 9, 2], [7, 8], 0, 0),
        ([7, 9], [7], 0, 0),  # cut off
        ([7, 2], [7], 0, 0),  # not closed
        ([7, 9, 7, 2], [7], 0, 0),  # something follows
        ([7, 9, 9, 2], [7], 0, 0),  # an empty last step
        ([7, 9, 9, 2], [7, 9], 0, 1),  # no answer holds the mark
        ([9, 2], [5], 0, 0),  # nor is the prompt part of it
        ([9, 2], [], 0, 1),  # no answer, but the gold text
        ([2], [7], 0, 0),
        ([], [7], 0, 0),
        ([2, 7, 9, 2], [7], 0, 0),
        ([7, 9, 0], [7], 0, 0),  # padding is no stop token
    ],
)
def test_matches_by_hand(response, answer, final, whole):
    """Behind the row stand more marks, answers and stops, which must not be read."""
    T = 12
    row = ([5, 9, *response] + [7, 9, 2] * 4)[:T]
    whole_numbers = lambda *x: jnp.array(x, jnp.int32)
    tokens, start = whole_numbers(row), whole_numbers(2)
    length = whole_numbers(2 + len(response))
    pad = lambda ids: whole_numbers((ids + [7] * 6)[:6])
    size = lambda ids: whole_numbers(len(ids))
    found = token_match(
        tokens,
        start,
        length,
        pad(answer),
        size(answer),
        step_end_id=9,
        stop_ids=(2, 3),
    )
    np.testing.assert_array_equal(found, [final])
    gold = [*answer, 9, 2]
    found = steps_match(tokens, start, length, pad(gold), size(gold))
    np.testing.assert_array_equal(found, [whole])
    assert found.dtype == jnp.float32


TOKENIZER, TEMPLATE = from_symbols(CHAIN.symbols()), Template()


def hostile(rng, example):
    """The gold response, mostly spoilt: words and marks put in, taken out, swapped."""
    ids = TOKENIZER.encode(TEMPLATE.response(example))
    mark = TOKENIZER.id_of(";")
    for _ in range(rng.integers(0, 3)):
        at = int(rng.integers(0, len(ids) + 1))
        word = int(rng.choice([mark, *TOKENIZER.encode(example.question), *ids, mark]))
        kind = rng.integers(0, 4)
        if kind == 0:
            ids.insert(at, word)
        elif kind == 1:
            ids = ids[:at] + ids[at + 1 :]
        elif kind == 2:
            ids[at : at + 1] = [word]
        else:
            ids[at:at] = [word, mark]
    if rng.random() < 0.05:
        ids = ids[: rng.integers(0, 3)]
    return ids + [TOKENIZER.eos_id] * int(rng.random() < 0.8)


def batch(responses, examples, pad=0):
    """Arguments of the matches: (tokens, prompt_length, length), answers, gold."""
    prompts = [TEMPLATE.encode_prompt(TOKENIZER, e.question) for e in examples]
    rows = [p + r for p, r in zip(prompts, responses)]
    tokens = np.zeros((len(rows), max(map(len, rows)) + pad), np.int32)
    for row, ids in zip(tokens, rows):
        row[: len(ids)] = ids
    lengths = [np.array(list(map(len, x)), np.int32) for x in (prompts, rows)]
    answer = gold_tokens([TOKENIZER.encode(e.answer) for e in examples])
    gold = gold_tokens([TEMPLATE.encode(TOKENIZER, e)[1] for e in examples])
    return (tokens, *lengths), answer, gold


def match_both(rows, answer, gold):
    marks = dict(step_end_id=TOKENIZER.id_of(";"), stop_ids=(TOKENIZER.eos_id,))
    return token_match(*rows, *answer, **marks), steps_match(*rows, *gold)


def test_tokens_match_where_texts_are_right():
    """2,000 answers to chains, from right over almost right to nonsense.

    Of those that stopped, steps_match is the task's own grade, and token_match says
    whether the answer read by the template is the gold one. Others earn nothing.
    """
    rng = np.random.default_rng(0)
    examples = [CHAIN.example(0, "train", i) for i in range(2_000)]
    responses = [hostile(rng, e) for e in examples]
    texts = list(map(TOKENIZER.decode, responses))
    stopped = np.array([r[-1:] == [TOKENIZER.eos_id] for r in responses])
    rows, answer, gold = batch(responses, examples)
    final, whole = map(np.asarray, jax.jit(match_both)(rows, answer, gold))
    np.testing.assert_array_equal(whole, stopped * grade(CHAIN, examples, texts))
    read = [TEMPLATE.parse(t)[1] == e.answer for t, e in zip(texts, examples)]
    np.testing.assert_array_equal(final, stopped & np.array(read))
    assert np.all(final >= whole)
    # Right, right at the end only, wrong, right but cut off, and empty ones are there.
    assert np.sum(whole) > 300 and np.sum(final > whole) > 100
    assert np.sum(stopped) - np.sum(final) > 300
    assert np.sum(grade(CHAIN, examples, texts) * ~stopped) > 100
    assert sum(text == "" for text in texts) > 10
    wider = jax.jit(match_both)(*batch(responses, examples, pad=5))
    for a, b in zip(wider, (final, whole)):
        np.testing.assert_array_equal(a, b)


def test_special_tokens_inside_are_a_fault():
    """Where decoding drops them, and the text is graded as if they were not there."""
    example = CHAIN.parse("2 * 3 + 5 =")
    right = TEMPLATE.encode(TOKENIZER, example)[1]
    for special in (TOKENIZER.pad_id, TOKENIZER.bos_id, TOKENIZER.eos_id):
        spoilt = [*right[:-3], special, *right[-3:]]
        final, whole = match_both(*batch([right, spoilt], [example] * 2))
        np.testing.assert_array_equal([final, whole], [[1, 0]] * 2)
        assert CHAIN.grade(example, TOKENIZER.decode(spoilt)) == 1.0


def test_gold_must_have_tokens():
    tokens, length = gold_tokens([[4], [5, 6, 7]])
    np.testing.assert_array_equal(tokens, [[4, 0, 0], [5, 6, 7]])
    np.testing.assert_array_equal(length, [1, 3])
    with pytest.raises(ValueError, match="gold answer 1 has no tokens"):
        gold_tokens([[4], []])
