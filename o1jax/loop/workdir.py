"""A run's workdir and what its stages share.

    config.gin  tokenizer.model  metrics.jsonl  tensorboard/
    checkpoints/01-chain/000350/     one folder a training stage
    adapters/02-improve/000040/      factors of a stage that trains adapters only
    rewards/02-reward/000300/        one a reward model, with the data it learned from
    stages/01-chain.json             written when a stage is done
    predictions/02-after.jsonl       one file an evaluation
    results.json  report.md  report.png

A stage that is done is not run again, so a run killed anywhere goes on where it was.
Of a workdir in a bucket (bucket.py) the steps are there, all other files in a mirror.
"""

import functools
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from o1jax.data import tokenizer as tokenizers
from o1jax.data.datasets import RecordSource, prepare
from o1jax.data.tokenizer import Tokenizer
from o1jax.learn.state import init_params
from o1jax.loop.checkpoint_read import CheckpointError, restore_params, steps_in
from o1jax.loop.ledger import Ledger
from o1jax.loop.places import Places, write_json, write_jsonl
from o1jax.parallel.hosts import once
from o1jax.parallel.mesh import build_mesh
from o1jax.parallel.preemption import Preempted, agreed
from o1jax.parallel.sharding import TRANSFORMER_RULES, shard
from o1jax.policy.policy import Policy, PolicyConfig, build_policy
from o1jax.reward.model import RewardModel, build_reward_model
from o1jax.reward.versions import Weights
from o1jax.tasks.task import Task
from o1jax.types import Params

__all__ = ["StageRecord", "Workdir", "write_json", "write_jsonl"]

TEXTS = 512  # questions of a task in words that a tokenizer is trained on
# Kinds of stages that leave parameters of their own.
TRAINS_POLICY = ("imitate", "improve", "pretrained")


class StageRecord(NamedTuple):
    """What a finished stage leaves behind, as JSON."""

    name: str
    kind: str
    steps: int  # optimizer steps that it made; 0 if it does not train
    seconds: float
    ledger: dict[str, Any]  # the run's, at the end of the stage
    results: dict[str, Any]
    sections: list[dict[str, Any]]  # of the report


class Workdir(Places):
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

    @property
    def shards(self) -> int:
        """Into how many parts the mesh cuts the rows of a batch."""
        return self.mesh.size // self.mesh.shape["tensor"]

    def task(self, stage: Any) -> Task | None:
        """The task of a stage; None if it has a dataset of its own, or no questions."""
        has_dataset = getattr(stage, "dataset", None) is not None
        if has_dataset or not getattr(stage, "asks", True):
            return None
        task = getattr(stage, "task", None) or self.experiment.task
        # One that reads what an earlier stage wrote (data/recorded.py).
        return task.within(self.path) if hasattr(task, "within") else task

    def tasks(self) -> list[Task]:
        """The tasks of the stages, in order."""
        tasks = map(self.task, self.experiment.stages)
        return [task for task in tasks if task is not None]

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The workdir's own, made at the first use."""
        of_library = self.experiment.tokenizer.path.endswith(".json")
        file = self.path / f"tokenizer.{'json' if of_library else 'model'}"
        once(lambda: file.exists() or self._make_tokenizer(file))
        self.publish()
        return tokenizers.load(file)

    def _make_tokenizer(self, file: Path) -> None:
        words = (word for task in self.tasks() for word in task.symbols())
        words = list(dict.fromkeys(words))
        config = self.experiment.tokenizer
        made = tokenizers.build(config, words, self._texts())
        _check_words(made, words)
        partial = file.with_name(f".{file.name}.partial")
        made.save(partial)
        partial.replace(file)

    @functools.cached_property
    def policy(self) -> Policy:
        """The policy's functions."""
        return build_policy(self.policy_config)

    @functools.cached_property
    def policy_config(self) -> PolicyConfig:
        """The policy's size, its vocabulary at least as large as the tokenizer's."""
        config = self.experiment.policy
        size = self.tokenizer.vocab_size
        if 0 < config.vocab < size:
            raise ValueError(
                f"PolicyConfig.vocab is {config.vocab}, but the tokenizer has {size}"
            )
        return replace(config, vocab=config.vocab or size)

    def current_params(self) -> Params:
        """Parameters after the stages so far; fresh ones if none has trained."""
        if self.params is None:
            self.params = self._fresh()
        return self.params

    def _fresh(self) -> Params:
        key, _ = jax.random.split(self.key)
        return init_params(self.policy, key, mesh=self.mesh, rules=TRANSFORMER_RULES)

    def first_params(self, index: int) -> Params:
        """Parameters that a stage began from, though it may have gone on since."""
        if self.params is None:
            trained = [i for i in range(index) if self._read(i).kind in TRAINS_POLICY]
            if trained:
                return self.stage_params(trained[-1], self._read(trained[-1]).steps)
        return self.current_params()

    def newest_params(self) -> Params:
        """Parameters of the newest checkpoint of any stage, for eval and ask."""
        for index in reversed(range(len(self.experiment.stages))):
            if self._has_checkpoint(index):
                return self.stage_params(index)
        raise ValueError(f"{self.home} holds no checkpoint yet: run it first")

    def build_reward_model(self, stage: Any) -> RewardModel:
        """The reward model of a TrainReward stage, without its parameters."""
        config, tokenizer = stage.model, self.tokenizer
        ids = {}
        for name in ("yes", "no"):
            if word := getattr(config, name):
                ids[f"{name}_id"] = tokenizer.id_of(word)
        return build_reward_model(config, self.policy_config, **ids)

    def reward_model(self, name: str) -> tuple[RewardModel, Weights]:
        """A trained reward model, by the name of its stage."""
        stages = self.experiment.stages
        rewards = {s.name: i for i, s in enumerate(stages) if hasattr(s, "learns")}
        if name not in rewards:
            known = ", ".join(rewards) or "it has none"
            raise ValueError(f"no reward model {name!r} in {self.home}: {known}")
        index = rewards[name]
        if not self._record_file(index).exists():
            raise ValueError(f"reward model {name!r} is not trained yet: run it first")
        step = self._read(index).steps
        restored = restore_params(self.rewards(index), step).params
        if "net" not in restored:  # a trunk that stays is kept once, by the policy
            restored = {"net": self._trunk(index)} | restored
        params = shard(restored, TRANSFORMER_RULES, self.mesh)
        return self.build_reward_model(stages[index]), Weights(params, step)

    def _trunk(self, index: int) -> Params:
        """The policy as it was when a reward model was made of it."""
        trained = [i for i in range(index) if self._read(i).kind in TRAINS_POLICY]
        if trained:
            return self.stage_params(trained[-1], self._read(trained[-1]).steps)
        return self._fresh()

    def finish(self, index: int, record: StageRecord) -> None:
        """Writes a stage's record: from now on it is done."""
        write_json(self._record_file(index), record._asdict())
        self.publish()
        self._take(index)
        if agreed():
            raise Preempted(f"stage {record.name!r} is done", together=True)

    def resume(self) -> int:
        """Goes to where the run stopped; returns how many stages are done.

        A stage whose last parameters are damaged, where the next one starts from them,
        is no longer done: it goes on from an older checkpoint to the same parameters.
        """
        stages = range(len(self.experiment.stages))
        done = next(
            (i for i in stages if not self._record_file(i).exists()), len(stages)
        )
        records = [self._read(i) for i in range(done)]
        while done < len(stages) and not self._has_checkpoint(done):
            trained = [i for i in range(done) if records[i].kind in TRAINS_POLICY]
            if not trained:
                break
            try:
                last = trained[-1]
                self.params = self.stage_params(last, records[last].steps)
                break
            except CheckpointError as error:
                print(
                    f"stage {records[last].name} is run again: {error}", file=sys.stderr
                )
                done = last
        for index in range(done):
            self._take(index)
        return done

    def _read(self, index: int) -> StageRecord:
        return StageRecord(**json.loads(self._record_file(index).read_text()))

    def _take(self, index: int) -> None:
        """As read from the disk, so that a resumed run holds the very same."""
        record = self._read(index)
        self.records.append(record)
        self.steps += record.steps
        self.ledger = Ledger.from_state(record.ledger)

    def _has_checkpoint(self, index: int) -> bool:
        return bool(steps_in(self.checkpoints(index)))

    def stage_params(self, index: int, step: int | None = None) -> Params:
        """Parameters that a stage left (default: its newest checkpoint).

        An imported model may be bf16; where the run goes on to train it, it is f32.
        """
        restored = restore_params(self.checkpoints(index), step).params
        if "critic" in restored:  # of a stage whose critic has a network of its own
            restored = restored["policy"]
        if len(self.experiment.stages) > 1:
            restored = jax.tree.map(lambda x: x.astype(jnp.float32), restored)
        return shard(restored, TRANSFORMER_RULES, self.mesh)

    def _texts(self) -> Sequence[str]:
        """The training text of the stages' own data, and of tasks in words."""
        if self.experiment.tokenizer.kind != "text":
            return ()
        texts, template = [], self.experiment.template
        parts = (p for task in self.tasks() for p in getattr(task, "tasks", (task,)))
        for task in dict.fromkeys(parts):  # those of a mixture one by one
            if not task.symbols():
                for i in range(TEXTS):
                    example = task.example(self.experiment.seed, "train", i)
                    texts.append(template.prompt(example.question))
                    texts.append(template.response(example))
        for stage in self.experiment.stages:
            if (dataset := getattr(stage, "dataset", None)) is None:
                continue
            source = RecordSource(prepare(dataset, self.path / "data"), "train")
            for record in (source[i] for i in range(len(source))):
                if isinstance(record, str):
                    texts.append(record)
                else:
                    texts.append(template.prompt(record.question))
                    texts.append(template.response(record))
        if not texts:
            raise ValueError(
                'TokenizerConfig.kind is "text", but no stage has a dataset to train on'
            )
        return texts


def _check_words(tokenizer: Tokenizer, words: Sequence[str]) -> None:
    """Refuses a tokenizer from a file that lacks words of the tasks."""
    for word in words:
        try:
            known = tokenizer.unk_id not in tokenizer.encode(word)
        except ValueError:
            known = False
        if not known:
            raise ValueError(
                f"the tokenizer of TokenizerConfig.path does not know {word!r}, which "
                "the task of a stage needs"
            )
