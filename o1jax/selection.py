"""What k of n samples earn, by the way one of them is chosen; numpy only.

In: n graded samples a problem and, where a reward model chooses, their scores. Out:
unbiased pass@k, majority@k, score-weighted vote@k and best@k, for several k at once.

Sources: pass@k, Chen et al. 2021 (arXiv:2107.03374); majority, Wang et al. 2022
(arXiv:2203.11171); weighted vote, Li et al. 2022 (arXiv:2206.02336); best-of-n by order
statistics, Nakano et al. 2021 (arXiv:2112.09332).
"""

import itertools
import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

Array = np.ndarray


class AtK(NamedTuple):
    """An estimate for several numbers of samples."""

    k: tuple[int, ...]
    per_problem: Array  # f64[len(k), P]
    mean: Array  # f64[len(k)]


def pass_at_k(correct: Array, samples: int | Array, ks: Sequence[int]) -> AtK:
    """Chance that k of the n samples drawn without replacement hold a correct one.

    Unbiased: 1 - C(n-c, k) / C(n, k) = 1 - prod_{i=n-c+1..n} (1 - k/i), with c of n
    `samples` correct. `correct` is [P]; `samples` a number, or [P]. ValueError if
    k > n.
    """
    correct = np.asarray(correct)
    n_samples = np.broadcast_to(samples, correct.shape)
    _check_ks(ks, int(n_samples.min(initial=2**31)))
    if np.any(correct < 0) or np.any(correct > n_samples):
        raise ValueError("correct must lie between 0 and the number of samples")
    out = np.empty((len(ks), len(correct)))
    for n in np.unique(n_samples):
        rows = n_samples == n
        i = n - np.arange(n)  # n, n-1, ..., 1: the factors, in the order c takes them
        for row, k in enumerate(ks):
            none_correct = np.cumprod(np.r_[1.0, np.maximum(0, 1 - k / i)])
            out[row, rows] = 1 - none_correct[correct[rows]]
    return AtK(tuple(ks), out, out.mean(1))


def majority_at_k(
    answers: Sequence[Sequence[Hashable | None]],
    correct: Array,
    ks: Sequence[int],
    *,
    seed: int = 0,
    draws: int = 2000,
) -> AtK:
    """Expected grade of the commonest answer among k of the n samples.

    `weighted_at_k` in which every vote weighs the same.
    """
    same = np.ones(np.shape(correct))
    return weighted_at_k(answers, same, correct, ks, seed=seed, draws=draws)


def weighted_at_k(
    answers: Sequence[Sequence[Hashable | None]],
    score: Array,
    correct: Array,
    ks: Sequence[int],
    *,
    seed: int = 0,
    draws: int = 2000,
) -> AtK:
    """Expected grade of the answer with the largest sum of scores among k of n samples.

    `answers[p]` are the n answers to problem p; None (nothing parsed) has no vote, and
    k samples without a vote earn 0. `score` [P, n] is at least 0, such as a reward
    model's probability. `correct` is [P, n]; an answer's grade is the mean over its
    samples. Ties are broken uniformly, in expectation. All C(n, k) subsets are
    enumerated if they are at most `draws`, otherwise `draws` are drawn, from
    (seed, p, k): the same subsets whatever the scores.
    """
    correct, score = np.asarray(correct, float), np.asarray(score, float)
    if [len(a) for a in answers] != [correct.shape[-1]] * len(correct):
        raise ValueError(f"answers must have the shape {correct.shape} of correct")
    _check_scores(score, correct)
    if np.any(score < 0) or np.any(np.isinf(score)):
        raise ValueError("the scores of a weighted vote must be finite and at least 0")
    score = np.maximum(score, 1e-12)  # where all are 0, the majority decides
    n = correct.shape[-1]
    _check_ks(ks, n)
    out = np.zeros((len(ks), len(correct)))
    for p, row in enumerate(answers):
        distinct = dict.fromkeys(a for a in row if a is not None)
        number = {answer: i for i, answer in enumerate(distinct)}
        votes = np.zeros((n, len(number)))  # one-hot; a row of 0 has no vote
        for i, answer in enumerate(row):
            if answer is not None:
                votes[i, number[answer]] = 1
        grade = correct[p] @ votes / votes.sum(0)
        votes *= score[p, :, None]
        for j, k in enumerate(ks):
            sums = _subsets(n, k, [seed, p, k], draws) @ votes  # [S, answers]
            best = sums.max(1, keepdims=True, initial=0)
            # Equal sums differ by rounding, for they are added in different orders.
            winners = (sums >= best * (1 - 1e-9)) & (best > 0)
            shared = winners @ grade / np.maximum(winners.sum(1), 1)
            out[j, p] = shared.mean()
    return AtK(tuple(ks), out, out.mean(1))


def best_at_k(score: Array, value: Array, ks: Sequence[int]) -> AtK:
    """Expected value of the sample with the highest score among k of the n samples.

    Exact over all subsets: sorted by score, sample i of 1..n is the best of its subset
    in C(i-1, k-1) of the C(n, k) cases. Equal scores share their cases equally. Both
    are [P, n]; `value` is what is looked at, such as the grade, or the score itself.
    """
    score, value = np.asarray(score, float), np.asarray(value, float)
    _check_scores(score, value)
    n = score.shape[-1]
    _check_ks(ks, n)
    weight = np.stack([_best_weights(n, k) for k in ks]) if ks else np.zeros((0, n))
    out = np.empty((len(ks), len(score)))
    for p in range(len(score)):
        _, group, size = np.unique(score[p], return_inverse=True, return_counts=True)
        in_order = np.repeat(np.bincount(group, value[p]) / size, size)
        out[:, p] = weight @ in_order
    return AtK(tuple(ks), out, out.mean(1))


def _best_weights(n: int, k: int) -> Array:
    """f64[n] of i = 1..n: w_n = k / n, w_{i-1} = w_i (i - k) / (i - 1)."""
    i = np.arange(n, 1, -1)
    return (k / n * np.cumprod(np.r_[1.0, (i - k) / (i - 1)]))[::-1]


def _subsets(n: int, k: int, seed: Sequence[int], draws: int) -> Array:
    """f64[S, n], 1 for a member: every subset of k of n, or `draws` random ones."""
    if math.comb(n, k) <= draws:
        members = np.array(list(itertools.combinations(range(n), k)))
    else:
        rng = np.random.default_rng(seed)
        members = rng.random((draws, n)).argpartition(k - 1, axis=1)[:, :k]
    subsets = np.zeros((len(members), n))
    np.put_along_axis(subsets, members, 1, axis=1)
    return subsets


def _check_scores(score: Array, value: Array) -> None:
    if score.ndim != 2 or score.shape != value.shape:
        raise ValueError(
            f"scores {score.shape} and values {value.shape} must both be [P, n]"
        )
    if np.any(np.isnan(score)):
        raise ValueError("a score is NaN: it can't rank samples")
    if not np.all(np.isfinite(value)):
        raise ValueError("the value of a sample must be finite")


def _check_ks(ks: Sequence[int], n: int) -> None:
    for k in ks:
        if not 1 <= k <= n:
            raise ValueError(f"k={k} must lie between 1 and the {n} samples")
