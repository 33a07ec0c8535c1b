"""Labels of steps from rollouts: at every step, or at the steps a binary search asks.

In: how many steps each trace has, whether it ended right, and a function that draws and
grades continuations of its beginnings. Out: a value for each step, every rollout that
was used, and StepLabels. Rollouts at every step, soft and hard: Wang et al. 2023
(Math-Shepherd), arXiv 2312.08935; binary search for the first error, its rollouts used
again: Luo et al. 2024 (OmegaPRM), arXiv 2406.06592. Host code, numpy only.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np

from o1jax.types import StepLabels

Array = np.ndarray

GROUP = 4  # continuations that a binary search draws before it looks

# (trace i32[R], steps i32[R], count) -> bool[R, count]: draws `count` new continuations
# behind the first `steps` steps of each of these traces; which of them end right.
Succeeds = Callable[[Array, Array, int], Array]


class Rollouts(NamedTuple):
    """Every rollout drawn, in the order in which `Succeeds` was asked for them."""

    trace: Array  # i32[N]  whose beginning it continues
    steps: Array  # i32[N]  of that trace that it begins with
    right: Array  # bool[N]


class Labelled(NamedTuple):
    """What is known of the steps of B traces; J is the most steps of any."""

    value: Array  # f32[B, J]  of the text up to and with the step; 0 behind the last
    used: Array  # i32[B]      rollouts
    queries: Array  # i32[B]   beginnings that were asked about
    drawn: Rollouts


def soft(successes: Array, rollouts: Array) -> Array:
    """f32: the part of the rollouts that succeeded; 0 where none was drawn."""
    successes, rollouts = np.broadcast_arrays(successes, rollouts)
    if np.any(successes < 0) or np.any(successes > rollouts):
        raise ValueError("successes must lie between 0 and the number of rollouts")
    return (successes / np.maximum(rollouts, 1)).astype(np.float32)


def hard(successes: Array) -> Array:
    """f32: 1 where any rollout succeeded."""
    return (np.asarray(successes) > 0).astype(np.float32)


def by_rollouts(
    steps: Array,
    right: Array,
    succeeds: Succeeds,
    *,
    rollouts: int,
    kind: Literal["soft", "hard"] = "soft",
    complete: Array | None = None,
) -> Labelled:
    """`rollouts` continuations of every step.

    The last step of a complete trace is known by the trace's end and gets none. All
    others are asked about in one call.

    Args:
      steps: i32[B] of each trace.
      right: bool[B], whether it ended right.
      complete: bool[B], whether it ended by itself; all did if this is not given.
    """
    _check_rollouts(rollouts)
    steps, right, complete = _traces(steps, right, complete)
    recorder = _Recorder(succeeds, len(steps))
    value = np.zeros((len(steps), max(steps, default=0)), np.float32)
    there = np.arange(value.shape[1]) < steps[:, None]
    last = np.arange(value.shape[1]) == steps[:, None] - 1
    known = last & complete[:, None]
    value[known] = np.broadcast_to(right[:, None], value.shape)[known]
    trace, place = np.nonzero(there & ~known)
    if len(trace):
        successes = recorder(trace, place + 1, rollouts).sum(1)
        found = soft(successes, rollouts) if kind == "soft" else hard(successes)
        value[trace, place] = found
        recorder.queries += np.bincount(trace, minlength=len(steps)).astype(np.int32)
    return recorder.labelled(value)


def by_binary_search(
    steps: Array,
    right: Array,
    succeeds: Succeeds,
    *,
    rollouts: int,
    group: int | None = None,
    complete: Array | None = None,
    known_right: Array | None = None,
) -> Labelled:
    """1 before the first wrong step, 0 from it on, found in ceil(log2) rounds.

    A beginning is right if any of its `rollouts` is; everything before a right one is
    right. They are drawn `group` at a time (all at once if not given) until one is, so
    right beginnings cost little. A trace that ended right needs no rollout; one that
    ended wrong has a wrong step, unless it is not complete.

    Args:
      known_right: i32[B], steps that are known to be right (0 if not given).
    """
    _check_rollouts(rollouts)
    steps, right, complete = _traces(steps, right, complete)
    recorder = _Recorder(succeeds, len(steps))
    group = rollouts if group is None else group
    if group < 1:
        raise ValueError(f"group must be at least 1, got {group}")
    # The number of right steps at the front is in [low, high].
    low = np.zeros_like(steps) if known_right is None else np.array(known_right)
    if np.any(low < 0) or np.any(low > steps):
        raise ValueError("known_right must lie between 0 and the number of steps")
    low = np.where(right, steps, low)
    high = np.maximum(np.where(complete & ~right, steps - 1, steps), low)
    while np.any(low < high):
        (ask,) = np.nonzero(low < high)
        middle = (low[ask] + high[ask]) // 2 + 1
        found = np.zeros(len(ask), bool)
        for start in range(0, rollouts, group):
            (rest,) = np.nonzero(~found)
            if len(rest):
                count = min(group, rollouts - start)
                found[rest] = recorder(ask[rest], middle[rest], count).any(1)
        recorder.queries[ask] += 1
        low[ask[found]] = middle[found]
        high[ask[~found]] = middle[~found] - 1
    return recorder.labelled(_until(low, max(steps, default=0)))


class Reusable(NamedTuple):
    """Rollouts that are traces to learn from themselves."""

    rollout: Array  # i32[N]      index into Labelled.drawn
    known_right: Array  # i32[N]  steps at their front
    right: Array  # bool[N]       how they ended: then all their steps are right


def reusable(labelled: Labelled) -> Reusable:
    """The rollouts of a binary search that began with right steps only.

    Label them by another one: by_binary_search(..., known_right=reusable.known_right).
    """
    drawn = labelled.drawn
    first_error = labelled.value.astype(np.int32).sum(1)
    (kept,) = np.nonzero(drawn.steps <= first_error[drawn.trace])
    return Reusable(kept.astype(np.int32), drawn.steps[kept], drawn.right[kept])


def step_labels(
    tokens: Array,
    prompt_length: Array,
    length: Array,
    ends: Array,
    value: Array,
    *,
    weight: Array | None = None,
    after_error: Literal["mask", "keep"] = "mask",
) -> StepLabels:
    """The record that a reward model learns from.

    Args:
      tokens: i32[B, T] and the lengths i32[B] as in Trajectory.
      ends: i32[B, J], the token that closes each step; -1: no such step.
      value: [B, J] in [0, 1]; integers and booleans are as good as floats.
      weight: [B, J]; 1 if not given.
      after_error: "mask" takes the weight from the steps behind the first one whose
        value is 0: a wrong step is news, what follows from it is not.
    """
    tokens, ends = np.asarray(tokens, np.int32), np.asarray(ends, np.int32)
    prompt_length = np.asarray(prompt_length, np.int32)
    length = np.asarray(length, np.int32)
    value = np.asarray(value).astype(np.float32)
    weight = np.ones(ends.shape) if weight is None else np.asarray(weight)
    if not ends.shape == value.shape == weight.shape:
        raise ValueError(
            f"ends {ends.shape}, value {value.shape} and weight {weight.shape} must "
            "have the same shape"
        )
    if after_error not in ("mask", "keep"):
        raise ValueError(f"after_error must be mask or keep, got {after_error!r}")
    there = ends >= 0
    inside = (ends >= prompt_length[:, None]) & (ends < length[:, None])
    _check_steps(there & ~inside, "ends outside the response")
    _check_steps(there & ~((value >= 0) & (value <= 1)), "has a value outside [0, 1]")
    if after_error == "mask":
        wrong = (there & (value == 0)).astype(np.int32)
        weight = np.where(np.cumsum(wrong, axis=1) - wrong > 0, 0, weight)
    row, j = np.nonzero(there)
    spread = lambda x, dtype: _scatter(
        tokens.shape, row, ends[row, j], x[row, j], dtype
    )
    return StepLabels(
        tokens=tokens,
        prompt_length=prompt_length,
        length=length,
        step_end=spread(there, bool),
        label=spread(value, np.float32),
        weight=spread(weight, np.float32),
    )


class _Recorder:
    """Asks for rollouts and keeps the account of them."""

    def __init__(self, succeeds: Succeeds, traces: int) -> None:
        self._succeeds = succeeds
        self._asked: list[Rollouts] = []
        self.queries = np.zeros(traces, np.int32)

    def __call__(self, trace: Array, steps: Array, count: int) -> Array:
        """bool[R, count]"""
        trace, steps = trace.astype(np.int32), steps.astype(np.int32)
        right = np.asarray(self._succeeds(trace, steps, count)).astype(bool)
        if right.shape != (len(trace), count):
            raise ValueError(
                f"{count} rollouts of {len(trace)} beginnings were asked for, but "
                f"verdicts of shape {right.shape} came"
            )
        repeat = lambda x: np.repeat(x, count)
        self._asked.append(Rollouts(repeat(trace), repeat(steps), right.ravel()))
        return right

    def labelled(self, value: Array) -> Labelled:
        none = np.zeros(0, np.int32)
        asked = [Rollouts(none, none, none.astype(bool)), *self._asked]
        drawn = Rollouts(*map(np.concatenate, zip(*asked)))
        used = np.bincount(drawn.trace, minlength=len(value)).astype(np.int32)
        return Labelled(value, used, self.queries, drawn)


def _until(first_error: Array, count: int) -> Array:
    """f32[B, count]: 1 at the places before first_error i32[B]."""
    return (np.arange(count) < first_error[:, None]).astype(np.float32)


def _scatter(
    shape: tuple[int, ...], row: Array, at: Array, x: Array, dtype: type
) -> Array:
    out = np.zeros(shape, dtype)
    out[row, at] = x
    return out


def _traces(
    steps: Array, right: Array, complete: Array | None
) -> tuple[Array, Array, Array]:
    steps, right = np.asarray(steps, np.int32), np.asarray(right).astype(bool)
    complete = np.ones(len(steps), bool) if complete is None else np.asarray(complete)
    if not len(steps) == len(right) == len(complete):
        raise ValueError(
            f"steps ({len(steps)}), right ({len(right)}) and complete "
            f"({len(complete)}) must be as many"
        )
    return steps, right, complete.astype(bool)


def _check_rollouts(rollouts: int) -> None:
    if rollouts < 1:
        raise ValueError(f"rollouts must be at least 1, got {rollouts}")


def _check_steps(bad: Array, what: str) -> None:
    if bad.any():
        row, step = np.argwhere(bad)[0]
        raise ValueError(f"step {step} of trace {row} {what}")
