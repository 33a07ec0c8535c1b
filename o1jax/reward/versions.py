"""Scores know which weights made them, so that stale ones can't be used.

In: a reward model's parameters and their version, the optimizer step. Out: scores that
go together with these weights only.
"""

from typing import Any, NamedTuple

from o1jax.types import Params


class Weights(NamedTuple):
    """Parameters of a reward model at a version."""

    params: Params
    version: int  # optimizer step that made them


class Scores(NamedTuple):
    """What a reward model said, and which version of it."""

    values: Any  # a pytree of arrays
    version: int


def fresh(scores: Scores, weights: Weights) -> Any:
    """The values of scores; ValueError if other weights made them."""
    if scores.version != weights.version:
        raise ValueError(
            f"scores of weights version {scores.version} are stale: the reward model "
            f"is at {weights.version}"
        )
    return scores.values
