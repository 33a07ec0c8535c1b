"""The closed loop: a policy that learns from what it writes itself.

In: the run so far and an Improve config. Out: its record; the run's parameters are the
improved ones. A round: ask questions, sample or search, grade, filter, pay, learn, let
the reward model learn on, look at held-out questions, save. Each of these is a module;
this one is the list of calls. Killed anywhere and started again, a stage ends at the
same parameters bit for bit (on CPU).
"""

import math
import time
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from o1jax.config import configurable
from o1jax.learn.optimizer import OptimizerConfig
from o1jax.learn.policy_objective import PolicyGradient
from o1jax.loop import timing
from o1jax.loop.checkpoint import Checkpoints
from o1jax.loop.contrast import Distil, Prefer
from o1jax.loop.filters import Filters
from o1jax.loop.guard import Guard
from o1jax.loop.held_out import HeldOut
from o1jax.loop.improvement import Improvement
from o1jax.loop.learners import Clone
from o1jax.loop.methods import Search
from o1jax.loop.metrics import Metrics, progress
from o1jax.loop.payment import Payment
from o1jax.loop.turns import Turns
from o1jax.loop.workdir import StageRecord, Workdir
from o1jax.policy.lora import LoraConfig
from o1jax.rollout.sampling import SamplingConfig
from o1jax.tasks.task import Task

PREFIX = "improve_"  # of the names of its metrics
SHOWN = ("pass@1", "reward", "kl")  # on the progress bar


@configurable
@dataclass(frozen=True)
class Improve:
    """Rounds of sampling or searching, and of learning from it."""

    name: str = "improve"
    task: Task | None = None  # default: the experiment's
    rounds: int = 40
    questions: int = 32  # of a round
    samples: int = 8  # of a question; a search has a budget instead
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    search: Search | None = None  # to learn from its trees instead of samples
    turns: Turns | None = None  # two attempts each, the second in sight of the first
    learner: PolicyGradient | Clone | Prefer | Distil = field(
        default_factory=PolicyGradient
    )
    critic: Literal["shared", "own"] = "shared"  # the policy's value head or a network
    lora: LoraConfig | None = None  # only adapters learn; the rest stays as it is
    payment: Payment = field(default_factory=Payment)
    filters: Filters = field(default_factory=Filters)
    replay: int = 0  # rows kept of earlier rounds, but for a policy gradient
    rows: int = 0  # that a round learns from, each epoch; 0: questions * samples
    epochs: int = 1
    minibatches: int = 1  # updates an epoch
    microbatches: int = 1  # parts that an update adds up
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(3e-4, 5, "constant", weight_decay=0.0)
    )
    guard: Guard = field(default_factory=Guard)
    held_out: HeldOut = field(default_factory=HeldOut)
    # Rounds without a rise of the smoothed reward by `gain` that end the stage, for
    # another learner to take over; 0: never.
    plateau: int = 0
    gain: float = 0.01
    requests: int = 2048  # answered by one call of the sampling program
    # How often to save changes nothing else, so it may differ when a run is resumed.
    checkpoint_every: int = field(default=10, metadata={"identity": False})
    keep: int = field(default=2, metadata={"identity": False})  # checkpoints

    def __post_init__(self) -> None:
        least = {"replay": 0, "rows": 0, "plateau": 0}
        whole = ("rounds", "questions", "samples", "epochs", "minibatches")
        more = ("microbatches", "requests", "checkpoint_every", "keep")
        for name in (*whole, *more, *least):
            if getattr(self, name) < least.get(name, 1):
                raise ValueError(f"{name} must be at least {least.get(name, 1)}")
        if self.critic not in ("shared", "own"):
            raise ValueError("critic must be shared or own")
        if self.rows_a_round % (self.minibatches * self.microbatches):
            raise ValueError(
                f"minibatches * microbatches ({self.minibatches} * "
                f"{self.microbatches}) must divide the rows of a round, "
                f"{self.rows_a_round}"
            )
        if not self.gain >= 0:
            raise ValueError("gain must not be negative")
        self._check_learner()

    def _check_learner(self) -> None:
        learner = self.learner
        if isinstance(learner, PolicyGradient):
            for name in ("search", "replay", "rows"):
                if getattr(self, name):
                    raise ValueError(
                        f"{name}: a policy gradient learns from all fresh samples of a "
                        "round and from nothing else"
                    )
            if self.samples < 2 and learner.signal in ("leave_one_out", "group"):
                raise ValueError("samples must be at least 2: others are the baseline")
        elif self.critic == "own":
            raise ValueError("critic: only a policy gradient has one")
        if (
            isinstance(learner, PolicyGradient)
            and self.critic == "own"
            and not learner.has_critic
        ):
            raise ValueError("critic is 'own', but no Critic is among the terms")
        if self.lora is not None and not self.lora.value and self._value_head_learns:
            raise ValueError(
                "lora.value is off, but the learner teaches the value head, which no "
                "adapter reaches: set it"
            )
        if self.search is not None:
            if getattr(learner, "hint", ""):
                raise ValueError("hint is for samples, not for a search")
            if self.filters.draws > 1:
                raise ValueError("filters.draws is for samples, not for a search")
        elif isinstance(learner, Distil):
            raise ValueError("Distil learns from trees: set search")
        elif isinstance(learner, Prefer) and learner.level == "step":
            raise ValueError("Prefer.level 'step' learns from trees: set search")
        if self.sampling.temperature == 0 and self.samples > 1:
            raise ValueError("sampling.temperature is 0: all samples would be the same")
        if self.turns is not None:
            self.turns.refuse(self)

    @property
    def _value_head_learns(self) -> bool:
        learner = self.learner
        if isinstance(learner, PolicyGradient):
            return learner.has_critic and self.critic == "shared"
        return isinstance(learner, Distil) and learner.loss.value_coef > 0

    @property
    def rows_a_round(self) -> int:
        """Rows of an epoch."""
        attempts = 1 if self.turns is None else 2
        return self.rows or self.questions * self.samples * attempts

    @property
    def updates_a_round(self) -> int:
        return self.epochs * self.minibatches


def improve(run: Workdir, index: int, config: Improve) -> StageRecord:
    """Rounds until `config.rounds`, the plateau, or the goal on held-out questions."""
    at = Improvement(run, index, config)
    folder = run.checkpoints(index)
    if config.lora is not None:  # small ones, until the stage is done
        folder = run.adapters(index)
    with Checkpoints(
        folder, keep=config.keep, every=config.checkpoint_every, before=run.push
    ) as saved:
        at.resume(saved)
        began, kept = time.monotonic() - at.seconds, at.rounds
        with (
            Metrics(run.path, resume_step=run.steps + kept or None) as metrics,
            progress(
                config.rounds, config.name, kept, show=[PREFIX + n for n in SHOWN]
            ) as bar,
        ):
            if begin := at.measure_start():
                metrics.log(run.steps, _named(begin))
            while not at.over:
                with timing.step(config.name, run.steps + at.rounds + 1, run.ledger):
                    values = at.round()
                    metrics.log(run.steps + at.rounds, _named(values))
                at.watch.look(at.rounds, values, kept)
                if at.over or config.held_out.due(at.rounds):
                    metrics.log(run.steps + at.rounds, _named(at.measure()))
                if at.over or (saved.due(at.rounds) and not at.watch.worried):
                    metrics.flush()
                    at.seconds = time.monotonic() - began
                    saved.save(at.rounds, at.arrays(), at.position(), at.extra())
                    kept = at.rounds
                bar.advance(metrics=metrics.latest)
    if config.lora is not None:
        merged = at.state._replace(params=at.policy, opt_state=())
        with Checkpoints(run.checkpoints(index), keep=1) as saved:
            saved.save(at.rounds, merged, at.position(), at.extra())
    run.params = at.policy
    return at.record()


def _named(values: dict[str, Any]) -> dict[str, float]:
    """Those that are numbers, as the metrics file calls them."""
    return {
        PREFIX + name: value
        for name, value in values.items()
        if np.ndim(value) == 0 and math.isfinite(value)
    }
