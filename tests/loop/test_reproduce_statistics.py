"""Laws, differences and the compute-optimal choice, on data with known answers."""

import json
from statistics import NormalDist

import numpy as np
import pytest

from o1jax.inspect.claims import write_index
from o1jax.loop.reproduce import a1
from o1jax.loop.reproduce.claim import Evidence, Predictions, Tier
from o1jax.loop.reproduce.compare import difference_table
from o1jax.loop.reproduce.laws import COMPETITORS, PUBLISHED, fit_law
from o1jax.loop.reproduce.optimal import compute_optimal, difficulty_bins, savings
from o1jax.statistics import bootstrap

K = 2.0 ** np.arange(11)


@pytest.mark.parametrize("law", [PUBLISHED, *COMPETITORS], ids=lambda law: law.name)
def test_each_law_is_recovered_from_its_own_curve(law):
    slope = {"1 - p k^q": -0.3, "exp(a k^b)": -0.4}.get(law.name, 0.8)
    intercept = {"1 - p k^q": -0.1, "exp(a k^b)": 1.0}.get(law.name, -2.5)
    curve = law.inverse(slope * np.log(K) + intercept)
    fit = fit_law(law, K, curve)
    np.testing.assert_allclose((fit.slope, fit.intercept), (slope, intercept))
    np.testing.assert_allclose(fit.at(K), curve)
    assert fit.r2 == pytest.approx(1)
    rivals = [fit_law(o, K, curve).r2 for o in (PUBLISHED, *COMPETITORS) if o != law]
    assert max(rivals) < 0.999


def test_a_law_by_hand():
    """exp(-e k^-1): log(-log c) = 1 - log k, so c = exp(-e / 2) at k = 2."""
    curve = np.exp(-np.e / K)
    fit = fit_law(PUBLISHED, K, curve)
    assert fit.at(np.array(2.0)) == pytest.approx(np.exp(-np.e / 2))
    with pytest.raises(ValueError, match="needs two k with a coverage inside"):
        fit_law(PUBLISHED, K, np.r_[0.5, np.ones(10)])


def evidence(*seeds, **arms):
    """Evidence of arms given as right [S][P], with one answer a problem."""
    predictions = {
        name: [
            Predictions(np.array(r), np.ones(len(r), int), *np.full((2, len(r)), cost))
            for r in rows
        ]
        for name, (rows, cost) in arms.items()
    }
    problems = len(next(iter(arms.values()))[0][0])
    return Evidence(Tier("x.gin", (), problems), seeds, [], predictions)


def test_differences_say_what_is_not_resolved():
    """b answers what a does, one problem aside; c answers nothing."""
    a = [[1] * 20 + [0] * 20] * 3
    b = [[1] * 19 + [0] * 21] * 3
    found = evidence(0, 1, 2, a=(a, 8.0), b=(b, 4.0), c=([[0] * 40] * 3, 4.0))
    section = difference_table(found, [("a", "b"), ("a", "c"), ("c", "b")])
    first, second, third = section["table"]["rows"]
    # 1 of 40 problems on each seed: the interval of 120 such reaches down to ~ 0.
    assert first[2][0] == pytest.approx(1 / 40)
    assert second[2][0] == pytest.approx(1 / 2) and second[3] == "a"
    assert third[2][0] == pytest.approx(-19 / 40) and third[3] == "b"
    assert [row[4] for row in (first, second, third)] == [2, 2, 1]  # cost ratios
    same = difference_table(found, [("a", "a")])["table"]["rows"][0]
    assert same[2:4] == [[0, 0, 0], "not resolved"]


def test_the_bootstrap_keeps_what_belongs_to_a_problem_together():
    """Two columns that add up to 1 for every problem do so in every resample."""
    one = np.random.default_rng(0).random((3, 30))
    scores = np.stack([one, 1 - one], -1)
    whole = lambda drawn: drawn.mean((1, 2)).sum(-1)
    assert bootstrap(scores, whole) == pytest.approx((1, 1, 1))
    # The mean of one column is bootstrap_interval's own.
    alone = bootstrap(scores, lambda drawn: drawn[..., 0].mean((1, 2)))
    assert alone.lo < alone.value < alone.hi
    # One seed that is right and one that is wrong: both, either or neither are drawn.
    seeds = np.repeat([[0.0], [1.0]], 5, axis=1)
    assert bootstrap(seeds, lambda drawn: drawn.mean((1, 2))) == (0.5, 0, 1)
    with pytest.raises(ValueError, match=r"scores must be \[S, P, \.\.\.\]"):
        bootstrap(np.ones(3), whole)


def test_bins_hold_equally_many_the_easiest_first():
    success = np.array([[0.1, 0.9, 0.5, 0.0, 0.7, 0.3], [0, 0, 0, 0, 0, 1.0]])
    bins = difficulty_bins(success, 3)
    assert bins.tolist() == [[2, 0, 1, 2, 0, 1], [0, 1, 1, 2, 2, 0]]
    with pytest.raises(ValueError, match="2 problems cannot fill 3 bins"):
        difficulty_bins(np.ones(2), 3)


def test_each_bin_gets_the_method_that_suits_it():
    """Parallel solves easy problems from budget 1 on, beam the hard ones from 4 on."""
    bins = np.repeat([0, 1], 10)
    budgets = [1, 2, 4, 8]
    accuracy = np.zeros((2, 4, 20))
    accuracy[0, :, :10] = 1
    accuracy[1, 2:, 10:] = 1
    cost = np.broadcast_to(np.array(budgets, float)[:, None], accuracy.shape)
    found = compute_optimal(accuracy, cost, budgets, bins)
    np.testing.assert_allclose(found.accuracy.mean(1), [0.5, 0.5, 1, 1])
    assert found.method[:, 2].tolist() == [[0, 1], [0, 1]]
    assert found.budget[:, 3].tolist() == [[0, 2], [0, 2]]  # the cheapest of equals
    np.testing.assert_allclose(found.cost.mean(1), [1, 1, 2.5, 2.5])
    # A budget that was not run is never chosen.
    accuracy[1, 2, 10:] = np.nan
    found = compute_optimal(accuracy, cost, budgets, bins)
    np.testing.assert_allclose(found.accuracy.mean(1), [0.5, 0.5, 0.5, 1])


def test_the_choice_is_not_scored_with_what_it_was_made_on():
    """40 methods that guess: the best of them on a fold is no better on the other."""
    rng = np.random.default_rng(0)
    accuracy = rng.integers(2, size=(40, 1, 400)).astype(float)
    bins = np.repeat(np.arange(20), 20)
    cost = np.ones_like(accuracy)
    found = compute_optimal(accuracy, cost, [1], bins)
    # Chosen and scored on the same 10 problems of a bin, the best of 40 has 0.8 to 1.
    assert abs(found.accuracy.mean() - 0.5) < 4 * 0.5 / np.sqrt(400)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"bins": np.array([0, 0, 0, 1])}, "bin 1 has 1 problems: two are needed"),
        ({"budgets": [2, 1]}, "budgets must ascend"),
        ({"cost": np.ones((1, 2, 3))}, "must be \\[M, B, P\\] with 2 budgets and 4"),
        ({"accuracy": np.full((1, 2, 4), np.nan)}, "no method was run at a budget of"),
    ],
    ids=["bins", "budgets", "cost", "nan"],
)
def test_what_cannot_be_chosen_from_is_refused(change, message):
    fine = {
        "accuracy": np.ones((1, 2, 4)),
        "cost": np.ones((1, 2, 4)),
        "budgets": [1, 2],
        "bins": np.array([0, 0, 1, 1]),
    }
    with pytest.raises(ValueError, match=message):
        compute_optimal(**fine | change)


def test_savings_by_hand():
    """The curve has .25, .5, 1 at cost 1, 2, 4: it meets .5 at 2 and .75 at sqrt(8)."""
    reference, at = [0.5, 0.75, 0.2, 1.1], [4, 8, 1, 16]
    found = savings(reference, at, [0.25, 0.5, 1], [1, 2, 4])
    np.testing.assert_allclose(found, [4 / 2, 8 / np.sqrt(8), 1, np.nan])


def sampled(chances, samples=1024):
    """Evidence of A1 for problems with these chances of a right sample, three seeds."""
    rng = np.random.default_rng(1)
    ones = np.ones(len(chances))
    rows = [
        Predictions(
            rng.binomial(samples, chances), (samples * ones).astype(int), *[ones] * 2
        )
        for _ in range(3)
    ]
    return Evidence(Tier("x.gin", (), len(chances)), (0, 1, 2), [], {a1.ARM: rows})


def held(chances):
    return [check.passed for check in a1.analyse(sampled(chances)).checks]


def test_a1_tells_a_power_law_from_what_is_none():
    """Chances that give exp(a k^b), and two policies that don't.

    Coverage is 1 - E[(1 - p)^k] over problems: chances p spread over decades give the
    law's slow rise.
    """
    quantiles = (np.arange(300) + 0.5) / 300
    normal = np.array([NormalDist().inv_cdf(q) for q in quantiles])
    wide = np.minimum(0.9, np.exp(-4.0 + 2.3 * normal))
    assert held(wide)[:2] == [True, True]
    # All problems alike: coverage is 1 after 32 samples, which no power law foretells.
    rises, *_, straight, _ = held(np.full(300, 0.3))
    assert (rises, straight) == (False, False)
    # A third is never solved: the curve is flat below 1.
    unsolvable = np.r_[np.full(200, 0.2), np.zeros(100)]
    rises, fits, _, straight, _ = held(unsolvable)
    assert not any((rises, fits, straight))


def test_a1_reports_curves_and_competing_laws():
    findings = a1.analyse(sampled(np.geomspace(1e-4, 0.5, 60)))
    coverage, laws, competition = findings.sections
    first, *_, last = coverage["table"]["rows"]
    assert (first[0], last[0]) == (1, 1024)
    assert first[1][1] < first[1][0] < first[1][2] < last[1][0]
    assert [row[0] for row in laws["table"]["rows"]][:2] == ["seed 0", "seed 1"]
    a, b = laws["table"]["rows"][-1][1:3]
    assert a[1] < a[0] < a[2] < 0 and b[1] < b[0] < b[2] < 0
    assert competition["table"]["rows"][0][0] == "exp(a k^b)"


def test_the_index_orders_claims_by_number(tmp_path):
    content = {
        "statement": "It rises",
        "source": "1",
        "tier": "nano",
        "seeds": 3,
        "passed": 2,
        "failed": 0,
        "date": "2026-01-01",
        "seconds": 61,
        "device": "1 x cpu",
        "sections": [],
        "checks": [],
    }
    for name in ("A10", "A2"):
        (tmp_path / name).mkdir()
        file = tmp_path / name / "results.json"
        file.write_text(json.dumps(content | {"claim": name}))
    lines = write_index(tmp_path).read_text().splitlines()
    rows = [line for line in lines if line.startswith("| [")]
    assert [row.split("|")[1].strip()[:5] for row in rows] == ["[A2](", "[A10]"]
    assert "2 passed" in rows[0] and "1 min 01 s" in rows[0]
    (tmp_path / "A2" / "results.json").write_text("{")
    with pytest.raises(ValueError, match=r"A2/results\.json is not JSON"):
        write_index(tmp_path)
