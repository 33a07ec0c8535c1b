"""Imitation: pre-training on text, and fine-tuning on worked solutions.

In: the run so far and an Imitate config. Out: its record; the run's parameters are the
trained ones. The loop is that of train.py; here is what it learns from.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from o1jax.config import configurable
from o1jax.data.batches import (
    BatchConfig,
    BatchStream,
    packed_batches,
    sft_batches,
)
from o1jax.data.behaviours.asked import Asked
from o1jax.data.behaviours.prompts import PromptTemplate
from o1jax.data.behaviours.task import Behaviours
from o1jax.data.budget import within_budget
from o1jax.data.datasets import DatasetConfig, RecordSource, TaskSource, prepare
from o1jax.data.mixture import Mixture
from o1jax.data.recorded import TreeText
from o1jax.data.search_text.task import SearchText
from o1jax.learn.objectives import imitation
from o1jax.learn.optimizer import OptimizerConfig
from o1jax.loop.probe import Probe, build_loss_probe, build_probe
from o1jax.loop.train import Learner, train
from o1jax.loop.workdir import StageRecord, Workdir
from o1jax.parallel.hosts import once
from o1jax.tasks.task import Example, Task
from o1jax.types import Params

# Tasks whose solutions show how they were found, several tasks at once, and a template
# that asks for behaviours; an experiment file may name them.
TEXTS = (Behaviours, Asked, SearchText, TreeText, Mixture, PromptTemplate)


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


def imitate(run: Workdir, index: int, config: Imitate) -> StageRecord:
    """Trains until `config.steps`, the end of the data, or the goal of the probe."""
    learner = Learner(
        objective=imitation(run.policy),
        stream=within_budget(_stream(run, config), config.batch, steps=config.steps),
        probe=_probe(run, config),
        folder=run.checkpoints(index),
    )
    params, run.params = run.current_params(), None  # the first update donates them
    at = train(run, config, learner, params)
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


def _probe(run: Workdir, config: Imitate) -> Callable[[Params], dict[str, float]]:
    if (task := run.task(config)) is not None:
        return build_probe(run, config.probe, task)
    once = replace(config, batch=replace(config.batch, epochs=1))
    return build_loss_probe(run, config.probe, _stream(run, once, "valid"))


def _stream(run: Workdir, config: Imitate, split: str = "train") -> BatchStream:
    """The stage's batches."""
    seed = run.experiment.seed
    source: Any
    if (task := run.task(config)) is not None:
        source = TaskSource(task, seed, split)
    else:
        source = _records(run, config, split)
        if not isinstance(source[0], Example):
            return packed_batches(source, run.tokenizer, config.batch, seed=seed)
    template = run.experiment.template
    return sft_batches(source, run.tokenizer, template, config.batch, seed=seed)


def _records(run: Workdir, config: Imitate, split: str) -> RecordSource:
    folder = run.path / "data"
    once(lambda: prepare(config.dataset, folder))
    directory = prepare(config.dataset, folder)
    try:
        return RecordSource(directory, split)
    except ValueError as error:  # too few records for the hash to fill each split
        raise ValueError(
            f"stage {config.name!r}: {error}: set DatasetConfig.valid_path"
        ) from error
