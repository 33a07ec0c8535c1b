"""An experiment from its first stage to its results; and its policy measured later.

`run` is the list of stages; a stage that is done is skipped, so running again resumes.
"""

import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax

from o1jax.config import Loaded, load
from o1jax.loop import compare as comparing
from o1jax.loop import evaluate as evaluating
from o1jax.loop import recipes, sections
from o1jax.loop.compare import Compare
from o1jax.loop.evaluate import Evaluate
from o1jax.loop.grow import Grow, grow
from o1jax.loop.imitate import Imitate, imitate
from o1jax.loop.improve import Improve, improve
from o1jax.loop.methods import Search, with_guide
from o1jax.loop.pretrained import Pretrained, pretrained
from o1jax.loop.reward_model import TrainReward, train_reward
from o1jax.loop.workdir import Workdir, write_json, write_jsonl
from o1jax.tasks.task import Task

STAGES = {
    Pretrained: pretrained,
    Imitate: imitate,
    TrainReward: train_reward,
    Grow: grow,
    Improve: improve,
    Evaluate: evaluating.evaluate,
    Compare: comparing.compare,
}


def run(loaded: Loaded, workdir: Path) -> None:
    """Runs every stage that is not done yet, then writes results.json."""
    experiment = loaded.experiment
    state = Workdir(experiment, workdir)
    check_rows(state)
    state.publish()  # refused here, before anything was computed
    for index in range(state.resume(), len(experiment.stages)):
        stage = experiment.stages[index]
        state.finish(index, STAGES[type(stage)](state, index, stage))
    results = {
        "title": experiment.title,
        "device": device(),
        "config_fingerprint": loaded.fingerprint(),
        "seconds": sum(record.seconds for record in state.records),
        "stages": {record.name: record.results for record in state.records},
        "sections": [recipes.section(state), *sections.build(state.records)],
        "ledger": state.ledger.table(),
    }
    write_json(workdir / "results.json", results)
    state.publish()


def check_rows(state: Workdir) -> None:
    """Refuses, before any stage runs, batches that the mesh cannot share out."""
    for stage in state.experiment.stages:
        batch = getattr(stage, "batch", None)
        if batch is not None and batch.rows % state.shards:
            raise ValueError(
                f"stage {stage.name!r}: BatchConfig.rows is {batch.rows}, which the "
                f"{state.shards} row shards of the mesh cannot share evenly"
            )
        if isinstance(stage, Improve):
            rows = stage.rows_a_round // stage.minibatches
            if rows % state.shards or stage.questions * stage.samples % state.shards:
                raise ValueError(
                    f"stage {stage.name!r}: an update reads {rows} rows of "
                    f"{stage.questions} questions x {stage.samples} samples, which the "
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
    task = graded_task(state)
    stages = [s for s in state.experiment.stages if isinstance(s, Evaluate)]
    config = stages[-1] if stages else Evaluate(task=task)
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
    return evaluating.measure(state, config, params).numbers


def compare_workdir(
    workdir: Path,
    methods: Sequence[Search],
    *,
    budgets: Sequence[int],
    split: str,
    problems: int | None,
) -> Path:
    """Compares methods of search on the newest checkpoint; returns a folder.

    It holds results.json, to make the report of, and predictions.jsonl. Its name tells
    the methods and what guides them: search/best_of_n-beam/likelihood.
    """
    state = Workdir(load(workdir / "config.gin").experiment, workdir)
    params = state.newest_params()
    config = Compare(
        methods=tuple(methods),
        budgets=tuple(budgets),
        split=split,
        task=graded_task(state),
        **({"problems": problems} if problems else {}),
    )
    began = time.monotonic()
    results, predictions = comparing.measure(state, config, params)
    folder = workdir / "search" / _joined(method.method for method in methods)
    folder /= _joined(method.judged for method in methods)
    write_jsonl(folder / "predictions.jsonl", predictions)
    content = {
        "title": f"{state.experiment.title}: search",
        "device": device(),
        "seconds": time.monotonic() - began,
        "results": results,
        "sections": [comparing.section(split, results)],
        "ledger": state.ledger.table(),
    }
    write_json(folder / "results.json", content)
    return folder


def _joined(names: Iterable[str]) -> str:
    """Names in order, each once, as the name of a folder."""
    return "-".join(re.sub(r"[^\w.]+", "-", name) for name in dict.fromkeys(names))


def method_of(workdir: Path, name: str, guide: str = "") -> Search:
    """A method as the run's Compare stages set it; else as their first one is set.

    guide: what judges instead: likelihood, ..., verifier or the name of a stage that
    trained a reward model. ConfigError if it is none of these.
    """
    stages = load(workdir / "config.gin").experiment.stages
    bound = [m for s in stages if isinstance(s, Compare) for m in s.methods]
    first = replace(bound[0], method=name, name="") if bound else Search(name)
    method = next((m for m in bound if m.method == name), first)
    return with_guide(method, guide, reward_stages(stages)) if guide else method


def reward_stages(stages: Sequence[Any]) -> list[str]:
    """Names of the stages that train reward models."""
    return [stage.name for stage in stages if isinstance(stage, TrainReward)]


def graded_task(state: Workdir) -> Task:
    """The run's last task. ValueError if it has none."""
    if not (tasks := state.tasks()):
        raise ValueError(f"{state.home} learned from datasets only: no task grades it")
    return tasks[-1]


def device() -> str:
    """What this process runs on, for a report."""
    kind = jax.devices()[0]
    return f"{jax.device_count()} x {kind.device_kind} ({kind.platform})"
