"""Chances of being right on held-out questions, measured while a policy improves.

In: parameters. Out: pass@1 and pass@k, unbiased, of samples for the same validation
questions each time. Chen et al. 2021, arXiv 2107.03374.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from o1jax.config import configurable
from o1jax.loop.answer import Answerer
from o1jax.loop.text_meter import text_shares
from o1jax.loop.workdir import Workdir
from o1jax.statistics import bootstrap_interval, pass_at_k
from o1jax.tasks.task import Task
from o1jax.types import Params


@configurable
@dataclass(frozen=True)
class HeldOut:
    """How often to look, at how many questions, and when that is enough."""

    every: int = 0  # rounds; 0: before and after the stage only
    problems: int = 200
    samples: int = 16
    stop_at: float = 0.0  # end the stage at this pass@1; 0: never

    def __post_init__(self) -> None:
        for name in ("problems", "samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        if self.every < 0:
            raise ValueError("every must not be negative")
        if not 0 <= self.stop_at <= 1:
            raise ValueError("stop_at must be in [0, 1]")
        if self.stop_at and not self.every:
            raise ValueError("stop_at needs every: how often to look")

    def due(self, round_: int) -> bool:
        return self.every > 0 and round_ % self.every == 0

    def reached(self, found: dict[str, Any]) -> bool:
        """Whether the stage may end."""
        return bool(self.stop_at) and found["pass@1"][0] >= self.stop_at


def build_held_out(
    run: Workdir, config: HeldOut, task: Task, answer: Answerer
) -> Callable[[Params], dict[str, Any]]:
    """A function params -> {"pass@1": [mean, lo, hi], "pass@16": ...}.

    It asks through the stage's own sampler, so nothing more is compiled. Shares of what
    the texts show come with it, without an interval, where the task can tell.
    """
    seed, samples = run.experiment.seed, config.samples
    examples = [task.example(seed, "valid", i) for i in range(config.problems)]
    key = jax.random.fold_in(run.key, 8)

    def measure(params: Params) -> dict[str, Any]:
        answers = answer(params, key, samples, task=task, examples=examples)
        right = (answers.grades >= 1).sum(axis=1)
        ks = sorted({1, samples})
        found = pass_at_k(right, samples, ks).per_problem
        each = {f"pass@{k}": list(bootstrap_interval(p)) for k, p in zip(ks, found)}
        shares = text_shares(task, examples, answers.texts)
        each |= {name: [share] for name, share in shares.items()}
        return each | {"length": float(np.mean(answers.tokens))}

    return measure
