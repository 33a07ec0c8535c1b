"""Best-of-n against every subset, and Gao's laws from planted curves."""

import itertools
import math

import numpy as np
import pytest

from o1jax.reward import overoptimisation as over


def test_best_of_n_equals_enumeration_of_all_subsets():
    rng = np.random.default_rng(0)
    proxy = rng.integers(3, size=(4, 6)).astype(float)  # 3 levels: ties throughout
    gold = rng.random((4, 6))
    ns = [1, 2, 4, 6]
    found = over.best_of_n(proxy, gold, ns)
    for p, (j, n) in itertools.product(range(4), enumerate(ns)):
        tops, golds = [], []
        for subset in itertools.combinations(range(6), n):
            top = max(proxy[p, i] for i in subset)
            tops.append(top)
            golds.append(np.mean([gold[p, i] for i in subset if proxy[p, i] == top]))
        assert found.proxy[j, p] == pytest.approx(np.mean(tops))
        assert found.gold[j, p] == pytest.approx(np.mean(golds))


def test_gold_falls_where_the_proxy_is_wrong_at_the_top():
    """Gold follows the proxy but for the best-scored sample of 8, which is worthless.

    It is in a subset of n with chance n / 8 and then chosen; the proxy keeps rising.
    """
    proxy = np.arange(8.0)[None]
    gold = np.array([[1, 1, 1, 1, 1, 1, 1, 0]])
    ns = list(range(1, 9))
    found = over.best_of_n(proxy, gold, ns)
    assert found.gold[:, 0] == pytest.approx([1 - n / 8 for n in ns])
    assert (np.diff(found.proxy[:, 0]) > 0).all()


def test_kl_of_best_of_n_is_that_of_the_distribution_it_makes():
    """Of m equally likely samples in order, best-of-n draws the i-th with chance
    (i / m)^n - ((i - 1) / m)^n; for large m its KL from 1 / m nears the formula."""
    m = 200_000
    for n in (1, 2, 7, 64):
        edge = (np.arange(m + 1) / m) ** n
        chosen = np.diff(edge)
        chosen = chosen[chosen > 0]
        kl = np.sum(chosen * np.log(chosen * m))
        assert over.kl_best_of_n(n) == pytest.approx(kl, abs=1e-3)
    kl = over.kl_best_of_n(np.arange(1, 500))
    assert kl[0] == 0 and (np.diff(kl) > 0).all()


def test_fit_along_best_of_n_recovers_the_law_and_its_peak():
    n = 2.0 ** np.arange(0, 11)
    d = np.sqrt(over.kl_best_of_n(n))
    gold = d * (0.5 - 0.15 * d)
    fit = over.fit_best_of_n(d, gold)
    assert (fit.alpha, fit.beta, fit.r2) == pytest.approx((0.5, 0.15, 1.0))
    assert fit.peak == pytest.approx(0.5 / 0.3)
    dense = np.linspace(0, 3, 3001)
    assert dense[fit.at(dense).argmax()] == pytest.approx(fit.peak, abs=1e-3)
    assert fit.at(d) == pytest.approx(gold)


def test_fit_along_training_recovers_the_law_and_its_peak():
    d = np.array([0.0, 0.3, 1.0, 2.0, 4.0, 7.0])
    gold = np.r_[0.0, d[1:] * (0.9 - 0.5 * np.log(d[1:]))]  # d log d is 0 at 0
    fit = over.fit_rl(d, gold)
    assert (fit.alpha, fit.beta, fit.r2) == pytest.approx((0.9, 0.5, 1.0))
    assert fit.peak == pytest.approx(math.exp(0.8))
    dense = np.linspace(0, 7, 7001)
    assert dense[fit.at(dense).argmax()] == pytest.approx(fit.peak, abs=1e-3)


def test_the_laws_tell_each_other_apart_on_noisy_gold():
    rng = np.random.default_rng(1)
    d = np.linspace(0, 6, 40)
    noise = rng.normal(0, 0.02, 40)
    along_best_of_n = d * (1.0 - 0.15 * d) + noise
    along_training = d * (1.0 - 0.4 * np.log(np.maximum(d, 1e-9))) + noise
    for gold, right, wrong in (
        (along_best_of_n, over.fit_best_of_n, over.fit_rl),
        (along_training, over.fit_rl, over.fit_best_of_n),
    ):
        assert right(d, gold).r2 > 0.99
        assert right(d, gold).r2 > wrong(d, gold).r2


def test_r2_is_the_share_of_variance_explained():
    # Least squares of y on d, -d^2 through 0 at d = 1, 2 meets both points; with a
    # third, 0 at d = 3: normal equations 14 a - 36 b = 3, 36 a - 98 b = 5 give
    # a = 114 / 76, b = 38 / 76; fitted 1, 1, 0.
    exact = over.fit_best_of_n([1, 2, 3], [1, 1, 0])
    assert (exact.alpha, exact.beta, exact.r2) == pytest.approx((1.5, 0.5, 1.0))
    # Gold 1, 1, 1 at the same d: 14 a - 36 b = 6, 36 a - 98 b = 14 give a = 84 / 76,
    # b = 20 / 76; no variance to explain, so R2 is undefined.
    flat = over.fit_best_of_n([1, 2, 3], [1, 1, 1])
    assert (flat.alpha, flat.beta) == pytest.approx((84 / 76, 20 / 76))
    assert math.isnan(flat.r2)
    # Gold 0, 1, 0: 14 a - 36 b = 2, 36 a - 98 b = 4 give a = 52 / 76, b = 16 / 76;
    # fitted 36, 40, 12 of 76; residual (36^2 + 36^2 + 12^2) / 76^2 = 2736 / 5776, total
    # 2 / 3.
    part = over.fit_best_of_n([1, 2, 3], [0, 1, 0])
    assert part.r2 == pytest.approx(1 - (2736 / 5776) / (2 / 3))


def test_gold_that_never_turns_has_no_peak():
    d = np.array([1.0, 2.0, 3.0])
    assert over.fit_best_of_n(d, d + 0.1 * d**2).peak == math.inf
    assert over.fit_rl(d, d * np.log(d)).peak == math.inf
    assert over.fit_best_of_n(d, -d - 0.1 * d**2).peak == 0  # it only falls


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: over.kl_best_of_n([1, 0]), "n >= 1, got 0"),
        (lambda: over.fit_rl([0, 1], [0, 1]), "two different d > 0"),
        (lambda: over.fit_rl([-1, 1, 2], [0, 1, 2]), "none below 0"),
        (lambda: over.fit_best_of_n([1, 2], [1]), "lists of one length"),
        (lambda: over.best_of_n([[1, 2]], [[1]], [1]), r"must both be \[P, n\]"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
