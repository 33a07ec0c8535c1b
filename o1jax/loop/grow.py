"""Trees that are kept as they grew, for a later stage to tell as text.

In: the run so far and a Grow config. Out: its record, and trees/NAME.jsonl, one tree a
line, of which `TreeText` (data/recorded.py) makes journeys or searches. The trees are
those of training questions, so their guide may know the answer. Qin et al. 2024 (O1
Journey), arXiv 2410.18982.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import numpy as np

from o1jax.config import configurable
from o1jax.data.recorded import TreeText
from o1jax.loop.methods import Search
from o1jax.loop.metrics import progress
from o1jax.loop.reward_data import examples_of
from o1jax.loop.searching import Searcher
from o1jax.loop.workdir import StageRecord, Workdir
from o1jax.parallel.hosts import once
from o1jax.search.trace import Trace, trace_of, write_traces
from o1jax.tasks.task import Task


@configurable
@dataclass(frozen=True)
class Grow:
    """A search over training questions, written down."""

    name: str = "grow"
    task: Task | None = None  # default: the experiment's; of a TreeText its own task
    problems: int = 500
    search: Search = field(default_factory=Search)

    def __post_init__(self) -> None:
        if self.problems < 1:
            raise ValueError("problems must be at least 1")


def grow(run: Workdir, index: int, config: Grow) -> StageRecord:
    """Searches for all questions. Killed before its end, the stage begins anew."""
    began = time.monotonic()
    task = run.task(config)
    task = task.task if isinstance(task, TreeText) else task
    file = run.path / "trees" / f"{config.name}.jsonl"
    grown = list(_grown(run, task, config))
    facts = {
        "trees": len(grown),
        "nodes": sum(len(tree.trace.parent) for tree in grown),
        "right": sum(tree.right for tree in grown),
    }

    def write() -> None:
        file.parent.mkdir(exist_ok=True)
        write_traces(file, (tree.trace for tree in grown))

    once(write)
    run.publish()
    return StageRecord(
        name=config.name,
        kind="grow",
        steps=0,
        seconds=time.monotonic() - began,
        ledger=run.ledger.state(),
        results=facts,
        sections=[_section(config, facts)],
    )


class _Grown(NamedTuple):
    trace: Trace
    right: bool  # one of its answers is


def _grown(run: Workdir, task: Task, config: Grow) -> Iterator[_Grown]:
    """The trees in order of their questions."""
    examples = examples_of(run, task, "train", config.problems)
    search = Searcher(run, examples, task, config.search, graded=False)
    method = f"{search.config.label}, budget {search.config.budget}"
    key = jax.random.fold_in(run.key, 11)
    asked_all = iter(examples)
    with progress(config.problems, f"{config.name}: trees") as bar:
        for nodes, asked in search.trees(run.current_params(), key):
            rows = np.flatnonzero(asked.prompt_id >= 0)
            for b, example in zip(rows, asked_all):
                trace = trace_of(
                    nodes,
                    int(b),
                    question=example.question,
                    method=method,
                    decode=run.tokenizer.decode,
                )
                texts = [trace.text(n) for n, end in enumerate(trace.finished) if end]
                right = any(task.grade(example, text) >= 1 for text in set(texts))
                yield _Grown(trace, right)
            bar.advance(len(rows))


def _section(config: Grow, facts: dict[str, Any]) -> dict[str, Any]:
    trees = facts["trees"]
    row = [config.search.label, config.search.budget, trees]
    row += [facts["nodes"] / trees, facts["right"] / trees]
    columns = ["search", "budget", "trees", "nodes a tree", "with a right answer"]
    return {
        "name": f"Trees of {config.name}",
        "text": f"In trees/{config.name}.jsonl, of training questions.",
        "table": {"columns": columns, "rows": [row]},
    }
