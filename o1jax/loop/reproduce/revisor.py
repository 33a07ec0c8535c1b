"""A policy that learns to revise: the right solution behind several wrong ones.

In: a policy, and how many of its own wrong answers to a question stand in front of the
solution that it learns. Out: the policy that came out, kept in a folder below the run.
Snell et al. 2024, arXiv 2408.03314, section 6.1; simplified: wrong answers are drawn at
random, not by their likeness to the right one, and that is the worked solution.
"""

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from o1jax.data.stream import BatchConfig, BatchStream, Document
from o1jax.learn.objectives import imitation
from o1jax.learn.optimizer import OptimizerConfig
from o1jax.loop.answer import Answerer
from o1jax.loop.checkpoint_read import restore_params
from o1jax.loop.imitate import Imitate
from o1jax.loop.marks import stop_ids
from o1jax.loop.reproduce.claim import Predictions
from o1jax.loop.reproduce.identity import digest
from o1jax.loop.reward_data import FRESH
from o1jax.loop.train import Learner, train
from o1jax.loop.workdir import Workdir, write_json
from o1jax.parallel.sharding import TRANSFORMER_RULES, shard
from o1jax.rollout.sampling import SamplingConfig
from o1jax.tasks.task import Example
from o1jax.types import Params

CHUNK = 2048  # requests of a call of the sampler
QUESTIONS_AT = 15  # of the train split, in units of FRESH: no stage comes to them


@dataclass(frozen=True)
class Revisor:
    """What a policy reads to learn to revise its answers."""

    questions: int = 4000
    samples: int = 8  # of each, from which the wrong ones are taken
    most: int = 7  # wrong answers in front of the solution
    steps: int = 400
    batch: BatchConfig = field(default_factory=lambda: BatchConfig(32, 160, True))
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(1e-3, 20, "cosine")
    )
    microbatches: int = 4
    sampling: SamplingConfig = field(default_factory=SamplingConfig)


@dataclass(frozen=True)
class Revised:
    """An arm of the policy that has learned to revise, and how that is tested."""

    test: Any  # its method
    run: Any  # the function of the arm: (run, params, key, examples, test)
    revisor: Revisor = field(default_factory=Revisor)


def revised(
    run: Workdir,
    params: Params,
    key: jax.Array,
    examples: Sequence[Example],
    method: Revised,
) -> Predictions:
    """What the arm's function says of the policy that has learned to revise."""
    learned = learn_to_revise(run, params, method.revisor)
    return method.run(run, learned, key, examples, method.test)


def learn_to_revise(run: Workdir, params: Params, config: Revisor) -> Params:
    """The policy behind `config.steps`; goes on where it was killed, or reads it."""
    own = copy.copy(run)
    own.path = run.path / "revisors" / digest(config)
    own.path.mkdir(parents=True, exist_ok=True)
    done, folder = own.path / "done.json", own.path / "checkpoints"
    if done.exists():
        return shard(restore_params(folder).params, TRANSFORMER_RULES, run.mesh)
    rows = _documents(own, params, config)
    stream = BatchStream(
        range(len(rows)),
        lambda i: Document(np.array(rows[i][0], np.int32), rows[i][1]),
        config.batch,
        packed=config.batch.packed,
        cut=False,
        seed=run.experiment.seed,
        process_index=0,
        process_count=1,
        identity={"kind": "revisions"},
    )
    stage = Imitate(
        name="revisor",
        batch=config.batch,
        steps=config.steps,
        microbatches=config.microbatches,
        optimizer=config.optimizer,
    )
    learner = Learner(
        imitation(run.policy), stream, probe=lambda params: {}, folder=folder
    )
    at = train(own, stage, learner, jax.tree.map(jnp.copy, params))  # donated
    write_json(done, {"steps": int(at.state.step), "documents": len(rows)})
    return at.state.params


def _documents(run: Workdir, params: Params, config: Revisor) -> list[Any]:
    """(tokens, how many are given) of each question, drawn once and kept."""
    file: Path = run.path / "attempts.json"
    if not file.exists():
        write_json(file, attempts(run, params, config))
    return json.loads(file.read_text())


def attempts(
    run: Workdir, params: Params, config: Revisor
) -> list[tuple[list[int], int]]:
    """Prompt, some wrong answers, each closed, and the worked solution to learn."""
    task, seed = run.experiment.task, run.experiment.seed
    first = QUESTIONS_AT * FRESH
    examples = [task.example(seed, "train", first + i) for i in range(config.questions)]
    chunk = min(CHUNK, config.questions * config.samples)
    answer = Answerer(run, examples, config.sampling, chunk=chunk)
    key = jax.random.fold_in(run.key, 11)
    found = answer(params, key, config.samples, task=task)
    rows, stop = found.rows, stop_ids(run)[0]
    rng = np.random.default_rng(seed)
    documents = []
    for number, example in enumerate(examples):
        prompt, solution = run.experiment.template.encode(run.tokenizer, example)
        wrong = []
        for j in np.flatnonzero(found.grades[number] < 1):
            row = number * config.samples + j
            text = rows.tokens[row, rows.prompt_length[row] : rows.length[row]].tolist()
            wrong.append(text if rows.finished[row] else [*text, stop])
        most = min(config.most, len(wrong))
        taken = rng.permutation(len(wrong))[: rng.integers(most + 1)]
        given = sum((wrong[i] for i in taken), prompt)
        documents.append((given + solution, len(given)))
    return documents
