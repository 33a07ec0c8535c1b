"""Step metrics against their definitions: pairs, bins and claims counted by hand."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from o1jax.reward import metrics
from o1jax.types import StepLabels

NAN = pytest.approx(math.nan, nan_ok=True)


def auc_of_pairs(score, label, weight):
    """The definition: every pair of a right and a wrong step, a tie a half."""
    won = pairs = 0.0
    for i, j in itertools.product(range(len(score)), repeat=2):
        if label[i] and not label[j]:
            pair = weight[i] * weight[j]
            won += pair * ((score[i] > score[j]) + 0.5 * (score[i] == score[j]))
            pairs += pair
    return won / pairs


@pytest.mark.parametrize("levels", [3, 10_000])
def test_auc_is_the_share_of_pairs_in_order(levels):
    rng = np.random.default_rng(levels)
    score = rng.integers(levels, size=80) / levels  # with 3 levels most pairs tie
    label = rng.random(80) < 0.3 + 0.5 * score
    weight = rng.integers(3, size=80)
    ones = np.ones(80)
    found = metrics.step_auc(score, label)
    assert found == pytest.approx(auc_of_pairs(score, label, ones))
    found = metrics.step_auc(score, label, weight)
    assert found == pytest.approx(auc_of_pairs(score, label, weight))
    # Only the order counts, and reversing it turns it round.
    assert metrics.step_auc(np.exp(score), label, weight) == pytest.approx(found)
    assert metrics.step_auc(-score, label, weight) == pytest.approx(1 - found)


def test_auc_by_hand():
    # Right at 0.9 and 0.4, wrong at 0.4 and 0.1: won 1 + 1 + 0.5 + 1 of 4.
    score, label = [0.9, 0.4, 0.4, 0.1], [1, 1, 0, 0]
    assert metrics.step_auc(score, label) == 3.5 / 4
    # A step of weight 0 is none.
    assert metrics.step_auc(score, label, [1, 1, 0, 1]) == 1.0


def test_reliability_and_ece_by_hand():
    # Bins (lo, hi] of width 1/2: {0.1, 0.3, 0.5} with labels 0, 1, 0 and {0.9} with 1.
    p, label = [0.1, 0.9, 0.3, 0.5], [0, 1, 1, 0]
    bins = metrics.reliability(p, label, bins=2)
    assert bins.probability == pytest.approx([0.3, 0.9])
    assert bins.label == pytest.approx([1 / 3, 1.0])
    assert bins.count.tolist() == [3, 1]
    # |0.3 - 1/3| * 3/4 + |0.9 - 1| * 1/4
    assert metrics.ece(p, label, bins=2) == pytest.approx(0.025 + 0.025)
    assert metrics.brier(p, label) == pytest.approx((0.01 + 0.01 + 0.49 + 0.25) / 4)
    # Bins that hold nothing are left out; 0 and 1 have a bin.
    ends = metrics.reliability([0.0, 1.0], [1, 0], bins=10)
    assert ends.count.tolist() == [1, 1]
    assert metrics.ece([0.0, 1.0], [1, 0]) == 1.0


def test_bins_of_equal_mass_hold_as_many_steps():
    p = np.r_[np.linspace(0.90, 0.99, 8), [0.1, 0.2]]
    label = np.ones(10)
    bins = metrics.reliability(p, label, bins=5, spacing="mass")
    assert bins.count.tolist() == [2, 2, 2, 2, 2]
    assert metrics.reliability(p, label, bins=5).count.tolist() == [2, 8]
    # Equal probabilities stay together, in whatever order they come.
    p, label = np.full(9, 0.7), np.r_[np.ones(6), np.zeros(3)]
    bins = metrics.reliability(p, label, bins=3, spacing="mass")
    assert (bins.count.tolist(), bins.label) == ([9], pytest.approx([2 / 3]))
    assert metrics.ece(p, label, spacing="mass") == pytest.approx(0.7 - 2 / 3)


def test_ece_of_calibrated_probabilities_is_near_zero():
    rng = np.random.default_rng(0)
    p = rng.random(40_000)
    label = rng.random(40_000) < p
    # Each of 10 bins of 4,000 has a standard error below 0.5 / sqrt(4000) = 0.008.
    assert metrics.ece(p, label) < 0.01
    # Overconfident: p pushed to sqrt(p) is off by the mean of sqrt(p) - p = 1/6.
    assert metrics.ece(np.sqrt(p), label) == pytest.approx(1 / 6, abs=0.01)


# Five traces, three without and two with a wrong step; scores of what is behind the
# steps (8) must not count.
LABEL = np.array([[1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 0, 1], [1, 1, 1]])
SCORE = np.array(
    [
        [0.9, 0.8, 8.0],  # right; lowest 0.8
        [0.7, 0.9, 0.3],  # wrong at 2: found for a threshold in (0.3, 0.7]
        [0.9, 0.4, 0.1],  # wrong at 1: found in (0.4, 0.9]
        [0.6, 0.8, 0.1],  # wrong at 1: never found, for step 0 is claimed first
        [0.5, 0.9, 0.9],  # right; lowest 0.5
    ]
)
STEPS = np.array([2, 3, 3, 3, 3])


@pytest.mark.parametrize(
    "threshold, on_wrong, on_right",
    [
        (0.2, 0 / 3, 2 / 2),
        (0.35, 1 / 3, 2 / 2),
        (0.45, 2 / 3, 2 / 2),
        (0.6, 2 / 3, 1 / 2),
        (0.75, 1 / 3, 1 / 2),
        (0.85, 1 / 3, 0 / 2),
    ],
)
def test_first_error_by_hand(threshold, on_wrong, on_right):
    f1, wrong, right = metrics.first_error_f1(SCORE, LABEL, STEPS, threshold)
    assert (wrong, right) == pytest.approx((on_wrong, on_right))
    both = on_wrong + on_right
    assert f1 == pytest.approx(2 * on_wrong * on_right / both)


def test_best_threshold_by_hand():
    # From the table above, (0.4, 0.5] is best: 2/3 and 2/2.
    assert metrics.best_threshold(SCORE, LABEL, STEPS) == pytest.approx(0.45)


def test_best_threshold_is_in_the_middle_of_the_widest_stretch():
    """Three traces that no threshold finds (an earlier step scores less) move nothing.

    One right trace of 0.5 and one whose first step is wrong, of 0.1: both are found in
    (0.1, 0.5], which the 0.2 of the others cuts; (0.2, 0.5] is the wider part.
    """
    score = [[0.5, 0.5], [0.1, 0.9], [0.2, 0.6], [0.2, 0.6], [0.2, 0.6]]
    label = [[1, 1], [0, 0], [1, 0], [1, 0], [1, 0]]
    assert metrics.best_threshold(score, label, [2] * 5) == pytest.approx(0.35)


def test_best_threshold_is_that_of_trying_all():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        steps = rng.integers(0, 6, size=30)
        label = rng.random((30, 5)) < 0.8
        score = np.round(np.clip(rng.normal(0.4 + 0.3 * label, 0.2), 0, 1), 2)
        chosen = metrics.best_threshold(score, label, steps)
        every = [
            metrics.first_error_f1(score, label, steps, t).f1
            for t in np.arange(-0.005, 1.01, 0.01)  # between all scores
        ]
        found = metrics.first_error_f1(score, label, steps, chosen).f1
        assert found == pytest.approx(max(every))


def labels_of(step_end, label, weight=None):
    step_end = np.asarray(step_end, bool)
    return StepLabels(
        tokens=jnp.zeros(step_end.shape, jnp.int32),
        prompt_length=jnp.ones(len(step_end), jnp.int32),
        length=jnp.full(len(step_end), step_end.shape[1]),
        step_end=jnp.array(step_end),
        label=jnp.array(label, jnp.float32) * step_end,
        weight=jnp.array(step_end if weight is None else weight, jnp.float32),
    )


def spread(values, ends):
    """Values of steps put at the tokens that close them, 0.123 elsewhere."""
    out = np.full(ends.shape, 0.123, np.float32)
    for row, (at, steps) in enumerate(zip(ends, STEPS)):
        out[row, np.nonzero(at)[0]] = values[row, :steps]
    return out


def test_judge_reads_the_step_ends_and_agrees_with_each_metric():
    # Steps of different lengths: the j-th of row b ends at token 2 + b + 2 j.
    ends = np.zeros((5, 14), bool)
    for b, steps in enumerate(STEPS):
        ends[b, [2 + b + 2 * j for j in range(steps)]] = True
    labels = labels_of(ends, spread(LABEL, ends))
    probability = spread(np.minimum(SCORE, 1), ends)
    with jax.numpy_dtype_promotion("strict"):
        judged = metrics.judge(jnp.array(probability), labels, threshold=0.45)
    real = np.arange(3) < STEPS[:, None]
    p, y = np.float32(SCORE[real]), LABEL[real]
    assert judged == {
        "step_auc": metrics.step_auc(p, y),
        "ece": metrics.ece(p, y),
        "brier": metrics.brier(p, y),
        "first_error_f1": pytest.approx(2 * (2 / 3) / (5 / 3)),
        "threshold": 0.45,
        "accuracy_on_right": 1.0,
        "accuracy_on_wrong": pytest.approx(2 / 3),
        "steps": 14,
        "traces": 5,
        "reliability": [list(bin) for bin in zip(*metrics.reliability(p, y))],
    }
    for name, value in judged.items():
        assert name == "reliability" or type(value) in (int, float)
    # A row of padding changes nothing, nor does a step whose label is unknown.
    padded = jax.tree.map(lambda a: jnp.concatenate([a, jnp.zeros_like(a[:1])]), labels)
    more = np.r_[probability, np.full((1, 14), 0.99)]
    assert metrics.judge(more, padded, threshold=0.45) == judged
    unknown = ends.copy()
    unknown[:, 13] = True
    padded = labels_of(unknown, spread(LABEL, ends), weight=ends)
    assert metrics.judge(probability, padded, threshold=0.45) == judged


def test_judge_chooses_the_threshold_on_other_traces_than_it_reports():
    # One step a trace. On even rows 0.5 parts right from wrong, on odd rows 0.8.
    p = np.array([[0.6], [0.9], [0.4], [0.7], [0.6], [0.9], [0.4], [0.7]])
    label = np.array([[1], [1], [0], [0]] * 2)
    judged = metrics.judge(p, labels_of(np.ones((8, 1)), label))
    assert judged["threshold"] == pytest.approx(0.5)
    assert (judged["accuracy_on_right"], judged["accuracy_on_wrong"]) == (1.0, 0.0)
    assert judged["first_error_f1"] == 0.0
    told = metrics.judge(p, labels_of(np.ones((8, 1)), label), threshold=0.5)
    # Of all wrong steps those of even rows, 0.4, are found.
    assert told["accuracy_on_wrong"] == 0.5


def test_interval_over_traces_is_wider_than_over_steps():
    """Ten steps of a trace that share their score and label are one observation."""
    rng = np.random.default_rng(0)
    y = rng.random(60) < 0.5
    s = rng.normal(y * 1.0, 1.0)
    score, label = np.repeat(s, 10), np.repeat(y, 10)
    trace = np.repeat(np.arange(60), 10)
    by_trace = metrics.auc_interval(score, label, trace, 400)
    by_step = metrics.auc_interval(score, label, np.arange(600), 400)
    alone = metrics.auc_interval(s, y, np.arange(60), 400)
    assert by_trace.value == by_step.value == metrics.step_auc(s, y)
    assert by_trace == pytest.approx(alone)
    assert by_trace.lo < by_trace.value < by_trace.hi
    # sqrt(10) wider; half of that is far outside what 400 resamples leave open.
    assert by_trace.hi - by_trace.lo > 2 * (by_step.hi - by_step.lo)


def test_judge_gives_the_interval_if_asked():
    rng = np.random.default_rng(0)
    label = rng.random((50, 4)) < 0.6
    p = np.clip(rng.normal(0.4 + 0.2 * label, 0.2), 0, 1)
    ends = np.ones((50, 4))
    judged = metrics.judge(p, labels_of(ends, label), resamples=200, seed=3)
    trace = np.repeat(np.arange(50), 4)
    expected = metrics.auc_interval(p, label, trace, 200, seed=3)
    assert judged["step_auc_interval"] == [expected.lo, expected.hi]
    assert expected.lo < judged["step_auc"] < expected.hi


def test_what_is_undefined_is_nan():
    assert metrics.step_auc([0.1, 0.2], [1, 1]) == NAN
    assert metrics.step_auc([0.1, math.nan], [1, 0]) == NAN
    assert metrics.step_auc([], []) == NAN
    assert metrics.ece([], []) == NAN and metrics.brier([], []) == NAN
    assert metrics.ece([0.2, math.nan], [1, 0]) == NAN
    assert metrics.ece([0.2, math.nan], [1, 0], spacing="mass") == NAN
    only_right = metrics.first_error_f1([[0.9]], [[1]], [1], 0.5)
    assert tuple(only_right) == (NAN, NAN, 1.0)
    assert metrics.best_threshold([[0.9]], [[1]], [1]) == NAN
    # Of two traces the first alone can't choose a threshold for the second.
    pair = metrics.judge([[0.9], [0.1]], labels_of(np.ones((2, 1)), [[1], [0]]))
    assert pair["threshold"] == NAN and pair["first_error_f1"] == NAN
    assert pair["accuracy_on_wrong"] == NAN and pair["step_auc"] == 1.0
    nothing = metrics.judge(np.zeros((2, 3)), labels_of(np.zeros((2, 3)), 0.0))
    assert (nothing["steps"], nothing["traces"], nothing["reliability"]) == (0, 0, [])
    assert nothing["step_auc"] == NAN and nothing["first_error_f1"] == NAN
    broken = metrics.judge(np.full((4, 1), np.nan), labels_of(np.ones((4, 1)), 1.0))
    assert broken["step_auc"] == NAN and broken["ece"] == NAN


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: metrics.step_auc([1], [1, 0]), r"shapes differ: \(1,\), \(2,\)"),
        (lambda: metrics.ece([2.5], [1]), r"lie in \[0, 1\], got 2.5"),
        (lambda: metrics.ece([0.5], [1], bins=0), "bins=0"),
        (lambda: metrics.ece([0.5], [1], spacing="log"), "'log'"),
        (lambda: metrics.first_error_f1([[1]], [[1]], [1, 2], 0.5), r"steps \(2,\)"),
        (
            lambda: metrics.judge(np.zeros((2, 2)), labels_of(np.ones((2, 3)), 1.0)),
            r"probability \(2, 2\) and step_end \(2, 3\)",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
