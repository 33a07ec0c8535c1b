"""Evaluation: greedy accuracy, unbiased pass@k, majority@k, by difficulty.

In: the run so far and an Evaluate config. Out: its record, with tables and figures for
the report, and every prediction in predictions/. Grading happens on the host after all
sampling, so nothing that samples ever sees an answer. pass@k: Chen et al. 2021, arXiv
2107.03374; the law of coverage: Brown et al. 2024, arXiv 2407.21787.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from o1jax.config import configurable
from o1jax.loop.answer import Answerer, Answers
from o1jax.loop.diversity import diversity
from o1jax.loop.metrics import progress
from o1jax.loop.text_meter import text_shares
from o1jax.loop.workdir import StageRecord, Workdir, write_jsonl
from o1jax.rollout.sampling import SamplingConfig
from o1jax.statistics import (
    bootstrap_interval,
    fit_coverage,
    majority_at_k,
    pass_at_k,
    wilson_interval,
)
from o1jax.tasks.task import SPLITS, Example, Task
from o1jax.types import Params


@configurable
@dataclass(frozen=True)
class Evaluate:
    """How to measure a policy on held-out questions."""

    name: str = "evaluate"
    task: Task | None = None  # default: the experiment's
    split: str = "test"
    problems: int = 200
    samples: int = 64  # responses a question; pass@k for k = 1, 2, 4 ... samples
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    requests: int = 2048  # answered by one call of the sampling program

    def __post_init__(self) -> None:
        for name in ("problems", "samples", "requests"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        if self.split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}")


class Measured(NamedTuple):
    """What an evaluation found."""

    numbers: dict[str, Any]  # JSON
    examples: list[Example]
    greedy: Answers  # one to each example
    sampled: Answers


def evaluate(run: Workdir, index: int, config: Evaluate) -> StageRecord:
    """Measures the run's parameters as they are now."""
    began = time.monotonic()
    measured = measure(run, config, run.current_params())
    _write_predictions(run.predictions(index), measured)
    return StageRecord(
        name=config.name,
        kind="evaluate",
        steps=0,
        seconds=time.monotonic() - began,
        ledger=run.ledger.state(),
        results=measured.numbers,
        sections=[],
    )


def measure(run: Workdir, config: Evaluate, params: Params) -> Measured:
    """Samples and grades; books it in the run's ledger."""
    task, seed = run.task(config), run.experiment.seed
    examples = [task.example(seed, config.split, i) for i in range(config.problems)]
    key = jax.random.fold_in(run.key, 1)
    point = SamplingConfig(temperature=0.0)
    with progress(2, f"{config.name}: {config.problems} questions") as bar:
        answer = Answerer(run, examples, point, chunk=len(examples))
        greedy = answer(params, key, 1, task=task)
        bar.advance(metrics={"greedy": float(greedy.grades.mean())})
        chunk = min(config.requests, len(examples) * config.samples)
        answer = Answerer(run, examples, config.sampling, chunk=chunk)
        sampled = answer(params, key, config.samples, task=task)
        bar.advance(metrics={"pass@1": float(sampled.grades.mean())})
    parse = run.experiment.template.parse
    votes = [[parse(text)[1] or None for text in texts] for texts in sampled.texts]
    numbers = _numbers(examples, greedy, sampled, votes)
    if config.samples > 1:
        rows = sampled.rows
        logprob = np.where(np.asarray(rows.response_mask), rows.logprob, 0).sum(axis=1)
        numbers["diversity"] = diversity(
            sampled.texts,
            sampled.grades >= 1,
            logprob.reshape(sampled.grades.shape).astype(np.float64),
            parse,
        )
    template = run.experiment.template
    shares = text_shares(task, examples, sampled.texts, template=template)
    if shares:
        numbers["texts"] = shares
    return Measured(numbers, examples, greedy, sampled)


def _numbers(
    examples: Sequence[Example],
    greedy: Answers,
    sampled: Answers,
    votes: Sequence[Sequence[str | None]],
) -> dict[str, Any]:
    """Everything the report needs, as JSON. A response is right at grade 1."""
    right = sampled.grades >= 1
    samples = right.shape[1]
    ks = [k for k in (2**i for i in range(24)) if k <= samples]
    coverage = pass_at_k(right.sum(1), samples, ks)
    majority = majority_at_k(votes, right.astype(float), ks, draws=200)
    level = np.array([e.difficulty for e in examples])
    bins = {
        str(d): list(wilson_interval(int(sum(greedy.grades[level == d, 0] >= 1)), n))
        for d, n in zip(*np.unique(level, return_counts=True))
    }
    result: dict[str, Any] = {
        "problems": len(examples),
        "samples": samples,
        "greedy": list(wilson_interval(int((greedy.grades >= 1).sum()), len(examples))),
        "greedy_by_difficulty": bins,
        "k": ks,
        "pass_at_k": [list(bootstrap_interval(p)) for p in coverage.per_problem],
        "majority_at_k": [list(bootstrap_interval(p)) for p in majority.per_problem],
        "tokens_per_sample": float(sampled.tokens.mean()),
        "finished": float(sampled.finished.mean()),
    }
    inside = (coverage.mean > 0) & (coverage.mean < 1)
    if inside.sum() >= 3:  # two points fit any law
        result["fit"] = fit_coverage(np.array(ks), coverage.mean)._asdict()
    return result


def _write_predictions(file: Path, measured: Measured) -> None:
    """A line a question."""
    greedy, sampled = measured.greedy, measured.sampled
    rows = zip(
        measured.examples, greedy.texts, greedy.grades, sampled.grades, strict=True
    )
    predictions = [
        {
            "question": example.question,
            "difficulty": example.difficulty,
            "greedy": text[0],
            "greedy_grade": float(grade[0]),
            "samples_right": int((grades >= 1).sum()),
            "samples": len(grades),
        }
        for example, text, grade, grades in rows
    ]
    write_jsonl(file, predictions)
