"""Intervals and fits for evaluations; numpy only.

In: scores per problem, such as those of selection.py. Out: bootstrap and Wilson
intervals, and fits of how coverage grows with samples.

Source: coverage c = exp(a k^b), Brown et al. 2024 (arXiv:2407.21787).
"""

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from o1jax.selection import AtK, majority_at_k, pass_at_k  # noqa: F401  asked for here

Array = np.ndarray


class Interval(NamedTuple):
    """An estimate with the ends of its interval."""

    value: float
    lo: float
    hi: float


class Difference(NamedTuple):
    """a - b with its interval; resolved if the interval leaves 0 out."""

    difference: float
    lo: float
    hi: float
    resolved: bool


class PowerFit(NamedTuple):
    """Two parameters of a curve and the part of the variance that it explains."""

    a: float
    b: float
    r2: float


def bootstrap_interval(
    per_problem: Array, *, seed: int = 0, level: float = 0.95, resamples: int = 2000
) -> Interval:
    """Percentile bootstrap of the mean over problems.

    [P]: problems are resampled. [S, P], a row a training seed: seeds are resampled, and
    problems within each drawn seed independently; with few seeds (3) this still
    understates the variance between seeds, by a factor (S - 1) / S. Scores that are all
    alike give an interval of width 0: for counts near 0 or n take `wilson_interval`.
    """
    scores = np.atleast_2d(np.asarray(per_problem, float))
    if scores.size == 0 or scores.ndim != 2:
        raise ValueError(f"per_problem must be [P] or [S, P], got {scores.shape}")
    return bootstrap(
        scores,
        lambda drawn: drawn.mean((-2, -1)),
        seed=seed,
        level=level,
        resamples=resamples,
    )


def bootstrap(
    scores: Array,
    statistic: Callable[[Array], Array],
    *,
    seed: int = 0,
    level: float = 0.95,
    resamples: int = 2000,
) -> Interval:
    """Percentile bootstrap of any statistic of [S, P, ...] scores of P problems.

    `statistic` maps resamples [R, S, P, ...] to [R]. Resampled as by
    `bootstrap_interval`; what lies in the trailing axes of a problem (methods, numbers
    of samples) stays together.
    """
    scores = np.asarray(scores, float)
    if scores.size == 0 or scores.ndim < 2:
        raise ValueError(f"scores must be [S, P, ...], got {scores.shape}")
    _check_level(level)
    rng = np.random.default_rng(seed)
    n_seeds, n_problems = scores.shape[:2]
    block = max(1, 2**22 // scores.size)  # bounds the memory of the resamples
    found = []
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        s = rng.integers(n_seeds, size=(size, n_seeds, 1))
        p = rng.integers(n_problems, size=(size, n_seeds, n_problems))
        found.append(statistic(scores[s, p]))
    tail = (1 - level) / 2
    lo, hi = np.quantile(np.concatenate(found), [tail, 1 - tail])
    return Interval(float(statistic(scores[None])[0]), float(lo), float(hi))


def paired_bootstrap(
    a: Array, b: Array, *, seed: int = 0, level: float = 0.95, resamples: int = 2000
) -> Difference:
    """Interval of mean(a - b), problem by problem, resampled as `bootstrap_interval`.

    a and b are scores of two methods on the same problems (and seeds), so the spread
    between problems cancels.
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    if a.shape != b.shape:
        raise ValueError(f"paired scores differ in shape: {a.shape} and {b.shape}")
    mean, lo, hi = bootstrap_interval(
        a - b, seed=seed, level=level, resamples=resamples
    )
    return Difference(mean, lo, hi, resolved=lo > 0 or hi < 0)


def wilson_interval(successes: int, n: int, *, level: float = 0.95) -> Interval:
    """Wilson's score interval of a proportion; sound at 0, at n and for small n."""
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} is not a proportion")
    _check_level(level)
    z = NormalDist().inv_cdf(0.5 + level / 2)
    share = successes / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    spread = share * (1 - share) / n + z * z / (4 * n * n)
    half = z * math.sqrt(spread) / (1 + z * z / n)
    # At 0 and n one end is the share itself, but for rounding.
    lo, hi = min(share, middle - half), max(share, middle + half)
    return Interval(share, max(0.0, lo), min(1.0, hi))


def fit_coverage(k: Array, coverage: Array) -> PowerFit:
    """Fit c = exp(a k^b), where a < 0, b < 0: coverage that rises to 1.

    Least squares of log(-log c) on log k, weighted by c (log c)^2 / (1 - c). This is
    the inverse variance of log(-log c) by the delta method when c is a share with
    variance c (1 - c) / n, so points near 0 and 1 count little; those at 0 or 1 are
    skipped. r2 is of c itself, unweighted, over the points fitted. ValueError with
    fewer than two usable points.
    """
    k, c = np.asarray(k, float), np.asarray(coverage, float)
    use = (c > 0) & (c < 1) & (k > 0)
    k, c = k[use], c[use]
    if len(np.unique(k)) < 2:
        raise ValueError("a coverage fit needs two k with a coverage inside (0, 1)")
    weight = c * np.log(c) ** 2 / (1 - c)
    b, log_a, _ = fit_line(np.log(k), np.log(-np.log(c)), weight=weight)
    a = -math.exp(log_a)
    return PowerFit(a, b, _r2(c, np.exp(a * k**b)))


def fit_power(x: Array, y: Array) -> PowerFit:
    """Fit y = a x^b by least squares of log y on log x; r2 is of log y."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    if np.any(x <= 0) or np.any(y <= 0):
        raise ValueError("a power law fit needs x and y above 0")
    b, log_a, r2 = fit_line(np.log(x), np.log(y))
    return PowerFit(math.exp(log_a), b, r2)


def fit_line(
    x: Array, y: Array, *, weight: Array | None = None
) -> tuple[float, float, float]:
    """(slope, intercept, r2) of the weighted least-squares line."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    if len(np.unique(x)) < 2:
        raise ValueError("a line needs two different x")
    w = np.ones_like(x) if weight is None else np.asarray(weight, float)
    mean_x, mean_y = np.average(x, weights=w), np.average(y, weights=w)
    slope = np.sum(w * (x - mean_x) * (y - mean_y)) / np.sum(w * (x - mean_x) ** 2)
    intercept = mean_y - slope * mean_x
    r2 = _r2(y, slope * x + intercept, w)
    return float(slope), float(intercept), r2


def _r2(y: Array, fitted: Array, weight: Array | None = None) -> float:
    """1 - residual / total sum of squares; 1 where y doesn't vary and is met."""
    w = np.ones_like(y) if weight is None else weight
    residual = np.sum(w * (y - fitted) ** 2)
    total = np.sum(w * (y - np.average(y, weights=w)) ** 2)
    if total > 0:
        return float(1 - residual / total)
    return 1.0 if np.isclose(residual, 0) else -math.inf


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
