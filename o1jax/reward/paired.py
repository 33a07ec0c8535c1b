"""Two judges of the same steps side by side, and what chance would do.

In: probabilities that steps are right, of one judge or two, and labels from an oracle.
Out: intervals over traces. First errors are judged as `metrics.judge` does it: each
judge's threshold is chosen on every other trace, and all of this is about the rest. A
difference is of paired resamples, so what makes a trace hard for both cancels.
"""

import numpy as np

from o1jax.reward.metrics import (
    Array,
    best_threshold,
    first_error_f1,
    step_auc,
    step_table,
)
from o1jax.statistics import Difference, Interval, bootstrap
from o1jax.types import StepLabels


def f1_interval(
    probability: Array, labels: StepLabels, *, resamples: int = 1000, seed: int = 0
) -> Interval:
    """First-error F1 with a 95 % interval over the traces that it is reported on.

    A resample without one of the two kinds of traces counts as 0.
    """
    hit, wrong = _hits(probability, labels)
    both = np.stack([hit, wrong], axis=-1)[None]
    return bootstrap(
        both,
        lambda x: _f1(x[:, 0, :, 0], x[:, 0, :, 1]),
        resamples=resamples,
        seed=seed,
    )


def f1_difference(
    a: Array, b: Array, labels: StepLabels, *, resamples: int = 1000, seed: int = 0
) -> Difference:
    """First-error F1 of judge a minus that of judge b."""
    (hit_a, wrong), (hit_b, _) = _hits(a, labels), _hits(b, labels)
    three = np.stack([hit_a, hit_b, wrong], axis=-1)[None]

    def difference(x: Array) -> Array:
        f1 = [_f1(x[:, 0, :, i], x[:, 0, :, 2]) for i in (0, 1)]
        return f1[0] - f1[1]

    return _resolved(bootstrap(three, difference, resamples=resamples, seed=seed))


def auc_difference(
    a: Array, b: Array, labels: StepLabels, *, resamples: int = 1000, seed: int = 0
) -> Difference:
    """Step AUC of judge a minus that of judge b."""
    known, (of_a, label, steps) = step_table(a, labels)
    of_b = step_table(b, labels)[1][0]
    of_a, of_b, label = of_a[known], of_b[known], label[known]
    trace = np.repeat(np.arange(len(steps)), steps)

    def difference(drawn: Array) -> Array:
        often = [np.bincount(d, minlength=len(steps)) for d in drawn[:, 0].astype(int)]
        weight = [count[trace].astype(float) for count in often]
        aucs = lambda score: np.array([step_auc(score, label, w) for w in weight])
        return aucs(of_a) - aucs(of_b)

    traces = np.arange(len(steps))[None]
    return _resolved(bootstrap(traces, difference, resamples=resamples, seed=seed))


def chance_f1(labels: StepLabels, *, draws: int = 200, seed: int = 0) -> float:
    """Mean first-error F1 of scores that know nothing, the threshold chosen as ever."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        hit, wrong = _hits(rng.random(np.shape(labels.step_end)), labels)
        found.append(_f1(hit[None], wrong[None])[0])
    return float(np.mean(found))


def _hits(probability: Array, labels: StepLabels) -> tuple[Array, Array]:
    """f64[B] each, of every second trace: judged rightly, and with a wrong step."""
    traces = step_table(probability, labels)[1]
    threshold = best_threshold(*(part[::2] for part in traces))
    score, label, steps = (part[1::2] for part in traces)
    real = np.arange(score.shape[1]) < steps[:, None]
    one = lambda i: first_error_f1(
        score[i : i + 1], label[i : i + 1], steps[i : i + 1], threshold
    )
    wrong = np.any(real & (label < 0.5), axis=1)
    hit = [one(i).on_wrong if wrong[i] else one(i).on_right for i in range(len(steps))]
    return np.array(hit), wrong.astype(float)


def _f1(hit: Array, wrong: Array) -> Array:
    """f64[R] of [R, B]; 0 where one of the kinds is lacking, NaN where hits are."""
    of_wrong = (hit * wrong).sum(1) / np.maximum(wrong.sum(1), 1)
    of_right = (hit * (1 - wrong)).sum(1) / np.maximum((1 - wrong).sum(1), 1)
    return 2 * of_wrong * of_right / np.maximum(of_wrong + of_right, 1e-12)


def _resolved(interval: Interval) -> Difference:
    value, lo, hi = interval
    return Difference(value, lo, hi, resolved=lo > 0 or hi < 0)
