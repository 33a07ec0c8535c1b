"""Sampled traces: where steps end, and what the oracle says of them."""

import numpy as np
import pytest

from o1jax.data.template import Template
from o1jax.data.tokenizer import from_symbols
from o1jax.loop.traces import (
    TraceConfig,
    closing,
    first_error,
    places,
    up_to_first_error,
    verdicts,
)
from o1jax.tasks import Chain, Countdown, Graph

ROWS = np.array([[1, 9, 5, 7, 5, 2, 0], [1, 9, 5, 5, 0, 0, 0]])
PROMPT, LENGTH = np.array([2, 3]), np.array([6, 4])


def test_steps_end_at_marks_of_the_response_only():
    ends = closing(ROWS, PROMPT, LENGTH, [5])
    assert [np.flatnonzero(row).tolist() for row in ends] == [[2, 4], [3]]
    assert places(ends).tolist() == [[2, 4], [3, -1]]
    # Behind the row's length nothing is text, whatever stands there.
    assert not closing(np.full((1, 4), 5), np.array([1]), np.array([1]), [5]).any()
    assert places(np.zeros((2, 3), bool)).shape == (2, 0)


def test_the_first_error_and_what_comes_before_it():
    step_end = np.array([[1, 0, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]], bool)
    verdict = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]], np.float32)
    assert first_error(step_end, verdict).tolist() == [1, -1, -1]
    kept = up_to_first_error(step_end, verdict)
    assert [np.flatnonzero(row).tolist() for row in kept] == [[0, 2], [0, 1], []]


def encoded(task, question, steps):
    """(tokens [1, T], prompt_length, step_end, decode) of a response of such steps."""
    tokenizer, template = from_symbols(task.symbols()), Template()
    prompt = template.encode_prompt(tokenizer, question)
    response = tokenizer.encode(" ".join(f"{step} ;" for step in steps))
    tokens = np.array([prompt + response + [tokenizer.eos_id]], np.int32)
    begin = np.array([len(prompt)])
    end = np.array([tokens.shape[1]])
    marks = closing(tokens, begin, end, [tokenizer.id_of(";")])
    return tokens, begin, marks, tokenizer.decode


@pytest.mark.parametrize("task", [Chain(), Graph(), Countdown()])
def test_worked_solutions_are_right_to_the_end(task):
    example = task.example(0, "train", 3)
    tokens, begin, marks, decode = encoded(task, example.question, example.steps)
    found = verdicts(task, [example], tokens, begin, marks, decode)
    assert found[marks].tolist() == [1.0] * len(example.steps)
    assert not found[~marks].any()
    assert found.dtype == np.float32


def test_behind_a_wrong_step_nothing_is_right():
    task = Chain()
    example = task.parse("7 + 5 * 3 - 2 =")
    # 7 + 5 = 12, * 3 = 36 = 13 mod 23, - 2 = 11. The second step is wrong; the third is
    # right by the question, but it stands behind an error.
    tokens, begin, marks, decode = encoded(task, example.question, ["12", "14", "11"])
    found = verdicts(task, [example], tokens, begin, marks, decode)
    assert found[marks].tolist() == [1, 0, 0]
    assert first_error(marks, found).tolist() == [1]


def test_a_legal_step_into_a_dead_end_is_wrong():
    task = Countdown()
    example = task.parse("2 3 5 -> 30")
    steps = ["3 + 2 = 5 , 5 5", "5 * 5 = 25 , 25"]
    tokens, begin, marks, decode = encoded(task, example.question, steps)
    assert verdicts(task, [example], tokens, begin, marks, decode)[marks].tolist() == [
        0,
        0,
    ]
    steps = ["3 * 2 = 6 , 5 6", "6 * 5 = 30 , 30"]
    tokens, begin, marks, decode = encoded(task, example.question, steps)
    assert verdicts(task, [example], tokens, begin, marks, decode)[marks].tolist() == [
        1,
        1,
    ]


def test_sampling_nothing_is_refused():
    with pytest.raises(ValueError, match="samples must be at least 1"):
        TraceConfig(samples=0)
