"""How good a reward model's step scores are: ranking, calibration, the first error.

In: probabilities that a step is right, and its label. Out: step AUC, ECE with its
reliability bins, Brier score, first-error F1; `judge` gives all of them for labelled
traces. Numpy, on the host. What is undefined (one class only, or no step at all) or
comes of NaN scores is NaN, never an exception.

Sources: ECE, Guo et al. 2017 (arXiv:1706.04599); equal mass, Nixon et al. 2019
(arXiv:1904.01685); first-error F1, ProcessBench, Zheng et al. 2024 (arXiv:2412.06559).
"""

import math
from typing import Any, Literal, NamedTuple

import numpy as np

from o1jax.statistics import Interval, bootstrap
from o1jax.types import StepLabels

Array = np.ndarray
Spacing = Literal["width", "mass"]


class Reliability(NamedTuple):
    """Means of the bins that hold something, by rising probability."""

    probability: Array  # f64[bins]
    label: Array  # f64[bins]
    count: Array  # i64[bins]


class FirstError(NamedTuple):
    """Traces whose first wrong step is found, or of which none is rightly claimed."""

    f1: float  # harmonic mean of the two
    on_wrong: float  # share, of the traces with a wrong step
    on_right: float  # share, of those without


def step_auc(score: Array, label: Array, weight: Array | None = None) -> float:
    """Chance that a right step has a higher score than a wrong one; ties count half.

    Arrays of one shape, one entry a step. A label of at least 0.5 is right. O(n log n).
    """
    score, label, weight = _flat(score, label, weight)
    if np.any(np.isnan(score)):
        return math.nan
    _, rank = np.unique(score, return_inverse=True)
    return _auc(rank, label >= 0.5, weight)


def _auc(rank: Array, right: Array, weight: Array) -> float:
    """Of scores numbered by rank, 0 the lowest, equal ones alike."""
    wrong_at = np.bincount(rank, weight * ~right)
    right_at = np.bincount(rank, weight * right)
    pairs = wrong_at.sum() * right_at.sum()
    below = np.cumsum(wrong_at) - wrong_at / 2
    return float(right_at @ below / pairs) if pairs > 0 else math.nan


def reliability(
    probability: Array, label: Array, *, bins: int = 10, spacing: Spacing = "width"
) -> Reliability:
    """Mean probability, mean label and number of steps, bin by bin.

    Bins are (lo, hi]: of equal `width` in [0, 1], or of equal `mass`, as many steps in
    each as equal probabilities, which stay together, allow.
    """
    p, label, _ = _flat(probability, label, None)
    if bins < 1 or spacing not in ("width", "mass"):
        raise ValueError(f"no bins={bins} of equal {spacing!r}: >= 1 of width or mass")
    if np.any((p < 0) | (p > 1)):
        raise ValueError(
            f"probabilities must lie in [0, 1], got {p.min()} .. {p.max()}"
        )
    edges = np.linspace(0, 1, bins + 1)
    if spacing == "mass" and len(p):
        edges = np.quantile(p, edges)
    at = np.searchsorted(edges[1:-1], p)
    count = np.bincount(at, minlength=bins)
    used = np.maximum(count, 1)
    mean_p = np.bincount(at, p, minlength=bins) / used
    mean_label = np.bincount(at, label, minlength=bins) / used
    return Reliability(mean_p[count > 0], mean_label[count > 0], count[count > 0])


def ece(
    probability: Array, label: Array, *, bins: int = 10, spacing: Spacing = "width"
) -> float:
    """Expected calibration error: sum over bins of count / n * |mean p - mean label|.

    Labels may be soft.
    """
    p, y, n = reliability(probability, label, bins=bins, spacing=spacing)
    return float(n @ np.abs(p - y) / n.sum()) if n.sum() else math.nan


def brier(probability: Array, label: Array) -> float:
    """Mean of (p - label)^2."""
    p, label, _ = _flat(probability, label, None)
    return float(np.mean((p - label) ** 2)) if len(p) else math.nan


def first_error_f1(
    score: Array, label: Array, steps: Array, threshold: float
) -> FirstError:
    """ProcessBench's metric: the first step that scores below the threshold is claimed.

    `score` and `label` are [B, J], of which the first `steps[b]` count. A trace with a
    wrong step (label below 0.5) is found if exactly its first one is claimed, one
    without if none is. Traces of no step are passed over.
    """
    score, label, real = _traces(score, label, steps)
    if math.isnan(threshold) or np.any(np.isnan(score[real])):
        return FirstError(math.nan, math.nan, math.nan)
    truth = _first(real & (label < 0.5))
    hit = _first(real & (score < threshold)) == truth
    has_error, full = truth < score.shape[1], real.any(1)
    wrong, right = hit[full & has_error], hit[full & ~has_error]
    return FirstError(_f1(wrong, right), _mean(wrong), _mean(right))


def best_threshold(score: Array, label: Array, steps: Array) -> float:
    """The threshold of the highest first-error F1 on these traces; NaN if undefined.

    To be reported on other traces than those it was chosen on. A trace is found by the
    thresholds in (score of its first wrong step, lowest score before]; one without a
    wrong step by those up to its lowest score. So F1 changes at these ends only, and
    every stretch between two of them is tried at its middle; of equals the widest wins.
    """
    score, label, real = _traces(score, label, steps)
    wrong = real & (label < 0.5)
    has_error, full = wrong.any(1), real.any(1)
    if not has_error.any() or not np.any(full & ~has_error):
        return math.nan
    if np.any(np.isnan(score[real])):
        return math.nan
    earlier = real & (np.cumsum(wrong, 1) == 0)
    lowest = np.where(earlier, score, np.inf).min(1)
    of_error = score[has_error, _first(wrong)[has_error]]
    findable = of_error < lowest[has_error]
    above = np.sort(of_error[findable])
    up_to = np.sort(lowest[has_error][findable])
    up_to_right = np.sort(lowest[full & ~has_error])
    ends = np.unique(np.r_[of_error, lowest])
    ends = ends[np.isfinite(ends)]
    tried = (ends[1:] + ends[:-1]) / 2 if len(ends) > 1 else ends
    found = np.searchsorted(above, tried) - np.searchsorted(up_to, tried)
    unclaimed = len(up_to_right) - np.searchsorted(up_to_right, tried)
    on_wrong, on_right = found / has_error.sum(), unclaimed / len(up_to_right)
    f1 = 2 * on_wrong * on_right / np.maximum(on_wrong + on_right, 1e-12)
    width = np.diff(ends) if len(ends) > 1 else np.ones(1)
    return float(tried[np.lexsort((width, f1))[-1]])


def judge(
    probability: Array,
    labels: StepLabels,
    *,
    threshold: float | None = None,
    bins: int = 10,
    resamples: int = 0,
    seed: int = 0,
) -> dict[str, Any]:
    """What every trained reward model reports, of traces that it was not trained on.

    `probability` is [B, T], that the step closed by token t is right. `labels` come
    from an oracle, 0 or 1; steps of weight 0 have no label and are left out, all others
    count alike. Without a `threshold` it is chosen on every other trace, and the first
    error then judged on the rest. With `resamples` the AUC gets a bootstrap interval
    over traces, for steps of one trace are not independent.
    """
    known, traces = step_table(probability, labels)
    reported = traces
    if threshold is None:
        threshold = best_threshold(*(part[::2] for part in traces))
        reported = tuple(part[1::2] for part in traces)
    first = first_error_f1(*reported, threshold)
    probability, label, steps = traces
    p, y = probability[known], label[known]
    auc = step_auc(p, y)
    judged = {
        "step_auc": auc,
        "ece": ece(p, y, bins=bins),
        "brier": brier(p, y),
        "first_error_f1": first.f1,
        "threshold": float(threshold),
        "accuracy_on_right": first.on_right,
        "accuracy_on_wrong": first.on_wrong,
        "steps": len(p),
        "traces": len(steps),
        "reliability": [
            [float(mean_p), float(mean_y), int(n)]
            for mean_p, mean_y, n in zip(*reliability(p, y, bins=bins))
        ],
    }
    if resamples:
        _, lo, hi = auc_interval(p, y, np.nonzero(known)[0], resamples, seed=seed)
        judged["step_auc_interval"] = [lo, hi]
    return judged


def step_table(
    probability: Array, labels: StepLabels
) -> tuple[Array, tuple[Array, Array, Array]]:
    """Labelled steps in front: (bool[B, J], (probability, label [B, J], steps [B])).

    Of [B, T] as `judge` takes them; traces without a labelled step are left out.
    """
    known = np.asarray(labels.step_end, bool) & (np.asarray(labels.weight) > 0)
    probability = np.asarray(probability, float)
    if probability.shape != known.shape:
        raise ValueError(
            f"probability {probability.shape} and step_end {known.shape} must be alike"
        )
    rows = known.any(1)
    known, probability = known[rows], probability[rows]
    label = np.asarray(labels.label, float)[rows]
    steps = known.sum(1)
    in_front = np.argsort(~known, axis=1, kind="stable")[:, : steps.max(initial=0)]
    pick = lambda x: np.take_along_axis(x, in_front, 1)
    there = np.arange(in_front.shape[1]) < steps[:, None]
    return there, (pick(probability), pick(label), steps)


def auc_interval(
    score: Array, label: Array, trace: Array, resamples: int = 1000, *, seed: int = 0
) -> Interval:
    """Step AUC with a 95 % bootstrap interval over traces; `trace` numbers each step's.

    NaN ends if a resample lacks one of the classes, as with very few traces.
    """
    score, label, _ = _flat(score, label, None)
    if not len(score) or np.any(np.isnan(score)):
        return Interval(math.nan, math.nan, math.nan)
    _, rank = np.unique(score, return_inverse=True)
    _, trace = np.unique(trace, return_inverse=True)
    n_traces = trace.max() + 1

    def aucs(drawn: Array) -> Array:  # i64[R, 1, n_traces] -> f64[R]
        often = (np.bincount(d.ravel(), minlength=n_traces) for d in drawn.astype(int))
        return np.array([_auc(rank, label >= 0.5, count[trace]) for count in often])

    return bootstrap(np.arange(n_traces)[None], aucs, resamples=resamples, seed=seed)


def _flat(a: Array, b: Array, weight: Array | None) -> tuple[Array, Array, Array]:
    a, b = np.asarray(a, float), np.asarray(b, float)
    weight = np.ones(a.shape) if weight is None else np.asarray(weight, float)
    if not a.shape == b.shape == weight.shape:
        raise ValueError(f"shapes differ: {a.shape}, {b.shape}, weight {weight.shape}")
    return a.ravel(), b.ravel(), weight.ravel()


def _traces(score: Array, label: Array, steps: Array) -> tuple[Array, Array, Array]:
    score, label = np.asarray(score, float), np.asarray(label, float)
    steps = np.asarray(steps)
    if score.ndim != 2 or score.shape != label.shape or steps.shape != score.shape[:1]:
        raise ValueError(
            f"scores {score.shape}, labels {label.shape}, steps {steps.shape} must be "
            "[B, J], [B, J] and [B]"
        )
    return score, label, np.arange(score.shape[1]) < steps[:, None]


def _first(claimed: Array) -> Array:
    """i64[B]: the first True of each row, J if there is none."""
    return np.c_[claimed, np.ones(len(claimed), bool)].argmax(1)


def _mean(hit: Array) -> float:
    return float(hit.mean()) if len(hit) else math.nan


def _f1(wrong: Array, right: Array) -> float:
    a, b = _mean(wrong), _mean(right)
    return 0.0 if a == b == 0 else 2 * a * b / (a + b)  # NaN if one is
