"""The installed math-verify in its worker; benchmarks/math_answers.py has 290 cases."""

import pytest

from o1jax.tasks import mathematics
from o1jax.tasks.mathematics import equal_math, grade_many
from o1jax.tasks.worker import Worker


@pytest.mark.parametrize(
    "answer, gold, equal",
    [
        (r"\sqrt{8}", r"2\sqrt{2}", True),
        ("(x+1)^2", "x^2+2x+1", True),
        ("x<3", r"(-\infty,3)", True),
        (r"\{2,1\}", r"\{1,2\}", True),
        ("(2,1)", "(1,2)", False),
        ("5x", "5", False),
        ("__import__('os').abort()", "5", False),
    ],
)
def test_what_sympy_knows(answer, gold, equal):
    assert equal_math(answer, gold) is equal


def test_a_tower_of_powers_ends_and_the_next_answer_is_graded(monkeypatch):
    worker = Worker(mathematics.PROCESS, seconds=0.2)
    monkeypatch.setattr(mathematics, "math_worker", lambda: worker)
    tower = r"\boxed{9^{9^{9^{9}}}}"
    grades = grade_many([tower, r"\boxed{\pi\cdot 2}"], ["7", r"2\pi"])
    assert grades == [0.0, 1.0]
    worker.close()
