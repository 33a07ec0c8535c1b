"""Over-optimisation: what is truly gained (gold) as a learned reward (proxy) is pushed.

In: proxy and gold of pools of samples, or gold along training with its KL from the
start. Out: both along best-of-n, exactly; the KL of best-of-n; Gao's two laws fitted,
with the distance at which gold turns down.

Sources: Gao et al. 2022 (arXiv:2210.10760); KL of best-of-n, Beirami et al. 2024
(arXiv:2401.01879).
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from o1jax.selection import best_at_k

Array = np.ndarray
Form = Literal["best_of_n", "rl"]


class BestOfN(NamedTuple):
    """Expected rewards of the sample that the proxy likes best of n."""

    proxy: Array  # f64[len(ns), P]
    gold: Array  # f64[len(ns), P]


class GaoFit(NamedTuple):
    """A law of gold in d = sqrt(KL), relative to gold at d = 0."""

    form: Form
    alpha: float
    beta: float
    r2: float  # share of the variance of gold explained
    peak: float  # d at which gold is highest; inf if it never turns down

    def at(self, d: Array) -> Array:
        """Gold at distances d >= 0, relative to the start."""
        first, second = _terms(np.asarray(d, float), self.form)
        return self.alpha * first + self.beta * second


def kl_best_of_n(n: Array | int) -> Array:
    """KL(best-of-n || policy) = log n - (n - 1) / n in nats, for n >= 1.

    Exact where no two samples have the same proxy score; an upper bound where equal
    samples are common, as for short answers.
    """
    n = np.asarray(n, float)
    if np.any(n < 1):
        raise ValueError(f"best of n needs n >= 1, got {n.min():g}")
    return np.log(n) - (n - 1) / n


def best_of_n(proxy: Array, gold: Array, ns: Sequence[int]) -> BestOfN:
    """Proxy and gold of the proxy's favourite, from M scored samples of each problem.

    Both are [P, M]. The mean over all C(M, n) subsets, ties shared (`best_at_k`), so
    every n is unbiased; large n of one pool do share samples, and so their errors.
    """
    return BestOfN(
        best_at_k(proxy, proxy, ns).per_problem, best_at_k(proxy, gold, ns).per_problem
    )


def fit_best_of_n(d: Array, gold: Array) -> GaoFit:
    """Least squares of d (alpha - beta d), the law along best-of-n.

    `d` = sqrt(KL); `gold` is relative to its value at d = 0. The peak lies at
    alpha / (2 beta).
    """
    alpha, beta, r2 = _fit(d, gold, "best_of_n")
    peak = max(alpha / (2 * beta), 0.0) if beta > 0 else math.inf
    return GaoFit("best_of_n", alpha, beta, r2, peak)


def fit_rl(d: Array, gold: Array) -> GaoFit:
    """Least squares of d (alpha - beta log d), the law along reinforcement learning.

    As `fit_best_of_n`; the peak lies at exp(alpha / beta - 1).
    """
    alpha, beta, r2 = _fit(d, gold, "rl")
    peak = math.exp(min(alpha / beta - 1, 700.0)) if beta > 0 else math.inf
    return GaoFit("rl", alpha, beta, r2, peak)


def _fit(d: Array, gold: Array, form: Form) -> tuple[float, float, float]:
    d, gold = np.asarray(d, float), np.asarray(gold, float)
    if d.ndim != 1 or d.shape != gold.shape:
        raise ValueError(
            f"d {d.shape} and gold {gold.shape} must be lists of one length"
        )
    if np.any(d < 0) or len(np.unique(d[d > 0])) < 2:
        raise ValueError("a law of gold needs two different d > 0, and none below 0")
    terms = np.stack(_terms(d, form), 1)
    (alpha, beta), *_ = np.linalg.lstsq(terms, gold)
    residual = np.sum((gold - terms @ [alpha, beta]) ** 2)
    total = np.sum((gold - gold.mean()) ** 2)
    r2 = 1 - residual / total if total > 0 else math.nan
    return float(alpha), float(beta), float(r2)


def _terms(d: Array, form: Form) -> tuple[Array, Array]:
    """What alpha and beta multiply; d log d is 0 at 0."""
    if form == "best_of_n":
        return d, -d * d
    return d, -d * np.log(np.where(d > 0, d, 1.0))
