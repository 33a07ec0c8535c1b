"""A run's workdir and what its stages share.

    config.gin  tokenizer.model  metrics.jsonl  tensorboard/
    checkpoints/01-chain/000350/     one folder a training stage
    stages/01-chain.json             written when a stage is done
    results.json  report.md  report.png

A stage that is done is never run again, so a run killed anywhere goes on where it was.
"""

import functools
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from o1jax.data import tokenizer as tokenizers
from o1jax.data.datasets import RecordSource, prepare
from o1jax.data.tokenizer import Tokenizer
from o1jax.loop.checkpoint import restore_params
from o1jax.loop.ledger import Ledger
from o1jax.parallel.mesh import build_mesh
from o1jax.parallel.sharding import TRANSFORMER_RULES, shard
from o1jax.policy.policy import Policy, build_policy
from o1jax.types import Params


class StageRecord(NamedTuple):
    """What a finished stage leaves behind, as JSON."""

    name: str
    kind: str
    steps: int  # optimizer steps that it made
    seconds: float
    ledger: dict[str, Any]  # the run's, at the end of the stage
    results: dict[str, Any]
    sections: list[dict[str, Any]]  # of the report


class Workdir:
    """State of a run between its stages. Stages get it as their first argument."""

    def __init__(self, experiment: Any, path: Path) -> None:
        self.experiment = experiment
        self.path = path
        self.mesh: Mesh = build_mesh(experiment.mesh)
        self.key = jax.random.key(experiment.seed)
        self.params: Params | None = None  # of the last training stage
        self.ledger = Ledger()
        self.steps = 0  # optimizer steps of the stages before
        self.records: list[StageRecord] = []

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The workdir's own, made at the first use."""
        file = self.path / "tokenizer.model"
        if file.exists():
            return Tokenizer.load(file)
        made = tokenizers.build(
            self.experiment.tokenizer, self._symbols(), self._texts()
        )
        made.save(file)
        return made

    @functools.cached_property
    def policy(self) -> Policy:
        """The policy, with a vocabulary at least as large as the tokenizer's."""
        config = self.experiment.policy
        size = self.tokenizer.vocab_size
        if 0 < config.vocab < size:
            raise ValueError(
                f"PolicyConfig.vocab is {config.vocab}, but the tokenizer has {size}"
            )
        return build_policy(replace(config, vocab=config.vocab or size))

    def current_params(self) -> Params:
        """Parameters after the stages so far; fresh ones if none has trained."""
        if self.params is None:
            init, _ = jax.random.split(self.key)
            self.params = shard(self.policy.init(init), TRANSFORMER_RULES, self.mesh)
        return self.params

    def checkpoints(self, index: int, name: str) -> Path:
        return self.path / "checkpoints" / f"{index:02d}-{name}"

    def record_file(self, index: int, name: str) -> Path:
        return self.path / "stages" / f"{index:02d}-{name}.json"

    def finish(self, index: int, record: StageRecord) -> None:
        """Writes a stage's record: from now on it is done."""
        write_json(self.record_file(index, record.name), record._asdict())
        self.take(record)

    def take(self, record: StageRecord) -> None:
        self.records.append(record)
        self.steps += record.steps
        self.ledger = Ledger.from_state(record.ledger)

    def resume(self) -> int:
        """Takes the records of the stages that are done; returns how many there are."""
        for index, stage in enumerate(self.experiment.stages):
            file = self.record_file(index, stage.name)
            if not file.exists():
                return index
            self.take(StageRecord(**json.loads(file.read_text())))
            folder = self.checkpoints(index, stage.name)
            if folder.exists():
                restored = restore_params(folder).params
                self.params = shard(restored, TRANSFORMER_RULES, self.mesh)
        return len(self.experiment.stages)

    def newest_params(self) -> Params:
        """Parameters of the newest checkpoint of any stage, for eval and ask."""
        folders = sorted((self.path / "checkpoints").glob("[0-9]*"))
        for folder in reversed(folders):
            if any(child.name.isdecimal() for child in folder.iterdir()):
                restored = restore_params(folder).params
                return shard(restored, TRANSFORMER_RULES, self.mesh)
        raise ValueError(f"{self.path} holds no checkpoint yet: run it first")

    def _symbols(self) -> list[str]:
        """Every word of every task of the experiment, in order of first use."""
        tasks = [self.experiment.task]
        tasks += [getattr(stage, "task", None) for stage in self.experiment.stages]
        words = (word for task in tasks if task is not None for word in task.symbols())
        return list(dict.fromkeys(words))

    def _texts(self) -> Sequence[str]:
        """The training text of the stages that bring their own data."""
        if self.experiment.tokenizer.kind != "text":
            return ()
        texts = []
        for stage in self.experiment.stages:
            if (dataset := getattr(stage, "dataset", None)) is None:
                continue
            source = RecordSource(prepare(dataset, self.path / "data"), "train")
            for record in (source[i] for i in range(len(source))):
                if isinstance(record, str):
                    texts.append(record)
                else:
                    template = self.experiment.template
                    texts.append(template.prompt(record.question))
                    texts.append(template.response(record))
        if not texts:
            raise ValueError(
                'TokenizerConfig.kind is "text", but no stage has a dataset to train on'
            )
        return texts


def write_json(file: Path, content: Any) -> None:
    """Writes it all or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.partial")
    with partial.open("w") as out:
        json.dump(content, out, indent=1)
        out.flush()
        os.fsync(out.fileno())
    partial.replace(file)
