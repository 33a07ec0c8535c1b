"""Two judges of the same steps, by hand; and what knows nothing finds by chance."""

import numpy as np
import pytest

from o1jax.reward.metrics import judge
from o1jax.reward.paired import auc_difference, chance_f1, f1_difference, f1_interval
from o1jax.types import StepLabels


def labels_of(label):
    label = np.asarray(label, "f4")
    rows, steps = label.shape
    return StepLabels(
        tokens=np.zeros((rows, steps), np.int32),
        prompt_length=np.zeros(rows, np.int32),
        length=np.full(rows, steps, np.int32),
        step_end=np.ones((rows, steps), bool),
        label=label,
        weight=np.ones((rows, steps), "f4"),
    )


@pytest.fixture(scope="module")
def traces():
    """40 traces of 3 steps: every second pair has its second step wrong."""
    label = np.ones((40, 3))
    label[np.arange(40) % 4 < 2, 1:] = 0
    labels = labels_of(label)
    return labels.replace(weight=np.where([1, 1, 0], 1, label).astype("f4"))


def test_a_judge_that_knows_against_one_that_does_not(traces):
    knows = np.asarray(traces.label) * 0.8 + 0.1
    blind = np.full(knows.shape, 0.5)
    assert f1_interval(knows, traces) == (1, 1, 1)
    assert f1_interval(blind, traces)[0] == 0
    assert f1_difference(knows, blind, traces) == (1, 1, 1, True)
    assert auc_difference(knows, blind, traces) == (0.5, 0.5, 0.5, True)
    assert auc_difference(knows, knows, traces) == (0, 0, 0, False)


def test_the_middle_is_what_judge_reports(traces):
    rng = np.random.default_rng(0)
    score = np.clip(np.asarray(traces.label) * 0.3 + rng.random((40, 3)) * 0.7, 0, 1)
    judged = judge(score, traces, resamples=200)
    value, lo, hi = f1_interval(score, traces)
    assert value == pytest.approx(judged["first_error_f1"])
    assert lo < value < hi
    other = rng.random((40, 3))
    difference = auc_difference(score, other, traces)
    assert difference[0] == pytest.approx(
        judged["step_auc"] - judge(other, traces)["step_auc"]
    )
    assert difference.lo < difference.difference < difference.hi


def test_chance_by_counting():
    """Texts of one step, half wrong: at threshold t random scores find t of the wrong
    and pass 1 - t of the right; the harmonic mean is at most 1/2, less as t strays."""
    labels = labels_of(np.arange(400)[:, None] // 2 % 2)
    assert 0.35 < chance_f1(labels, draws=20) < 0.5
