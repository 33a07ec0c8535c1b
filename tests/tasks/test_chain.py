"""Chain by hand, and its values against all possible responses."""

import itertools

import pytest

from o1jax.tasks import Chain, StepCheck
from o1jax.tasks.chain import OPERATORS, apply, units

TASK = Chain()


def test_by_hand():
    # 7 + 5 = 12; 12 * 3 = 36 = 23 + 13; 13 - 20 = -7 = 16 - 23
    example = TASK.parse("7 + 5 * 3 - 20 =")
    assert example.steps == ("12", "13", "16")
    assert (example.answer, example.difficulty) == ("16", 3)
    assert TASK.grade(example, "12 ; 13 ; 16 ;") == 1.0
    assert TASK.grade(example, " 12;13 ;\n16;\n") == 1.0  # blanks are free
    assert TASK.grade(example, "13 ; 13 ; 16 ;") == 0.0  # the right end is not enough
    assert TASK.grade(example, "012 ; 13 ; 16 ;") == 0.0
    assert TASK.grade(example, "12 ; 13 ;") == 0.0
    assert TASK.grade(example, "7 12 ; 13 ; 16 ;") == 0.0  # one word a step


def test_verdict_on_each_step():
    example = TASK.parse("7+5*3-20")
    assert TASK.check_steps(example, "12 ; 14 ; 16 ; 2 ; 3") == [
        StepCheck(4, True, ""),
        StepCheck(9, False, "should be 13"),
        StepCheck(14, False, "follows a wrong step"),
        StepCheck(18, False, "follows a wrong step"),
    ]
    late = TASK.check_steps(example, "12 ; 13 ; 16 ; 16 ;")
    assert late[-1] == StepCheck(19, False, "comes after the answer")


@pytest.mark.parametrize("modulus", [2, 6, 23, 24])
def test_a_right_step_never_heals_a_wrong_value(modulus):
    for right, wrong in itertools.permutations(range(modulus), 2):
        for k in range(modulus):
            for operator in OPERATORS if k in units(modulus) else "+-":
                assert apply(operator, right, k, modulus) != apply(
                    operator, wrong, k, modulus
                )


def test_generated_factors_are_units():
    task = Chain(modulus=6, operators="*")  # only 1 and 5 are coprime with 6
    factors = {
        word
        for i in range(200)
        for word in task.example(0, "train", i).question.split()[2::2]
    }
    assert factors == {"1", "5"}


def test_number_of_steps_is_uniform():
    # 5 lengths, 2,000 draws: each is binomial(2000, 1/5), 400 with deviation 17.9
    counts = [0] * 9
    for i in range(2000):
        counts[TASK.example(0, "train", i).difficulty] += 1
    assert sum(counts[4:9]) == 2000
    assert all(abs(count - 400) < 5 * 17.9 for count in counts[4:9])


def test_state_value_is_the_best_over_all_continuations():
    task = Chain(min_steps=3, max_steps=3, modulus=4)
    example = task.example(0, "train", 0)
    words = [str(r) for r in range(4)]
    graded = {
        steps: task.grade(example, " ; ".join(steps) + " ;")
        for steps in itertools.product(words, repeat=3)
    }
    assert sum(graded.values()) == 1.0
    for length in range(4):
        for prefix in itertools.product(words, repeat=length):
            best = max(g for steps, g in graded.items() if steps[:length] == prefix)
            assert task.state_value(example, prefix) == best


@pytest.mark.parametrize(
    "question, why",
    [
        ("7 + 23 =", "23 is not below the modulus 23"),
        ("7 =", "expected the form"),
        ("7 + * 3 =", "expected the form"),
        ("7 / 3 =", "expected the form"),
        ("1" + " + 1" * 65, "more than 64 steps"),
    ],
)
def test_malformed_question(question, why):
    with pytest.raises(ValueError, match=why):
        TASK.parse(question)


def test_operator_outside_the_knob():
    with pytest.raises(ValueError, match=r"\* is not one of this task's \+-"):
        Chain(operators="+-").parse("2 * 3 =")
