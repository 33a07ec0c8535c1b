"""The grid of A5: three methods, each with three guides at six budgets.

In: what its arms found. Out: their names, and the numbers that both the checks (a5.py)
and the tables (a5_report.py) are made of.
"""

from math import sqrt
from statistics import NormalDist
from typing import Any

import numpy as np

from o1jax.loop.reproduce.claim import Evidence
from o1jax.loop.reproduce.optimal import savings

METHODS = ("best_of_n", "beam", "mcts")
BUDGETS = (2, 4, 8, 16, 32, 64)
NOISES = (0.0, 0.5, 1.0)
SMALL, LARGE = (2, 4, 8, 16), BUDGETS[-1]
DIFFICULTY = "difficulty"  # the arm whose samples say how hard a problem is
BINS = 5


def arm_name(method: str, noise: float, budget: int) -> str:
    """As in the names of the files of predictions."""
    return f"{method}-noise{noise:g}-{budget}"


def auc(noise: float) -> float:
    """Chance that the guide values a good state above a bad one; exact for this noise.

    P(1 + s x > s y) for independent standard normal x and y, at s = noise.
    """
    return NormalDist().cdf(1 / (noise * sqrt(2))) if noise else 1.0


def best_of_n(evidence: Evidence, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """(accuracy, tokens) f64[B] of best-of-N."""
    names = [arm_name("best_of_n", noise, budget) for budget in BUDGETS]
    return (
        np.array([evidence.accuracy(name).mean() for name in names]),
        np.array([evidence.column(name, "tokens").mean() for name in names]),
    )


def saved(evidence: Evidence, noise: float, optimal: Any) -> np.ndarray:
    accuracy, tokens = best_of_n(evidence, noise)
    return savings(accuracy, tokens, optimal.accuracy.mean(-1), optimal.cost.mean(-1))
