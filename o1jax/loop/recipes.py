"""What each stage of a run is made of, in words, and what it cost.

In: the run and the records of its finished stages. Out: the section "Stages" of the
report: data, steps, and the tokens and FLOPs that the ledger gained in each.
"""

from collections.abc import Sequence
from typing import Any

from o1jax.data.budget import BudgetBatch
from o1jax.loop.compare import Compare
from o1jax.loop.evaluate import Evaluate
from o1jax.loop.grow import Grow
from o1jax.loop.imitate import Imitate
from o1jax.loop.improve import Improve
from o1jax.loop.pretrained import Pretrained
from o1jax.loop.reward_model import TrainReward
from o1jax.loop.workdir import StageRecord, Workdir


def recipe(run: Workdir, stage: Any) -> str:
    """The data of a stage."""
    task = run.task(stage)
    name = task.name if task is not None else ""
    match stage:
        case Pretrained():
            return f"parameters of {stage.path or run.home.name}"
        case Imitate():
            return f"{name or stage.dataset.path}: {_batch(stage.batch)}"
        case TrainReward():
            traces, labels = stage.traces, stage.labels
            if stage.solutions is not None:
                of = type(stage.solutions).__name__
                return f"{of}: marked steps of {traces.problems} solutions"
            by = f", steps labelled by {labels.source}" * (stage.learns == "steps")
            count = f"{traces.problems} x {traces.samples} answers"
            return f"{name}: {stage.learns} of {count}{by}"
        case Grow():
            return f"{name}: {stage.problems} trees of {stage.search.label}"
        case Improve():
            ways = f"{stage.samples} samples"
            if stage.search is not None:
                ways = f"{stage.search.label}, budget {stage.search.budget}"
            learner = type(stage.learner).__name__
            return f"{name}: {stage.questions} questions a round, {ways}; {learner}"
        case Evaluate() | Compare():
            return f"{name}: {stage.problems} {stage.split} questions"
    raise ValueError(f"no recipe of {type(stage).__name__}")


def _batch(batch: Any) -> str:
    packed = " packed" * batch.packed
    text = f"{batch.rows} x {batch.length} tokens{packed}"
    if isinstance(batch, BudgetBatch):
        text += f", {batch.tokens:,} in all"
    return text


def section(run: Workdir) -> dict[str, Any]:
    """A row a stage; tokens and FLOPs are all that were spent in it."""
    rows, before = [], (0, 0)
    for stage, record in zip(run.experiment.stages, run.records, strict=True):
        spent = _spent(record)
        own = [now - then for now, then in zip(spent, before)]
        made = [record.name, record.kind, recipe(run, stage), record.steps or None]
        rows.append([*made, own[0], float(own[1]), round(record.seconds, 1)])
        before = spent
    columns = ["stage", "kind", "data", "steps", "tokens", "FLOP", "seconds"]
    return {
        "name": "Stages",
        "text": "Tokens are all that went through a network in the stage, to train, to "
        "sample, to search, to judge or to measure.",
        "table": {"columns": columns, "rows": rows},
    }


def _spent(record: StageRecord) -> Sequence[int | float]:
    """(tokens, FLOPs) of the run up to the end of the stage."""
    accounts = record.ledger["accounts"].values()
    return [sum(account[x] for account in accounts) for x in ("tokens", "flops")]
