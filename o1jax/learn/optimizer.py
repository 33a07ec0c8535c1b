"""AdamW with a schedule and clipping, from optax.

Weight decay touches matrices only, found by name: stacked norms have two axes as well.
Loshchilov & Hutter 2017, arXiv 1711.05101.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import jax
import optax

from o1jax.config import configurable
from o1jax.types import Params


@configurable
@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW and its learning rate over the steps of a stage."""

    learning_rate: float = 3e-3
    warmup_steps: int = 20
    schedule: Literal["constant", "cosine", "linear"] = "cosine"
    final_fraction: float = 0.1  # of the learning rate, at the last step
    b1: float = 0.9
    b2: float = 0.98
    eps: float = 1e-8
    weight_decay: float = 0.01
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        for name in ("learning_rate", "eps", "clip_norm"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive")
        for name in ("warmup_steps", "final_fraction", "weight_decay"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative")
        for name in ("b1", "b2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1)")


def learning_rate(
    config: OptimizerConfig, steps: int, *, first: int = 0
) -> optax.Schedule:
    """Linear warm-up from 0, then the schedule down to its last step.

    first: the step of the schedule at which update 0 is. At step 0 of a warm-up the
    rate is 0, so with 0 the first update only starts the moments; with 1 it counts.
    """
    peak, low = config.learning_rate, config.learning_rate * config.final_fraction
    rest = max(steps - config.warmup_steps, 1)
    after = {
        "constant": optax.constant_schedule(peak),
        "cosine": optax.cosine_decay_schedule(peak, rest, config.final_fraction),
        "linear": optax.linear_schedule(peak, low, rest),
    }[config.schedule]
    warmup = optax.linear_schedule(0.0, peak, max(config.warmup_steps, 1))
    schedule = optax.join_schedules([warmup, after], [config.warmup_steps])
    return lambda update: schedule(update + first)


def build_optimizer(
    config: OptimizerConfig,
    steps: int,
    trainable: Callable[[Params], Params] | None = None,
    *,
    slim: bool = False,
    first: int = 0,
) -> optax.GradientTransformation:
    """The optimizer of a stage of `steps` updates.

    trainable: params -> bools; default: all. The gradient of the others must be 0
    already; this keeps weight decay from them. slim: nor do they have moments.
    first: as of `learning_rate`.
    """

    def decays(params: Params) -> Params:
        matrices = _is_matrix(params)
        if trainable is None:
            return matrices
        return jax.tree.map(operator.and_, matrices, trainable(params))

    optimizer = optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(
            learning_rate(config, steps, first=first),
            b1=config.b1,
            b2=config.b2,
            eps=config.eps,
            weight_decay=config.weight_decay,
            mask=_is_matrix if slim else decays,
        ),
    )
    return optax.masked(optimizer, trainable) if slim else optimizer


def _is_matrix(params: Params) -> Params:
    def decays(path: jax.tree_util.KeyPath, _: jax.Array) -> bool:
        return path[-1].key not in ("scale", "bias")

    return jax.tree_util.tree_map_with_path(decays, params)
