"""Some families of the installed reasoning-gym; benchmarks/gym_families.py has all."""

import pytest

from o1jax.tasks import Gym
from o1jax.tasks.gym import families

TRIED = ("chain_sum", "gsm_symbolic", "acre", "countdown", "propositional_logic")


def test_there_are_a_hundred_families_and_six():
    assert len(families()) >= 106
    assert {*TRIED, "sudoku", "game_of_life_halting"} <= set(families())


@pytest.mark.parametrize("family", TRIED)
def test_worked_answers_are_right_and_garbage_is_wrong(family):
    task = Gym(family)
    for i in range(3):
        example = task.example(0, "test", i)
        assert task.grade(example, f"<answer>{example.answer}</answer>") == 1.0
        for garbage in ("", "garbage", "[]", "-77", example.question):
            assert task.grade(example, garbage) == 0.0


def test_a_worked_solution_comes_in_steps():
    example = Gym("gsm_symbolic").example(0, "train", 0)
    assert example.steps and not any("####" in step for step in example.steps)


def test_the_library_takes_options():
    task = Gym("chain_sum", options=(("min_terms", 2), ("max_terms", 2)))
    assert task.example(0, "train", 0).question.split("=")[0].count("+") <= 1
    with pytest.raises(ValueError, match=r"'chain_som'; did you mean chain_sum\?"):
        Gym("chain_som").example(0, "train", 0)
