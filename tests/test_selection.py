"""What k samples earn, against enumeration of every subset."""

import itertools
import math

import numpy as np
import pytest

from o1jax import selection


def test_pass_at_k_equals_enumeration_of_all_subsets():
    n = 6
    for c in range(n + 1):
        sample = [1] * c + [0] * (n - c)
        for k in range(1, n + 1):
            subsets = list(itertools.combinations(sample, k))
            expected = sum(map(any, subsets)) / len(subsets)
            estimate = selection.pass_at_k([c], n, [k])
            assert estimate.per_problem[0, 0] == pytest.approx(expected, abs=1e-12)


def test_pass_at_k_with_ragged_samples_and_large_n():
    estimate = selection.pass_at_k([1, 1, 0], [2, 4, 8], [1, 2])
    # One right of 2: 1/2, then certain. One right of 4: 1/4, then 2/4.
    assert estimate.per_problem.tolist() == [[0.5, 0.25, 0.0], [1.0, 0.5, 0.0]]
    assert estimate.mean == pytest.approx([0.25, 0.5])
    # C(10000, 5000) overflows a float; the product doesn't. One right: k / n.
    large = selection.pass_at_k([1], 10_000, [5000])
    assert large.mean[0] == pytest.approx(0.5)


def test_pass_at_k_is_unbiased():
    """The mean over many draws of n samples is 1 - (1 - p)^k."""
    correct = np.random.default_rng(0).binomial(10, 0.2, size=20_000)
    estimate = selection.pass_at_k(correct, 10, [4])
    # Standard error below 0.5 / sqrt(20,000) = 0.0035.
    assert estimate.mean[0] == pytest.approx(1 - 0.8**4, abs=0.01)


@pytest.mark.parametrize(
    "correct, n, k, message",
    [
        ([1], 4, 5, "k=5 must lie between 1 and the 4 samples"),
        ([1, 1], [4, 2], 3, "k=3 must lie between 1 and the 2 samples"),
        ([5], 4, 2, "correct must lie between 0 and the number of samples"),
    ],
)
def test_pass_at_k_refuses(correct, n, k, message):
    with pytest.raises(ValueError, match=message):
        selection.pass_at_k(correct, n, [k])


def vote(answers, grades):
    """Expected grade of the commonest answer: the definition, by counting."""
    seen = [a for a in answers if a is not None]
    if not seen:
        return 0.0
    best = max(map(seen.count, seen))
    winners = {a for a in seen if seen.count(a) == best}
    return sum(grades[a] for a in winners) / len(winners)


def test_majority_equals_enumeration_with_ties_and_missing_answers():
    problems = [["a", "b", "b", "c", None], [3, 3, 3, 7, 7], [None] * 5]
    grades = [{"a": 0.0, "b": 1.0, "c": 0.0}, {3: 0.0, 7: 1.0}, {}]
    correct = [[g.get(x, 0.0) for x in row] for row, g in zip(problems, grades)]
    ks = [1, 2, 3, 5]
    estimate = selection.majority_at_k(problems, correct, ks)
    for p, (row, grade) in enumerate(zip(problems, grades)):
        for j, k in enumerate(ks):
            every = [vote(s, grade) for s in itertools.combinations(row, k)]
            assert estimate.per_problem[j, p] == pytest.approx(np.mean(every))
    # Of a, b, b, c, None one sample is right with chance 2/5; of all five b wins.
    assert estimate.per_problem[0, 0] == pytest.approx(0.4)
    assert estimate.per_problem[3].tolist() == [1.0, 0.0, 0.0]


def test_majority_by_sampling_is_near_the_exact_value_and_repeats():
    rng = np.random.default_rng(1)
    answers = rng.choice(4, p=[0.4, 0.3, 0.2, 0.1], size=(30, 12)).tolist()
    correct = np.equal(answers, 0)
    exact = selection.majority_at_k(answers, correct, [4], draws=math.comb(12, 4))
    drawn = selection.majority_at_k(answers, correct, [4], draws=400)
    # A problem's error is at most 0.5 / sqrt(400), the mean of 30 far less.
    assert drawn.mean == pytest.approx(exact.mean, abs=0.02)
    assert (drawn.per_problem != exact.per_problem).any()
    again = selection.majority_at_k(answers, correct, [4], draws=400)
    assert (drawn.per_problem == again.per_problem).all()
    # A problem's draws don't depend on how many follow it.
    fewer = selection.majority_at_k(answers[:5], correct[:5], [4], draws=400)
    assert (fewer.per_problem == drawn.per_problem[:, :5]).all()


@pytest.mark.parametrize("draws", [200, 40])
def test_majority_is_a_vote_in_which_scores_are_alike(draws):
    rng = np.random.default_rng(5)
    answers = rng.integers(3, size=(6, 8)).tolist()
    correct = np.equal(answers, 1)
    same = np.full(correct.shape, 0.3)  # sums of 0.3 in different orders still tie
    plain = selection.majority_at_k(answers, correct, [1, 3, 4], draws=draws)
    alike = selection.weighted_at_k(answers, same, correct, [1, 3, 4], draws=draws)
    none = selection.weighted_at_k(answers, 0 * same, correct, [1, 3, 4], draws=draws)
    assert plain.per_problem == pytest.approx(alike.per_problem, abs=1e-12)
    assert plain.per_problem == pytest.approx(none.per_problem, abs=1e-12)


def weighted(subset, grades):
    """Expected grade of the answer with the largest sum; subset of (answer, score)."""
    total = {}
    for answer, score in subset:
        if answer is not None:
            total[answer] = total.get(answer, 0) + score
    best = max(total.values(), default=0)
    winners = [a for a, t in total.items() if math.isclose(t, best)]
    return sum(grades[a] for a in winners) / max(len(winners), 1)


def test_weighted_vote_equals_enumeration():
    answers = ["a", "b", "b", None, "a", "c"]
    score = [0.9, 0.5, 0.4, 1.0, 0.1, 0.5]
    grades = {"a": 1.0, "b": 0.0, "c": 0.25}
    correct = [[grades.get(a, 0.0) for a in answers]]
    ks = [1, 2, 3, 4, 6]
    estimate = selection.weighted_at_k([answers], [score], correct, ks)
    for j, k in enumerate(ks):
        subsets = itertools.combinations(zip(answers, score), k)
        every = [weighted(s, grades) for s in subsets]
        assert estimate.per_problem[j, 0] == pytest.approx(np.mean(every))
    # Of all six: a has 1.0, b 0.9, c 0.5. By number a and b tie: 0.5.
    assert estimate.per_problem[4, 0] == 1.0
    plain = selection.majority_at_k([answers], correct, [6])
    assert plain.per_problem[0, 0] == 0.5


def test_equal_sums_tie_whatever_their_rounding():
    assert 0.1 + 0.2 > 0.3  # in floating point
    vote = selection.weighted_at_k(
        [["a", "a", "b"]], [[0.1, 0.2, 0.3]], [[1, 1, 0]], [3]
    )
    assert vote.mean[0] == 0.5


def test_a_good_scorer_lifts_the_vote_above_the_majority():
    rng = np.random.default_rng(0)
    answers = rng.choice(5, p=[0.3, 0.4, 0.1, 0.1, 0.1], size=(40, 32)).tolist()
    correct = np.equal(answers, 0)
    score = np.clip(0.4 * correct + 0.3 + rng.normal(0, 0.1, correct.shape), 0, 1)
    ks = [1, 16]
    plain = selection.majority_at_k(answers, correct, ks, draws=200)
    helped = selection.weighted_at_k(answers, score, correct, ks, draws=200)
    assert plain.mean[0] == helped.mean[0]  # one vote decides, whatever it weighs
    # Right against most popular answer, per vote: -0.1 +- 0.83 by number, 0.09 +- 0.42
    # by score. Of 16 votes, by the normal law: 0.31 and 0.80 right.
    assert helped.mean[1] - plain.mean[1] > 0.3


def best(subset):
    """Expected value of the best of (score, value) pairs, ties broken uniformly."""
    top = max(score for score, _ in subset)
    return np.mean([value for score, value in subset if score == top])


def test_best_equals_enumeration_with_ties():
    rng = np.random.default_rng(3)
    score = rng.integers(4, size=(5, 7)) / 4  # 4 levels among 7 samples: many ties
    score[4, 2] = -np.inf  # an answer that could not be read is never preferred
    value = rng.random((5, 7))
    ks = [1, 2, 3, 5, 7]
    estimate = selection.best_at_k(score, value, ks)
    for p in range(5):
        for j, k in enumerate(ks):
            subsets = itertools.combinations(zip(score[p], value[p]), k)
            every = [best(subset) for subset in subsets]
            assert estimate.per_problem[j, p] == pytest.approx(np.mean(every))
    assert estimate.mean == pytest.approx(estimate.per_problem.mean(1))


def test_best_by_the_grade_itself_is_pass_at_k():
    """An oracle that scores a sample by its grade finds a right one if there is one."""
    correct = np.random.default_rng(0).random((20, 300)) < 0.05
    ks = [1, 4, 64, 300]
    oracle = selection.best_at_k(correct, correct, ks)
    passed = selection.pass_at_k(correct.sum(1), 300, ks)
    assert oracle.per_problem == pytest.approx(passed.per_problem, abs=1e-12)


def test_best_is_exact_in_a_large_pool():
    """Scores 1..n: the expected maximum of k of them is k (n + 1) / (k + 1)."""
    n = 10_000
    rank = np.random.default_rng(0).permutation(n)[None] + 1
    for k in (1, 7, 4096, n):
        estimate = selection.best_at_k(rank, rank, [k])
        assert estimate.mean[0] == pytest.approx(k * (n + 1) / (k + 1), rel=1e-10)


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda: selection.majority_at_k([["a"]], [[1, 0]], [1]),
            r"answers must have the shape \(1, 2\)",
        ),
        (
            lambda: selection.weighted_at_k([["a"]], [[-1.0]], [[1]], [1]),
            "finite and at least 0",
        ),
        (
            lambda: selection.weighted_at_k([["a"]], [[np.inf]], [[1]], [1]),
            "finite and at least 0",
        ),
        (
            lambda: selection.best_at_k([[np.nan, 1]], [[1, 1]], [1]),
            "a score is NaN",
        ),
        (
            lambda: selection.best_at_k([[0, 1]], [[1, -np.inf]], [1]),
            "value of a sample must be finite",
        ),
        (
            lambda: selection.best_at_k([0, 1], [1, 1], [1]),
            r"must both be \[P, n\]",
        ),
        (
            lambda: selection.best_at_k([[0, 1]], [[1, 1]], [3]),
            "k=3 must lie between 1 and the 2 samples",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
