"""The training loop that every stage which learns by gradient shares.

In: what to minimise, the first parameters, a stream of batches and a probe. Out: the
trained state. Checkpoints, metrics and the ledger come from their own modules: this one
is the list of calls. Killed anywhere and started again, it ends at the same parameters
bit for bit (on CPU).
"""

import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax

from o1jax.data.prefetch import Prefetch, prefetch
from o1jax.learn.objectives import Objective
from o1jax.learn.optimizer import OptimizerConfig, build_optimizer
from o1jax.learn.state import new_state
from o1jax.learn.update import Update, build_update, jit_update
from o1jax.loop import timing
from o1jax.loop.checkpoint import Checkpoints
from o1jax.loop.ledger import Ledger, count_flops
from o1jax.loop.metrics import Metrics, progress
from o1jax.loop.probe import Probe
from o1jax.loop.workdir import Workdir
from o1jax.parallel.mesh import put_batch
from o1jax.parallel.sharding import TRANSFORMER_RULES
from o1jax.types import Params, TrainState


class Schedule(Protocol):
    """The part of a stage's config that the loop reads."""

    name: str
    optimizer: OptimizerConfig
    steps: int
    microbatches: int
    probe: Probe
    checkpoint_every: int
    keep: int


class Learner(NamedTuple):
    """What a stage learns, and where that is kept."""

    objective: Objective
    stream: Any  # of batches, with get_state and set_state
    probe: Callable[[Params], dict[str, float]]
    folder: os.PathLike  # of its checkpoints
    kind: str = "train"  # of its account in the ledger
    prefix: str = ""  # of the names of its metrics
    shown: tuple[str, ...] = ("loss", "accuracy", "valid_loss")  # on the progress bar
    trainable: Callable[[Params], Params] | None = None  # default: all


class Standing(NamedTuple):
    """Where a stage stands; beside the data position, what a checkpoint holds."""

    state: TrainState
    probed: dict[str, float] | None  # what the newest probe said
    seconds: float  # spent on the stage


def train(run: Workdir, config: Schedule, learner: Learner, params: Params) -> Standing:
    """Trains until `config.steps`, the end of the data, or the goal of the probe.

    The parameters are donated.
    """
    with (
        Checkpoints(
            learner.folder,
            keep=config.keep,
            every=config.checkpoint_every,
            before=run.push,
        ) as saved,
        prefetch(learner.stream) as batches,
    ):
        optimizer = build_optimizer(config.optimizer, config.steps, learner.trainable)
        _, key = jax.random.split(run.key)
        state = new_state(
            params, optimizer, key, mesh=run.mesh, rules=TRANSFORMER_RULES
        )
        at = _resume(run, saved, batches, state)
        update = build_update(
            learner.objective, optimizer, microbatches=config.microbatches
        )
        update = jit_update(update, at.state)
        return _loop(run, config, learner, update, saved, batches, at)


def _loop(
    run: Workdir,
    config: Schedule,
    learner: Learner,
    update: Update,
    saved: Checkpoints,
    batches: Prefetch,
    at: Standing,
) -> Standing:
    """The last step is always probed and saved."""
    state, probed = at.state, at.probed
    began = time.monotonic() - at.seconds
    step, flops = int(state.step), 0.0
    named = lambda values: {learner.prefix + k: v for k, v in values.items()}
    shown = tuple(learner.prefix + name for name in learner.shown)
    with (
        Metrics(run.path, resume_step=run.steps + step or None) as metrics,
        progress(config.steps, config.name, step, show=shown) as bar,
    ):
        batch = next(batches, None)
        while (
            batch is not None
            and step < config.steps
            and not config.probe.reached(probed)
        ):
            with timing.step(config.name, run.steps + step + 1, run.ledger):
                mark = time.monotonic()
                batch = put_batch(run.mesh, batch)
                flops = flops or count_flops(update, state, batch).flops
                state, values = update(state, batch)
                step += 1
                metrics.log(run.steps + step, named(values))
                tokens, position = batch.tokens.size, batches.get_state()
                batch = next(batches, None)
                spent = time.monotonic() - mark
                run.ledger.add(learner.kind, tokens=tokens, flops=flops, seconds=spent)
            last = step == config.steps or batch is None
            if last or config.probe.due(step):
                probed = learner.probe(state.params)
                metrics.log(run.steps + step, named(probed))
                last = last or config.probe.reached(probed)
            if last or saved.due(step, during=values):
                metrics.flush()
                seconds = time.monotonic() - began
                extra = {
                    "ledger": run.ledger.state(),
                    "probed": probed,
                    "seconds": seconds,
                }
                saved.save(step, state, position, extra)
            bar.advance(metrics=metrics.latest)
    return Standing(state, probed, time.monotonic() - began)


def _resume(
    run: Workdir, saved: Checkpoints, batches: Prefetch, state: TrainState
) -> Standing:
    """The newest checkpoint, with its data position and ledger, or the beginning."""
    if (restored := saved.restore(state)) is None:
        return Standing(state, None, 0.0)
    batches.set_state(restored.position)
    extra = restored.extra
    run.ledger = Ledger.from_state(extra["ledger"])
    return Standing(restored.state, extra["probed"], extra["seconds"])
