"""The installed champ-dataset, collected only where it is."""

from functools import partial

from o1jax.data.champ import read_champ
from o1jax.models.steps import split_text


def test_540_solutions_of_270_problems():
    solutions = read_champ(partial(split_text, kind="blank"))
    assert len(solutions) == 540
    assert len({solution.problem for solution in solutions}) == 270
    wrong = [solution for solution in solutions if solution.first_error >= 0]
    assert all(solution.first_error < len(solution.steps) for solution in wrong)
    assert 300 < len(wrong) < 500
