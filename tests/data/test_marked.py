"""Solutions with a mark at their first wrong step: written here, or a user's file."""

import json
import re

import pytest

from o1jax.data.flawed import Flawed
from o1jax.data.marked import MarkedFile

EQUATION = re.compile(r"(\d+) ([-+*]) (\d+) = (\d+)")
ASKED = re.compile(r"(add|subtract|multiply by) (\d+)", re.IGNORECASE)
SIGN = {"add": "+", "subtract": "-", "multiply by": "*"}
DO = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}


def first_wrong(solution):
    """Read from the texts alone: does each step do as asked, and rightly."""
    asked = [(SIGN[k.lower()], int(n)) for k, n in ASKED.findall(solution.question)]
    value = int(re.search(r"Start with (\d+)", solution.question)[1])
    *steps, last = solution.steps
    assert len(steps) == len(asked)
    for number, (step, (sign, operand)) in enumerate(zip(steps, asked)):
        x, did, y, said = EQUATION.search(step).groups()
        told = (int(x), did, int(y), int(said))
        if told != (value, sign, operand, DO[sign](value, operand)):
            return number
        value = int(said)
    return -1 if last == f"The result is {value}." else len(steps)


def test_the_mark_is_at_the_first_step_that_is_wrong():
    solutions = Flawed().marked(0, "train", 200)
    assert [first_wrong(s) for s in solutions] == [s.first_error for s in solutions]
    wrong = [s.first_error for s in solutions if s.first_error >= 0]
    # Half of 200, within four standard deviations of 7; early, late and in the end.
    assert 72 <= len(wrong) <= 128
    assert {0, 1, 2, 3} <= set(wrong)
    assert any(s.first_error == len(s.steps) - 1 for s in solutions)


def test_solutions_are_the_same_again_and_splits_share_no_question():
    again = Flawed().marked(1, "valid", 20)
    assert Flawed().marked(1, "valid", 30)[:20] == again
    train = {s.question for s in Flawed().marked(1, "train", 100)}
    assert not train & {s.question for s in again}
    assert all(s.first_error < 0 for s in Flawed(wrong=0).marked(0, "train", 9))


LINE = {"problem": "What is 2 + 2?", "steps": ["2 + 2\n\nis 5.", "So 5."], "label": 0}


def test_a_file_in_the_shape_of_processbench(tmp_path):
    file = tmp_path / "steps.jsonl"
    lines = [LINE | {"problem": f"What is {i} + 2?", "id": i} for i in range(40)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    parts = {s: MarkedFile(str(file)).marked(0, s, 40) for s in ("train", "valid")}
    assert len(parts["train"]) > len(parts["valid"]) > 0
    one = parts["train"][0]
    # A blank line closes a step, so there is none inside.
    assert one.steps == ("2 + 2\nis 5.\n\n", "So 5.") and one.first_error == 0
    assert MarkedFile(str(file)).marked(0, "train", 3) == parts["train"][:3]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"label": 2}, r'steps.jsonl:1: "label" is 2, not a step from 0, nor -1'),
        ({"label": True}, r'"label" is True'),
        ({"steps": []}, r'"steps" must be a list of texts that are not blank'),
        ({"problem": 7}, r'"problem" is 7, not a text'),
    ],
)
def test_a_bad_line_is_named(tmp_path, change, message):
    file = tmp_path / "steps.jsonl"
    file.write_text(json.dumps(LINE | change))
    with pytest.raises(ValueError, match=message):
        MarkedFile(str(file)).marked(0, "train", 1)


def test_a_split_without_solutions_is_said(tmp_path):
    file = tmp_path / "steps.jsonl"
    file.write_text(json.dumps(LINE))
    with pytest.raises(ValueError, match="none of 1 solutions is"):
        for split in ("train", "valid"):
            MarkedFile(str(file)).marked(0, split, 1)
