"""Word problems: worked solutions are right, and so is the check of other ones."""

import pytest

from o1jax.tasks import SPLITS, Stories, Task, split_of

TASK = Stories()


def response(example):
    return "\n".join([*example.steps, f"#### {example.answer}"])


def test_worked_solutions_are_right_and_splits_are_disjoint():
    assert isinstance(TASK, Task)
    kinds = set()
    for split in SPLITS:
        for i in range(60):
            example = TASK.example(0, split, i)
            assert split_of(example.question) == split
            assert TASK.grade(example, response(example)) == 1.0
            checks = TASK.check_steps(example, response(example))
            assert [c.correct for c in checks] == [True] * len(example.steps)
            assert len(example.steps) == example.difficulty
            assert example == Stories().example(0, split, i)
            kinds.add((example.difficulty, example.steps[0].split()[1]))
    assert kinds == {(1, "+"), (1, "-"), (1, "/"), (2, "*"), (3, "*")}


@pytest.mark.parametrize(
    "text, grade",
    [
        ("#### 1,017", 1),
        ("#### 1017.0", 1),
        ("The answer is **1017 stones**.", 1),
        (r"So \boxed{1017}", 1),
        ("1017", 1),
        ("#### 1018", 0),
        ("#### 1017.5", 0),
        ("1000 + 17 = 1017", 0),  # three numbers are no answer
        ("#### 1017 or 1018", 0),
        ("", 0),
        ("####", 0),
        ("9" * 10_000, 0),
    ],
)
def test_what_counts_as_the_answer(text, grade):
    example = TASK.parse("How many?")
    assert TASK.grade(example, text) == 0  # nobody knows
    assert TASK.grade(type(example)("?", (), "1017", 1), text) == grade


def test_each_line_with_an_equation_is_checked():
    text = "So 3 * 7 = 21 stones.\nWell,\n21 - 4 = 18\n18 / 4 = 4\n7 / 0 = 0\n2 + 2 = 4"
    checks = TASK.check_steps(TASK.parse(""), text)
    assert [(text[: c.end].count("\n"), c.correct, c.reason) for c in checks] == [
        (1, True, ""),
        (3, False, "21 - 4 is not 18"),
        (4, False, "18 / 4 is not 4"),
        (5, False, "7 / 0 is not 0"),
    ]
    right_again = TASK.check_steps(TASK.parse(""), "1 + 1 = 3\n3 + 1 = 4\n")
    assert right_again[1].reason == "follows a wrong step"


@pytest.mark.parametrize(
    "fields, culprit",
    [(dict(min_steps=3, max_steps=2), "min_steps"), (dict(most=3), "most")],
)
def test_a_bad_field_is_named(fields, culprit):
    with pytest.raises(ValueError, match=culprit):
        Stories(**fields)
