"""What labels from rollouts cost: those of every step beside a binary search.

In: the outcomes of N continuations of every step, drawn once. Out: for each method and
number of rollouts the labels, and how many of the N they would have used. All methods
see the same continuations, so their difference is not luck; judge the labels against
an oracle and read off what one method needs to be as good as another.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from o1jax.reward.labels import GROUP, Succeeds, by_binary_search, by_rollouts

Array = np.ndarray

# In the second a trace that ended right needs no rollout, as in the third.
METHODS = ("every step", "every step of wrong traces", "binary search")


class Cost(NamedTuple):
    """Labels of one method."""

    method: str
    rollouts: int  # of a step, at most
    value: Array  # f32[B, J]
    used: float  # rollouts a trace, on average


def replayed(outcomes: Array) -> Succeeds:
    """Serves continuations bool[B, J, N] of step j of trace b in their order, once."""
    outcomes = np.asarray(outcomes)
    served = np.zeros(outcomes.shape[:2], int)

    def succeeds(trace: Array, steps: Array, count: int) -> Array:
        begin = served[trace, steps - 1]
        if np.any(begin + count > outcomes.shape[2]):
            raise ValueError(f"more than {outcomes.shape[2]} rollouts of a step")
        served[trace, steps - 1] += count
        number = begin[:, None] + np.arange(count)
        return outcomes[trace[:, None], steps[:, None] - 1, number]

    return succeeds


def label_costs(
    steps: Array,
    right: Array,
    outcomes: Array,
    *,
    sizes: Sequence[int],
    group: int = GROUP,
    complete: Array | None = None,
) -> list[Cost]:
    """Each of METHODS with each number of rollouts; see by_binary_search for `group`.

    Args:
      outcomes: bool[B, J, N], at least max(sizes) continuations of every step.
    """
    costs = []
    for size in sizes:
        shared = {"rollouts": size, "complete": complete}
        every = by_rollouts(steps, right, replayed(outcomes), **shared)
        there = np.arange(every.value.shape[1]) < np.asarray(steps)[:, None]
        free = np.asarray(right, bool)
        wrong_only = every._replace(
            value=np.where(free[:, None], there, every.value).astype(np.float32),
            used=np.where(free, 0, every.used),
        )
        search = by_binary_search(
            steps, right, replayed(outcomes), group=min(group, size), **shared
        )
        found = [every, wrong_only, search]
        for method, labelled in zip(METHODS, found, strict=True):
            used = float(labelled.used.mean())
            costs.append(Cost(method, size, labelled.value, used))
    return costs


def needed(used: Sequence[float], quality: Sequence[float], target: float) -> float:
    """Rollouts at which a method first is as good as `target`; inf if it never is.

    In between its sizes, in ascending order, by a line in log(used).
    """
    for i, found in enumerate(quality):
        if found < target:
            continue
        if i == 0 or found == quality[i - 1]:
            return float(used[i])
        part = (target - quality[i - 1]) / (found - quality[i - 1])
        logs = np.log(used[i - 1 : i + 1])
        return float(np.exp(logs[0] + part * (logs[1] - logs[0])))
    return float("inf")
