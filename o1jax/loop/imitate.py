"""Imitation: pre-training on text, and fine-tuning on worked solutions.

In: the run so far and an Imitate config. Out: its record; the run's parameters are the
trained ones. Batches, optimizer, gradients and checkpoints come from their own modules:
this one is the list of calls. Killed anywhere and started again, it ends at the same
parameters bit for bit (on CPU).
"""

import time
from dataclasses import dataclass, field
from typing import Any

import jax

from o1jax.config import configurable
from o1jax.data.batches import BatchConfig, packed_batches, prefetch, sft_batches
from o1jax.data.datasets import DatasetConfig, RecordSource, TaskSource, prepare
from o1jax.data.stream import BatchStream
from o1jax.learn.objectives import imitation
from o1jax.learn.optimizer import OptimizerConfig, build_optimizer
from o1jax.learn.state import init_state
from o1jax.learn.update import build_update
from o1jax.loop.checkpoint import Checkpoints
from o1jax.loop.ledger import Ledger, count_flops
from o1jax.loop.metrics import Metrics, progress
from o1jax.loop.probe import Probe, build_loss_probe, build_probe
from o1jax.loop.workdir import StageRecord, Workdir
from o1jax.parallel.mesh import put_batch
from o1jax.parallel.sharding import TRANSFORMER_RULES
from o1jax.tasks.task import Example, Task
from o1jax.types import TrainState


@configurable
@dataclass(frozen=True)
class Imitate:
    """Next-token prediction on a task's worked solutions or on a user's data."""

    name: str = "imitate"
    task: Task | None = None  # default: the experiment's
    dataset: DatasetConfig | None = None  # instead of a task
    batch: BatchConfig = field(default_factory=BatchConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    steps: int = 1000
    microbatches: int = 1
    probe: Probe = field(default_factory=Probe)
    checkpoint_every: int = 200
    keep: int = 2  # checkpoints

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


def imitate(run: Workdir, index: int, config: Imitate) -> StageRecord:
    """Trains for `config.steps` steps, or until the probe reaches its goal."""
    began = time.monotonic()
    optimizer = build_optimizer(config.optimizer, config.steps)
    update = build_update(
        imitation(run.policy), optimizer, microbatches=config.microbatches
    )
    update = jax.jit(update, donate_argnums=0)
    state = _first_state(run, optimizer)
    folder = run.checkpoints(index, config.name)
    stream = _stream(run, config)
    if config.dataset is None:
        probe = build_probe(run, config.probe, config.task or run.experiment.task)
    else:
        probe = build_loss_probe(run, config.probe, _stream(run, config, "valid"))
    with (
        Checkpoints(folder, keep=config.keep, every=config.checkpoint_every) as saved,
        prefetch(stream) as batches,
    ):
        best = None
        if (restored := saved.restore(state)) is not None:
            state, best = restored.state, restored.extra["probe"]
            batches.set_state(restored.position)
            run.ledger = Ledger.from_state(restored.extra["ledger"])
        step, flops, mark = int(state.step), None, time.monotonic()
        resume = run.steps + step
        with (
            Metrics(run.path, resume_step=resume or None) as metrics,
            progress(config.steps, config.name, step, show=("loss", "accuracy")) as bar,
        ):
            while step < config.steps and not config.probe.reached(best):
                batch = put_batch(run.mesh, next(batches))
                if flops is None:
                    flops = count_flops(update, state, batch).flops
                state, values = update(state, batch)
                step += 1
                run.ledger.add("train", tokens=batch.tokens.size, flops=flops)
                metrics.log(run.steps + step, values)
                if config.probe.due(step) or step == config.steps:
                    best = probe(state.params)
                    metrics.log(run.steps + step, best)
                now = time.monotonic()
                run.ledger.add("train", seconds=now - mark)
                mark = now
                last = step == config.steps or config.probe.reached(best)
                if saved.due(step) or last:
                    metrics.flush()
                    extra = {"ledger": run.ledger.state(), "probe": best}
                    saved.save(step, state, batches.get_state(), extra)
                bar.advance(metrics=metrics.latest)
    run.params = state.params
    return StageRecord(
        name=config.name,
        kind="imitate",
        steps=step,
        seconds=time.monotonic() - began,
        ledger=run.ledger.state(),
        results={"steps": step, **(best or {})},
        sections=[],
    )


def _first_state(run: Workdir, optimizer: Any) -> TrainState:
    """A new optimizer around the parameters that the stage before left."""
    state = init_state(
        run.policy, optimizer, run.key, mesh=run.mesh, rules=TRANSFORMER_RULES
    )
    return state if run.params is None else state._replace(params=run.params)


def _stream(run: Workdir, config: Imitate, split: str = "train") -> BatchStream:
    """The stage's batches, of this process's rows."""
    experiment = run.experiment
    hosts = {
        "process_index": jax.process_index(),
        "process_count": jax.process_count(),
    }
    source: Any
    if config.dataset is None:
        task = config.task or experiment.task
        source = TaskSource(task, experiment.seed, split)
    else:
        source = RecordSource(prepare(config.dataset, run.path / "data"), split)
        if not isinstance(source[0], Example):
            return packed_batches(
                source, run.tokenizer, config.batch, seed=experiment.seed, **hosts
            )
    return sft_batches(
        source,
        run.tokenizer,
        experiment.template,
        config.batch,
        seed=experiment.seed,
        **hosts,
    )
