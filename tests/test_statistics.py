"""Intervals and fits against planted truth."""

import math
import subprocess
import sys

import numpy as np
import pytest

from o1jax import statistics as stats


def share_covered(shape, make, truth):
    """How often a 90 % interval holds the truth, over 300 data sets."""
    hits = 0
    for seed in range(300):
        scores = make(np.random.default_rng([7, seed]), shape)
        _, lo, hi = stats.bootstrap_interval(
            scores, seed=seed, level=0.9, resamples=300
        )
        hits += lo <= truth <= hi
    return hits / 300


def test_bootstrap_holds_the_truth_as_often_as_it_says():
    # Standard error of the share: sqrt(0.9 * 0.1 / 300) = 0.017.
    covered = share_covered(100, lambda rng, n: rng.random(n) < 0.3, 0.3)
    assert 0.85 <= covered <= 0.95


def test_bootstrap_over_seeds_sees_the_spread_between_seeds():
    def make(rng, shape):
        of_seed = rng.normal(0.5, 0.2, size=(shape[0], 1))
        return of_seed + rng.normal(0, 0.2, size=shape)

    hierarchical = share_covered((8, 20), make, 0.5)
    pooled = share_covered((8, 20), lambda *a: make(*a).ravel(), 0.5)
    assert hierarchical >= 0.8 and pooled < 0.5


def test_bootstrap_is_seeded_and_of_one_seed_equals_the_plain():
    scores = np.random.default_rng(0).random(50)
    interval = stats.bootstrap_interval(scores, seed=3)
    assert interval == stats.bootstrap_interval(scores[None], seed=3)
    assert interval != stats.bootstrap_interval(scores, seed=4)
    assert interval.value == scores.mean()
    # Normal theory: 1.96 standard errors each way.
    width = 2 * 1.96 * scores.std() / math.sqrt(50)
    assert interval.hi - interval.lo == pytest.approx(width, rel=0.1)


def test_paired_bootstrap_resolves_what_unpaired_intervals_do_not():
    rng = np.random.default_rng(0)
    hard = rng.random(200)  # problems differ much more than the two methods
    a, b = hard + 0.03 + rng.normal(0, 0.05, 200), hard
    gain = stats.paired_bootstrap(a, b)
    assert gain.resolved and gain.lo < 0.03 < gain.hi
    assert gain.difference == pytest.approx((a - b).mean())
    loss = stats.paired_bootstrap(b, a)
    assert loss.resolved and loss.hi < 0
    first, second = stats.bootstrap_interval(a), stats.bootstrap_interval(b)
    assert first.lo < second.hi  # overlap
    assert not stats.paired_bootstrap(a, a[::-1]).resolved


def test_wilson_interval():
    # z = 1.96, n = 10, share 0.5: middle 0.5, half = 1.96 sqrt(0.025 + 0.0096) /
    # 1.384 = 0.2634.
    value, lo, hi = stats.wilson_interval(5, 10)
    assert (value, lo, hi) == pytest.approx((0.5, 0.2366, 0.7634), abs=1e-4)
    # At 0 of n the end is z^2 / (n + z^2).
    none, every = stats.wilson_interval(0, 10), stats.wilson_interval(10, 10)
    assert none.lo == 0.0 and none.hi == pytest.approx(3.8415 / 13.8415, abs=1e-4)
    assert every.hi == 1.0 and every.lo == pytest.approx(1 - none.hi)


def test_coverage_fit_recovers_planted_parameters():
    k = np.array([1, 2, 4, 8, 16, 64, 256, 1024])
    planted = np.exp(-1.8 * k**-0.4)
    a, b, r2 = stats.fit_coverage(k, planted)
    assert (a, b, r2) == pytest.approx((-1.8, -0.4, 1.0))
    # Points at 0 and 1 carry nothing and are left out.
    padded = stats.fit_coverage(np.r_[k, 2048, 4096], np.r_[planted, 0.0, 1.0])
    assert padded == pytest.approx((-1.8, -0.4, 1.0))


def test_coverage_fit_from_shares_is_better_weighted():
    """Near 1 the logarithm magnifies the noise of a share; the weights know."""
    k = 2.0 ** np.arange(12)
    planted = np.exp(-1.5 * k**-0.7)

    def errors(weighted):
        found = []
        for seed in range(200):
            share = np.random.default_rng(seed).binomial(500, planted) / 500
            use = (share > 0) & (share < 1)
            if weighted:
                found.append(stats.fit_coverage(k, share).b)
            else:
                y = np.log(-np.log(share[use]))
                found.append(stats.fit_line(np.log(k[use]), y)[0])
        return np.std(found)

    assert errors(weighted=True) < 0.8 * errors(weighted=False)


def test_power_and_line_recover_planted_parameters():
    x = np.array([1.0, 3.0, 10.0])
    assert stats.fit_power(x, 5 * x**-0.5) == pytest.approx((5, -0.5, 1))
    assert stats.fit_line(x, 2 * x - 1) == pytest.approx((2, -1, 1))
    # Weight 0 leaves a point out.
    line = stats.fit_line([0, 1, 2], [0, 1, 9], weight=[1, 1, 0])
    assert line == pytest.approx((1, 0, 1))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: stats.fit_coverage([1, 2], [0.5, 1.0]), "two k with a coverage"),
        (lambda: stats.fit_power([0, 1], [1, 2]), "above 0"),
        (lambda: stats.fit_line([1, 1], [1, 2]), "two different x"),
        (lambda: stats.wilson_interval(3, 2), "3 successes of 2"),
        (lambda: stats.paired_bootstrap([1, 2], [1]), "differ in shape"),
        (lambda: stats.bootstrap_interval([]), r"per_problem must be \[P\]"),
        (lambda: stats.bootstrap_interval([1], level=95), "level must lie"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_needs_no_jax():
    code = "import sys, o1jax.statistics; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
