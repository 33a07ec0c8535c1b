"""The three things a user does with an experiment: run it, measure it, ask it.

`run` is the list of stages; a stage that is done is skipped, so running again resumes.
"""

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from o1jax.config import Loaded, load
from o1jax.data.template import Template
from o1jax.data.tokenizer import Tokenizer
from o1jax.loop import sections
from o1jax.loop.answer import Answerer
from o1jax.loop.evaluate import Evaluate, evaluate, measure
from o1jax.loop.imitate import Imitate, imitate
from o1jax.loop.workdir import Workdir, write_json
from o1jax.rollout.sampling import SamplingConfig
from o1jax.tasks.task import Example, Task
from o1jax.types import Trajectory

STAGES = {Imitate: imitate, Evaluate: evaluate}


def run(loaded: Loaded, workdir: Path) -> None:
    """Runs every stage that is not done yet, then writes results.json."""
    experiment = loaded.experiment
    state = Workdir(experiment, workdir)
    _check_rows(state)
    for index in range(state.resume(), len(experiment.stages)):
        stage = experiment.stages[index]
        state.finish(index, STAGES[type(stage)](state, index, stage))
    device = jax.devices()[0]
    results = {
        "title": experiment.title,
        "device": f"{jax.device_count()} x {device.device_kind} ({device.platform})",
        "config_fingerprint": loaded.fingerprint(),
        "seconds": sum(record.seconds for record in state.records),
        "stages": {record.name: record.results for record in state.records},
        "sections": sections.build(state.records),
        "ledger": state.ledger.table(),
    }
    write_json(workdir / "results.json", results)


def _check_rows(state: Workdir) -> None:
    """Refuses, before any stage runs, batches that the mesh cannot share out."""
    for stage in state.experiment.stages:
        batch = getattr(stage, "batch", None)
        if batch is not None and batch.rows % state.shards:
            raise ValueError(
                f"stage {stage.name!r}: BatchConfig.rows is {batch.rows}, which the "
                f"{state.shards} row shards of the mesh cannot share evenly"
            )


def evaluate_workdir(
    workdir: Path,
    *,
    split: str,
    problems: int | None,
    samples: int | None,
    temperature: float | None,
) -> dict[str, Any]:
    """Measures the newest checkpoint as the run's last Evaluate stage would.

    What is given replaces the stage's own. ValueError if the run has no task.
    """
    state = Workdir(load(workdir / "config.gin").experiment, workdir)
    params = state.newest_params()
    if not (tasks := state.tasks()):
        raise ValueError(f"{workdir} learned from datasets only: no task grades it")
    stages = [s for s in state.experiment.stages if isinstance(s, Evaluate)]
    config = stages[-1] if stages else Evaluate(task=tasks[-1])
    sampling = config.sampling
    if temperature is not None:
        sampling = replace(sampling, temperature=temperature)
    config = replace(
        config,
        name="eval",
        split=split,
        problems=problems or config.problems,
        samples=samples or config.samples,
        sampling=sampling,
    )
    return measure(state, config, params).numbers


def ask(workdir: Path, question: str, *, temperature: float) -> None:
    """Answers one question and prints its steps, their log-probs and the verdict.

    The verdict is that of the run's last task; without one there is none.
    """
    state = Workdir(load(workdir / "config.gin").experiment, workdir)
    params = state.newest_params()
    task = tasks[-1] if (tasks := state.tasks()) else None
    template = state.experiment.template
    example = task.parse(question) if task else Example(question, (), "", 0)
    answerer = Answerer(
        state, [example], SamplingConfig(temperature=temperature), chunk=1
    )
    key = jax.random.key(time.time_ns() % 2**32) if temperature else state.key
    answer = jax.device_get(answerer.trajectory(params, key))
    for line in _shown(answer, example, task, state.tokenizer, template):
        print(line)


class _Step(NamedTuple):
    end: int  # character offset behind the step
    verdict: str


def _shown(
    answer: Trajectory,
    example: Example,
    task: Task | None,
    tokenizer: Tokenizer,
    template: Template,
) -> Iterator[str]:
    """The lines that `ask` prints: the prompt, the steps, the verdict."""
    response = slice(int(answer.prompt_length[0]), int(answer.length[0]))
    tokens, logprob = answer.tokens[0, response].tolist(), answer.logprob[0, response]
    written = len(tokens) - bool(answer.finished[0])  # the stop token is in no step
    text = tokenizer.decode(tokens[:written])
    steps = _steps(text, example, task, template)
    ends = [len(tokenizer.decode(tokens[:n])) for n in range(1, written + 1)]
    # Half of a character may decode to more than the whole of it.
    ends = np.minimum.accumulate(np.array(ends[::-1], int))[::-1]
    owner = np.searchsorted([step.end for step in steps], ends)
    chance = np.bincount(owner, logprob[:written], minlength=len(steps) + 1)
    yield template.prompt(example.question)
    begin = 0
    for step, its_chance in zip([*steps, _Step(len(text), "")], chance):
        if shown := text[begin : step.end].strip():
            yield f"  {shown:28} {its_chance:8.3f}  {step.verdict}".rstrip()
        begin = step.end
    verdict = "not graded"
    if task:
        verdict = "right" if task.grade(example, text) >= 1 else "wrong"
    cut = "" if answer.finished[0] else ", cut off at SamplerConfig.max_new_tokens"
    yield f"{verdict}  (log-prob {logprob.sum():.3f}, {len(tokens)} tokens{cut})"


def _steps(
    text: str, example: Example, task: Task | None, template: Template
) -> list[_Step]:
    """Where each closed step ends, and what the task's oracle says of it."""
    if task is None:
        mark = re.escape(template.step_end.strip(" "))
        return [_Step(found.end(), "") for found in re.finditer(mark, text)]
    checks = task.check_steps(example, text)
    return [_Step(c.end, "ok" if c.correct else c.reason) for c in checks]
