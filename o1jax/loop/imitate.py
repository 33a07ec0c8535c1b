"""Imitation: pre-training on text, and fine-tuning on worked solutions.

In: the run so far and an Imitate config. Out: its record; the run's parameters are the
trained ones. Batches, optimizer, gradients and checkpoints come from their own modules:
this one is the list of calls. Killed anywhere and started again, it ends at the same
parameters bit for bit (on CPU).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax

from o1jax.config import configurable
from o1jax.data.batches import (
    BatchConfig,
    BatchStream,
    Prefetch,
    packed_batches,
    prefetch,
    sft_batches,
)
from o1jax.data.datasets import DatasetConfig, RecordSource, TaskSource, prepare
from o1jax.learn.objectives import imitation
from o1jax.learn.optimizer import OptimizerConfig, build_optimizer
from o1jax.learn.state import new_state
from o1jax.learn.update import Update, build_update, jit_update
from o1jax.loop.checkpoint import Checkpoints
from o1jax.loop.ledger import Ledger, count_flops
from o1jax.loop.metrics import Metrics, progress
from o1jax.loop.probe import Probe, build_loss_probe, build_probe
from o1jax.loop.workdir import StageRecord, Workdir
from o1jax.parallel.mesh import put_batch
from o1jax.parallel.sharding import TRANSFORMER_RULES
from o1jax.tasks.task import Example, Task
from o1jax.types import Params, TrainState

SHOWN = ("loss", "accuracy", "valid_loss")  # on the progress bar


@configurable
@dataclass(frozen=True)
class Imitate:
    """Next-token prediction on a task's worked solutions or on a user's data."""

    name: str = "imitate"
    task: Task | None = None  # default: the experiment's
    dataset: DatasetConfig | None = None  # instead of a task; probed by its loss
    batch: BatchConfig = field(default_factory=BatchConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    steps: int = 1000
    microbatches: int = 1
    probe: Probe = field(default_factory=Probe)
    # How often to save changes nothing else, so it may differ when a run is resumed.
    checkpoint_every: int = field(default=200, metadata={"identity": False})
    keep: int = field(default=2, metadata={"identity": False})  # checkpoints

    def __post_init__(self) -> None:
        for name in ("steps", "microbatches", "checkpoint_every", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        if self.batch.rows % self.microbatches:
            raise ValueError(
                f"microbatches ({self.microbatches}) must divide BatchConfig.rows "
                f"({self.batch.rows})"
            )
        if self.task is not None and self.dataset is not None:
            raise ValueError("task and dataset are both set: choose one")
        if self.dataset is not None and self.probe.stop_at:
            raise ValueError("probe.stop_at is an accuracy, which a dataset has not")


class _Standing(NamedTuple):
    """Where a stage stands; beside the data position, what a checkpoint holds."""

    state: TrainState
    probed: dict[str, float] | None  # what the newest probe said
    seconds: float  # spent on the stage


def imitate(run: Workdir, index: int, config: Imitate) -> StageRecord:
    """Trains until `config.steps`, the end of the data, or the goal of the probe."""
    probe = _probe(run, config)
    with (
        Checkpoints(
            run.checkpoints(index), keep=config.keep, every=config.checkpoint_every
        ) as saved,
        prefetch(_stream(run, config)) as batches,
    ):
        optimizer = build_optimizer(config.optimizer, config.steps)
        at = _resume(run, saved, batches, _first_state(run, optimizer))
        objective = imitation(run.policy)
        update = build_update(objective, optimizer, microbatches=config.microbatches)
        update = jit_update(update, at.state)
        at = _train(run, config, update, probe, saved, batches, at)
    run.params = at.state.params
    steps = int(at.state.step)
    return StageRecord(
        name=config.name,
        kind="imitate",
        steps=steps,
        seconds=at.seconds,
        ledger=run.ledger.state(),
        results={"steps": steps, **(at.probed or {})},
        sections=[],
    )


def _train(
    run: Workdir,
    config: Imitate,
    update: Update,
    probe: Callable[[Params], dict[str, float]],
    saved: Checkpoints,
    batches: Prefetch,
    at: _Standing,
) -> _Standing:
    """The loop. The last step is always probed and saved."""
    state, probed = at.state, at.probed
    began = time.monotonic() - at.seconds
    step, flops = int(state.step), 0.0
    with (
        Metrics(run.path, resume_step=run.steps + step or None) as metrics,
        progress(config.steps, config.name, step, show=SHOWN) as bar,
    ):
        batch = next(batches, None)
        while (
            batch is not None
            and step < config.steps
            and not config.probe.reached(probed)
        ):
            mark = time.monotonic()
            batch = put_batch(run.mesh, batch)
            flops = flops or count_flops(update, state, batch).flops
            state, values = update(state, batch)
            step += 1
            metrics.log(run.steps + step, values)
            tokens, position = batch.tokens.size, batches.get_state()
            batch = next(batches, None)
            spent = time.monotonic() - mark
            run.ledger.add("train", tokens=tokens, flops=flops, seconds=spent)
            last = step == config.steps or batch is None
            if last or config.probe.due(step):
                probed = probe(state.params)
                metrics.log(run.steps + step, probed)
                last = last or config.probe.reached(probed)
            if last or saved.due(step):
                metrics.flush()
                seconds = time.monotonic() - began
                extra = {
                    "ledger": run.ledger.state(),
                    "probed": probed,
                    "seconds": seconds,
                }
                saved.save(step, state, position, extra)
            bar.advance(metrics=metrics.latest)
    return _Standing(state, probed, time.monotonic() - began)


def _first_state(run: Workdir, optimizer: Any) -> TrainState:
    """A new optimizer around the parameters that the stage before left."""
    params, run.params = run.current_params(), None  # the first update donates them
    _, key = jax.random.split(run.key)
    return new_state(params, optimizer, key, mesh=run.mesh, rules=TRANSFORMER_RULES)


def _resume(
    run: Workdir, saved: Checkpoints, batches: Prefetch, state: TrainState
) -> _Standing:
    """The newest checkpoint, with its data position and ledger, or the beginning."""
    if (restored := saved.restore(state)) is None:
        return _Standing(state, None, 0.0)
    batches.set_state(restored.position)
    extra = restored.extra
    run.ledger = Ledger.from_state(extra["ledger"])
    return _Standing(restored.state, extra["probed"], extra["seconds"])


def _probe(run: Workdir, config: Imitate) -> Callable[[Params], dict[str, float]]:
    if (task := run.task(config)) is not None:
        return build_probe(run, config.probe, task)
    once = replace(config, batch=replace(config.batch, epochs=1))
    return build_loss_probe(run, config.probe, _stream(run, once, "valid"))


def _stream(run: Workdir, config: Imitate, split: str = "train") -> BatchStream:
    """The stage's batches, of this process's rows."""
    shared = {
        "seed": run.experiment.seed,
        "process_index": jax.process_index(),
        "process_count": jax.process_count(),
    }
    source: Any
    if (task := run.task(config)) is not None:
        source = TaskSource(task, run.experiment.seed, split)
    else:
        source = _records(run, config, split)
        if not isinstance(source[0], Example):
            return packed_batches(source, run.tokenizer, config.batch, **shared)
    template = run.experiment.template
    return sft_batches(source, run.tokenizer, template, config.batch, **shared)


def _records(run: Workdir, config: Imitate, split: str) -> RecordSource:
    directory = prepare(config.dataset, run.path / "data")
    try:
        return RecordSource(directory, split)
    except ValueError as error:  # too few records for the hash to fill each split
        raise ValueError(
            f"stage {config.name!r}: {error}: set DatasetConfig.valid_path"
        ) from error
