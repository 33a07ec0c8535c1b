"""Countdown by hand, and its enumeration against one written differently."""

import itertools
import random
from fractions import Fraction

import pytest

from o1jax.tasks import Countdown, StepCheck
from o1jax.tasks.countdown import legal_moves, reachable, solve

TASK = Countdown()
EXAMPLE = TASK.parse("7 3 5 -> 22")


def brute_force(numbers: list[Fraction], max_value: int) -> set[int]:
    """All values of all full expressions, over ordered pairs and exact fractions."""
    if len(numbers) == 1:
        return {int(numbers[0])}
    found = set()
    for i, j in itertools.permutations(range(len(numbers)), 2):
        rest = [x for at, x in enumerate(numbers) if at not in (i, j)]
        a, b = numbers[i], numbers[j]
        for result in (a + b, a - b, a * b, a / b if b else Fraction(-1)):
            if result.denominator == 1 and 0 <= result <= max_value:
                found |= brute_force([*rest, result], max_value)
    return found


def reached(numbers, max_value=100) -> set[int]:
    bits = reachable(tuple(sorted(numbers)), max_value)
    return {t for t in range(max_value + 1) if bits >> t & 1}


def test_by_hand():
    assert EXAMPLE.question == "3 5 7 -> 22 :"  # sorted: one problem, one split
    assert (EXAMPLE.answer, EXAMPLE.difficulty) == ("22", 3)
    assert TASK.grade(EXAMPLE, "5 * 3 = 15 , 7 15 ; 15 + 7 = 22 , 22 ;") == 1.0
    assert TASK.grade(EXAMPLE, "3 * 5 = 15 , 7 15 ; 7 + 15 = 22 , 22 ;") == 1.0


@pytest.mark.parametrize(
    "step, reason",
    [
        ("5 * 3 = 15 , 15 7", "the numbers after it are 7 15"),  # not ascending
        ("5 * 3 = 15 , 7", "the numbers after it are 7 15"),
        ("5 * 3 = 15 , 5 7 15", "the numbers after it are 7 15"),
        ("5 * 3 = 16 , 7 16", "5 * 3 is 15"),
        ("5 + 5 = 10 , 3 10", "uses a number that is not there"),  # 5 used twice
        ("5 + 4 = 9 , 3 7 9", "uses a number that is not there"),
        ("3 - 5 = -2 , -2 7", "3 - 5 is not a whole number from 0 to 100"),
        ("7 / 3 = 2 , 2 5", "7 / 3 is not a whole number from 0 to 100"),
        ("7 ^ 3 = 4 , 4 5", "uses an operator other than + - * /"),
        ("7 +- 3 = 4 , 4 5", "uses an operator other than + - * /"),
        ("5 * 3 = 15", "is not of the form a + b = c , rest"),
        ("5 * 3 , 15 = 7 15", "is not of the form a + b = c , rest"),
        ("5*3 = 15 , 7 15", "is not of the form a + b = c , rest"),
        ("05 * 3 = 15 , 7 15", "uses a number that is not there"),
        ("nan * 3 = nan , 7 nan", "uses a number that is not there"),
    ],
)
def test_wrong_first_step(step, reason):
    (check,) = TASK.check_steps(EXAMPLE, step + " ;")
    assert not check.correct
    assert check.reason.startswith(reason)
    assert TASK.state_value(EXAMPLE, [step]) == 0.0


def test_results_are_bounded_and_zero_divides_nothing():
    example = TASK.parse("20 6 6 -> 20")
    over, zero = TASK.check_steps(example, "20 * 6 = 120 , 6 120 ; 6 - 6 = 0 , 0 20 ;")
    assert over.reason == "20 * 6 is not a whole number from 0 to 100"
    assert zero.reason == "follows a wrong step"
    first, second = TASK.check_steps(example, "6 - 6 = 0 , 0 20 ; 20 / 0 = 0 , 0 ;")
    assert first.correct
    assert second.reason == "20 / 0 is not a whole number from 0 to 100"
    assert TASK.grade(example, "6 - 6 = 0 , 0 20 ; 20 + 0 = 20 , 20 ;") == 1.0


def test_a_legal_dead_end_is_right_but_worth_nothing():
    # 7 - 5 = 2 leaves 2 and 3: 5, 1, 6 are all they make, never 22.
    dead = "7 - 5 = 2 , 2 3"
    missed = dead + " ; 3 * 2 = 6 , 6 ;"
    assert TASK.state_value(EXAMPLE, [dead]) == 0.0
    assert TASK.check_steps(EXAMPLE, missed) == [
        StepCheck(17, True, ""),
        StepCheck(len(missed), False, "ends on 6, not on 22"),
    ]
    assert TASK.grade(EXAMPLE, missed) == 0.0


def test_stopping_or_going_on_is_wrong():
    steps = "5 * 3 = 15 , 7 15 ;", " 15 + 7 = 22 , 22 ;", " 22 + 0 = 22 , 22 ;"
    assert [TASK.grade(EXAMPLE, "".join(steps[:n])) for n in range(4)] == [0, 0, 1, 0]


def test_legal_moves_by_hand():
    assert [m.step for m in legal_moves([2, 6])] == [
        "6 + 2 = 8 , 8",
        "6 - 2 = 4 , 4",
        "6 * 2 = 12 , 12",
        "6 / 2 = 3 , 3",
    ]
    assert [m.result for m in legal_moves([0, 60])] == [60, 60, 0]  # no 60 / 0
    assert [m.result for m in legal_moves([60, 60])] == [0, 1]  # 120 and 3600 are over
    assert len(legal_moves([5, 5, 5])) == 4  # equal pairs are one pair
    assert legal_moves([5]) == []


def test_legal_moves_are_what_the_verifier_accepts():
    numbers = (0, 1, 4, 8)
    example = TASK.parse("0 1 4 8 -> 10")
    after = set()
    for left, right in itertools.permutations(numbers, 2):
        rest = [n for n in numbers if n not in (left, right)]
        for operator, result in itertools.product("+-*/", range(101)):
            remaining = " ".join(map(str, sorted([*rest, result])))
            step = f"{left} {operator} {right} = {result} , {remaining}"
            state, fault = TASK.advance(TASK.start(example), step)
            if not fault:
                after.add(state.remaining)
    moves = legal_moves(numbers)
    assert after == {move.remaining for move in moves}
    for move in moves:
        assert TASK.advance(TASK.start(example), move.step)[1] == ""


def test_reachable_is_the_brute_force():
    rng = random.Random(0)
    cases = [
        [0, 0, 1],
        [1, 1, 1],
        [60, 60, 2],
        *([a, b] for a in (0, 1, 9) for b in (3, 9)),
    ]
    cases += [[rng.randint(0, 20) for _ in range(3)] for _ in range(40)]
    cases += [[rng.randint(1, 13) for _ in range(4)] for _ in range(4)]
    for numbers in cases:
        for max_value in (20, 100):
            if max(numbers) <= max_value:
                expected = brute_force([Fraction(n) for n in numbers], max_value)
                assert reached(numbers, max_value) == expected, numbers


def test_state_value_is_the_best_over_all_continuations():
    for i in range(15):
        example = TASK.example(0, "train", i)
        numbers = example.hidden.remaining
        for move in legal_moves(numbers):
            grades = [
                TASK.grade(example, f"{move.step} ; {last.step} ;")
                for last in legal_moves(move.remaining)
            ]
            assert TASK.state_value(example, [move.step]) == max(grades)


def test_reach_is_the_state_value_under_every_other_target():
    for i in range(8):
        example = TASK.example(1, "train", i)
        numbers, _ = example.hidden
        moves = [move.step for move in legal_moves(numbers)]
        for steps in ([], *([step] for step in moves[:4]), ["1 + 1 = 3 , 3"]):
            reach = TASK.reach(example, steps)
            assert len(reach) == len(TASK.goals)
            for goal, found in zip(TASK.goals, reach):
                asked = TASK.parse(f"{' '.join(map(str, numbers))} -> {goal}")
                assert found == TASK.state_value(asked, steps)


def test_solve():
    assert solve([7, 3, 5], 22) == ("5 * 3 = 15 , 7 15", "15 + 7 = 22 , 22")
    assert solve([1, 1, 1], 50) is None
    assert solve([4], 4) == ()
    assert solve([], 4) is None
    assert solve([4], -1) is None
    for target in reached([3, 8, 9, 12]):
        example = TASK.parse(f"3 8 9 12 -> {target}")
        assert TASK.grade(example, " ; ".join(example.steps) + " ;") == 1.0


def test_unsolvable_question_has_no_solution_and_no_value():
    example = TASK.parse("1 1 1 -> 50 :")
    assert (example.steps, example.answer) == ((), "")
    assert TASK.state_value(example, []) == 0.0


@pytest.mark.parametrize(
    "question, why",
    [
        ("3 5 7 = 22", "expected the form 3 5 7 -> 22"),
        ("-> 22", "expected the form"),
        ("3 5 -7 -> 22", "expected the form"),
        ("22 -> 22", "expected 2 to 6 numbers, got 1"),
        ("1 1 1 1 1 1 1 -> 7", "expected 2 to 6 numbers, got 7"),
        ("3 5 7 -> 101", "101 is above max_value 100"),
        ("3 5 101 -> 7", "101 is above max_value 100"),
    ],
)
def test_malformed_question(question, why):
    with pytest.raises(ValueError, match=why):
        TASK.parse(question)


def test_commas_are_read():
    assert TASK.parse(" 3, 5,7->22 :").question == "3 5 7 -> 22 :"


def test_generated_solutions_avoid_identities():
    for i in range(500):
        for step in TASK.example(0, "train", i).steps:
            left, operator, right, _, result, *_ = step.split()
            assert int(left) >= int(right) and result != "0"
            assert operator in "+-" or right != "1"


def test_targets_lie_in_range():
    task = Countdown(numbers=2, min_target=30, max_target=33, max_number=9)
    answers = {int(task.example(0, "train", i).answer) for i in range(100)}
    assert answers == {30, 32}  # 31 and 33 are no product of two numbers up to 9
