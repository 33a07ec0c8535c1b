"""The compute-optimal choice of method and budget for each bin of difficulty.

In: accuracy[method, budget, problem], what it cost, and each problem's bin. Out: what
the choice made on one half of the problems earns on the other half, at each budget, and
how much less budget reaches a reference method's accuracy. Snell et al. 2024, arXiv
2408.03314, section 3.
"""

from typing import NamedTuple

import numpy as np

Array = np.ndarray


class Optimal(NamedTuple):
    """Cross-validated: no problem takes part in the choice that it is scored with."""

    accuracy: Array  # f64[B, P]  at each total budget
    cost: Array  # f64[B, P]  at most the budget, where costs are the nominal ones
    method: Array  # i64[2, B, bins]  chosen on each fold; scored on the other
    budget: Array  # i64[2, B, bins]  index of the chosen budget


def difficulty_bins(success: Array, bins: int = 5) -> Array:
    """i64[..., P]: 0, the easiest, to bins - 1, equally many problems in each.

    `success` is the policy's own rate of success on the problem, from other samples
    than those that are compared, as in Snell et al. Equals are told apart by position.
    """
    success = np.asarray(success, float)
    problems = success.shape[-1]
    if not 1 <= bins <= problems:
        raise ValueError(f"{problems} problems cannot fill {bins} bins")
    order = np.argsort(-success, axis=-1, kind="stable")
    rank = np.argsort(order, axis=-1, kind="stable")
    return rank * bins // problems


def compute_optimal(
    accuracy: Array, cost: Array, budgets: Array, bins: Array, *, seed: int = 0
) -> Optimal:
    """For every total budget, each bin's best (method, budget up to the total).

    `accuracy` and `cost` are f64[M, B, P], `budgets` f64[B] ascending, `bins` i64[P]
    from 0; a pair that was not run is nan in accuracy. Problems of several seeds are
    laid side by side in P. The problems of a bin are dealt out to two folds; on each
    fold the pair of highest mean accuracy is chosen (of equals the one that cost least)
    and scored on the other. ValueError for a bin of fewer than two problems, or a
    budget at which no method was run.
    """
    accuracy, cost = np.asarray(accuracy, float), np.asarray(cost, float)
    budgets, bins = np.asarray(budgets, float), np.asarray(bins)
    if accuracy.shape != cost.shape or accuracy.shape[1:] != (len(budgets), len(bins)):
        raise ValueError(
            f"accuracy {accuracy.shape} and cost {cost.shape} must be [M, B, P] with "
            f"{len(budgets)} budgets and {len(bins)} problems"
        )
    if np.any(np.diff(budgets) <= 0):
        raise ValueError("budgets must ascend")
    fold = _folds(bins, seed)
    shape = (2, len(budgets), bins.max() + 1)
    method, budget = np.zeros(shape, int), np.zeros(shape, int)
    out = Optimal(
        np.empty(accuracy.shape[1:]), np.empty(cost.shape[1:]), method, budget
    )
    for f, bin_ in np.ndindex(2, shape[2]):
        choose, score = ((bins == bin_) & (fold == g) for g in (f, 1 - f))
        mean = accuracy[:, :, choose].mean(-1)
        spent = cost[:, :, choose].mean(-1)
        for b in range(len(budgets)):
            m, at = _best(mean[:, : b + 1], spent[:, : b + 1], budgets[b])
            method[f, b, bin_], budget[f, b, bin_] = m, at
            out.accuracy[b, score] = accuracy[m, at, score]
            out.cost[b, score] = cost[m, at, score]
    return out


def savings(
    reference: Array, reference_cost: Array, accuracy: Array, cost: Array
) -> Array:
    """f64[B]: how many times less cost reaches the reference's accuracy at each cost.

    All are f64[B], a curve each. Between the points of the second curve, accuracy is
    linear in log cost. nan where that curve never gets there; where its first point
    does already, the saving is at least the number given.
    """
    accuracy = np.maximum.accumulate(np.asarray(accuracy, float))
    cost, reference_cost = np.asarray(cost, float), np.asarray(reference_cost, float)
    result = np.full(len(reference), np.nan)
    for i, goal in enumerate(reference):
        if not np.any(reached := accuracy >= goal):
            continue
        j = int(np.argmax(reached))
        at = np.log(cost[j])
        if j > 0:
            part = (goal - accuracy[j - 1]) / (accuracy[j] - accuracy[j - 1])
            at = (1 - part) * np.log(cost[j - 1]) + part * at
        result[i] = reference_cost[i] / np.exp(at)
    return result


def _folds(bins: Array, seed: int) -> Array:
    """0 or 1 for each problem, half of each bin."""
    rng = np.random.default_rng(seed)
    fold = np.empty(len(bins), int)
    for bin_ in range(bins.max() + 1):
        members = rng.permutation(np.flatnonzero(bins == bin_))
        if len(members) < 2:
            raise ValueError(f"bin {bin_} has {len(members)} problems: two are needed")
        fold[members] = np.arange(len(members)) % 2
    return fold


def _best(mean: Array, spent: Array, total: float) -> tuple[int, int]:
    """(method, budget) of the highest mean that was run; of equals the cheapest."""
    if np.all(np.isnan(mean)):
        raise ValueError(f"no method was run at a budget of {total:g} or less")
    equal = mean == np.nanmax(mean)
    m, at = np.unravel_index(np.argmin(np.where(equal, spent, np.inf)), mean.shape)
    return int(m), int(at)
