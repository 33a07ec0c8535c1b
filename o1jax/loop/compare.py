"""Methods of search side by side, at equal compute.

In: the run so far and a Compare config. Out: its record: accuracy of every method at
every budget against what it cost, with paired intervals of the difference to the first
method, and every prediction. All methods get the same questions and the same key.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax

from o1jax.config import configurable
from o1jax.loop.methods import Search
from o1jax.loop.metrics import progress
from o1jax.loop.searching import Searched, Searcher
from o1jax.loop.workdir import StageRecord, Workdir, write_jsonl
from o1jax.statistics import bootstrap_interval, paired_bootstrap
from o1jax.tasks.task import SPLITS, Example, Task
from o1jax.types import Params


@configurable
@dataclass(frozen=True)
class Compare:
    """Which methods, at which budgets, on which questions."""

    name: str = "search"
    task: Task | None = None  # default: the experiment's
    split: str = "test"
    problems: int = 200
    # The first is what the others are compared with.
    methods: tuple[Search, ...] = field(
        default_factory=lambda: tuple(map(Search, ("best_of_n", "beam", "mcts")))
    )
    budgets: tuple[int, ...] = (4, 16, 64)  # in place of the methods' own

    def __post_init__(self) -> None:
        if self.problems < 1:
            raise ValueError("problems must be at least 1")
        if self.split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}")
        if not self.methods or not self.budgets:
            raise ValueError("methods and budgets must not be empty")
        if min(self.budgets) < 1 or sorted(set(self.budgets)) != list(self.budgets):
            raise ValueError("budgets must rise from 1 or more")
        labels = [method.label for method in self.methods]
        for label in labels:
            if labels.count(label) > 1:
                raise ValueError(f"two methods are named {label!r}: give them a name")


def compare(run: Workdir, index: int, config: Compare) -> StageRecord:
    """Measures the run's parameters as they are now."""
    began = time.monotonic()
    results, predictions = measure(run, config, run.current_params())
    write_jsonl(run.predictions(index), predictions)
    return StageRecord(
        name=config.name,
        kind="compare",
        steps=0,
        seconds=time.monotonic() - began,
        ledger=run.ledger.state(),
        results=results,
        sections=[section(config.name, results)],
    )


def measure(
    run: Workdir, config: Compare, params: Params
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(numbers, a prediction a question, method and budget); booked in the ledger."""
    task, seed = run.task(config), run.experiment.seed
    examples = [task.example(seed, config.split, i) for i in range(config.problems)]
    key = jax.random.fold_in(run.key, 3)
    rows, predictions = [], []
    first: dict[int, Searched] = {}
    arms = [replace(m, budget=n) for m in config.methods for n in config.budgets]
    with progress(len(arms) * len(examples), f"{config.name}: questions") as bar:
        for arm in arms:
            search = Searcher(run, examples, task, arm)
            searched = search(params, key, done=bar.advance)
            first.setdefault(arm.budget, searched)
            rows.append(_row(arm, searched, first[arm.budget]))
            predictions += _predictions(arm, examples, searched)
    results = {
        "problems": config.problems,
        "answer_tokens": search.config.answer_tokens,
        "rows": rows,
    }
    return results, predictions


def _row(method: Search, searched: Searched, first: Searched) -> dict[str, Any]:
    """The numbers of one method at one budget."""
    right = (searched.grades >= 1).astype(float)
    difference = paired_bootstrap(right, (first.grades >= 1).astype(float))
    return {
        "method": method.label,
        "budget": method.budget,
        "accuracy": list(bootstrap_interval(right)),
        "found": list(bootstrap_interval(searched.found.astype(float))),
        "tokens": float(searched.spent.generated_tokens.mean()),
        "reward_tokens": float(searched.spent.reward_tokens.mean()),
        "flops": float(searched.spent.flops.mean()),
        "answers": float(searched.answers.mean()),
        "exhausted": float(searched.exhausted.mean()),
        "difference": [difference.difference, difference.lo, difference.hi],
        "resolved": bool(difference.resolved),
    }


def _predictions(
    method: Search, examples: Sequence[Example], searched: Searched
) -> list[dict[str, Any]]:
    columns = zip(
        examples,
        searched.texts,
        searched.grades,
        searched.found,
        searched.spent.generated_tokens,
        searched.spent.flops,
        strict=True,
    )
    return [
        {
            "method": method.label,
            "budget": method.budget,
            "question": example.question,
            "difficulty": example.difficulty,
            "answer": text,
            "grade": float(grade),
            "found": bool(found),
            "tokens": float(tokens),
            "flops": float(flops),
        }
        for example, text, grade, found, tokens, flops in columns
    ]


def section(name: str, results: dict[str, Any]) -> dict[str, Any]:
    """The table and the picture of the report."""
    rows = results["rows"]
    baseline = rows[0]["method"]
    judged = any(row["reward_tokens"] for row in rows)
    table = [
        [
            row["method"],
            row["budget"],
            row["tokens"],
            *([row["reward_tokens"]] if judged else []),
            row["flops"],
            row["accuracy"],
            row["found"][0],
            *_against(row, baseline),
        ]
        for row in rows
    ]
    series = []
    found = [row for row in rows if row["method"] == baseline]
    mean, lo, hi = (list(part) for part in zip(*(row["found"] for row in found)))
    x = [row["tokens"] for row in found]
    some = {"label": f"any answer of {baseline}", "x": x, "y": mean, "lo": lo, "hi": hi}
    for method in dict.fromkeys(row["method"] for row in rows):
        mine = [row for row in rows if row["method"] == method]
        mean, lo, hi = (list(part) for part in zip(*(row["accuracy"] for row in mine)))
        x = [row["tokens"] for row in mine]
        series.append({"label": method, "x": x, "y": mean, "lo": lo, "hi": hi})
    series.append(some)
    return {
        "name": f"Search: {name}",
        "text": f"A budget of N is the compute of N whole answers, "
        f"{results['answer_tokens']:.1f} tokens each; all tokens drawn count, "
        f"{results['problems']} questions. The answer is chosen before it is graded; "
        '"found" is how often any finished answer was right. Differences are to '
        f"{baseline} at the same budget, paired by question.",
        "table": {
            "columns": [
                "method",
                "budget",
                "tokens",
                *(["reward tokens"] if judged else []),
                "FLOP",
                "accuracy",
                "found",
                "difference",
                "resolved",
            ],
            "rows": table,
        },
        "figure": {
            "kind": "coverage",
            "title": "Search at equal compute",
            "x_label": "generated tokens a question",
            "y_label": "accuracy",
            "series": series,
        },
    }


def _against(row: dict[str, Any], baseline: str) -> list[Any]:
    if row["method"] == baseline:
        return [None, None]
    return [row["difference"], "yes" if row["resolved"] else "no"]
