"""The three things a user does with an experiment: run it, measure it, ask it.

`run` is the list of stages; a stage that is done is skipped, so running again resumes.
"""

import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax

from o1jax.config import Loaded, load
from o1jax.loop import sections
from o1jax.loop.answer import Answerer
from o1jax.loop.evaluate import Evaluate, evaluate, measure
from o1jax.loop.imitate import Imitate, imitate
from o1jax.loop.workdir import Workdir, write_json
from o1jax.rollout.sampling import SamplingConfig

STAGES = {Imitate: imitate, Evaluate: evaluate}


def run(loaded: Loaded, workdir: Path) -> None:
    """Runs every stage that is not done yet, then writes results.json."""
    experiment = loaded.experiment
    state = Workdir(experiment, workdir)
    done = state.resume()
    for index in range(done, len(experiment.stages)):
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


def evaluate_workdir(
    workdir: Path,
    *,
    split: str,
    problems: int | None,
    samples: int | None,
    temperature: float | None,
) -> dict[str, Any]:
    """Measures the newest checkpoint; what is None is the Evaluate default."""
    loaded = load(workdir / "config.gin")
    state = Workdir(loaded.experiment, workdir)
    stages = [s for s in loaded.experiment.stages if isinstance(s, Evaluate)]
    config = replace(stages[-1] if stages else Evaluate(), split=split, name="eval")
    if problems is not None:
        config = replace(config, problems=problems)
    if samples is not None:
        config = replace(config, samples=samples)
    if temperature is not None:
        sampling = replace(config.sampling, temperature=temperature)
        config = replace(config, sampling=sampling)
    results, *_ = measure(state, config, state.newest_params())
    return results


def ask(workdir: Path, question: str, *, temperature: float) -> None:
    """Answers one question and prints its steps, their log-probs and the verdict."""
    loaded = load(workdir / "config.gin")
    state = Workdir(loaded.experiment, workdir)
    task, template = loaded.experiment.task, loaded.experiment.template
    example = task.parse(question)
    sampling = SamplingConfig(temperature=temperature)
    answerer = Answerer(state, task, [example], sampling, chunk=1)
    key = jax.random.key(time.time_ns() % 2**32) if temperature else state.key
    row = jax.device_get(answerer.trajectory(state.newest_params(), key))
    response = slice(int(row.prompt_length[0]), int(row.length[0]))
    tokens, logprob = row.tokens[0, response].tolist(), row.logprob[0, response]
    text = state.tokenizer.decode(tokens)
    print(template.prompt(example.question))
    begin = 0
    for check in task.check_steps(example, text):
        span = [state.tokenizer.decode(tokens[:n]) for n in range(len(tokens) + 1)]
        inside = [begin < len(t) <= check.end for t in span[1:]]
        chance = math.fsum(x for x, here in zip(logprob, inside) if here)
        verdict = "ok" if check.correct else check.reason
        print(f"  {text[begin : check.end].strip():28} {chance:8.3f}  {verdict}")
        begin = check.end
    if rest := text[begin:].strip():
        print(f"  {rest:28} {'':8}  not closed")
    right = "right" if task.grade(example, text) >= 1 else "wrong"
    print(f"{right}  (log-prob {math.fsum(logprob):.3f}, {len(tokens)} tokens)")
