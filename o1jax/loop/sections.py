"""Sections of the report, from the records of the stages.

In: the finished stages. Out: tables and figures as inspect/report.py describes them.
"""

from collections.abc import Sequence
from typing import Any

from o1jax.loop import improve_sections
from o1jax.loop.workdir import StageRecord

Section = dict[str, Any]
LOSS = "loss (nats a token)"


def build(records: Sequence[StageRecord]) -> list[Section]:
    """Training, then all evaluations side by side, then what later parts bring."""
    trained = [r for r in records if r.kind == "imitate"]
    evaluated = [r for r in records if r.kind == "evaluate"]
    improved = [r for r in records if r.kind == "improve"]
    made = [_training(trained)] if trained else []
    if improved:
        begin = sum(r.steps for r in records[: records.index(improved[0])])
        made.append(improve_sections.section(improved, begin))
    if evaluated:
        made += [_accuracy(evaluated), _coverage(evaluated), _diversity(evaluated)]
        made += [_texts(evaluated), _difficulty(evaluated)]
    return made + [section for r in records for section in r.sections]


def _training(records: Sequence[StageRecord]) -> Section:
    rows = [
        [
            r.name,
            r.steps,
            r.results.get("accuracy"),
            r.results.get("valid_loss"),
            r.seconds,
        ]
        for r in records
    ]
    columns = ["stage", "steps", "greedy accuracy", "held-out loss", "seconds"]
    keep = [i for i in range(5) if any(row[i] is not None for row in rows)]
    return {
        "name": "Training",
        "text": "Held out are validation questions of the stage's own task, answered "
        "greedily, or the validation part of its dataset (loss in nats a token).",
        "table": {
            "columns": [columns[i] for i in keep],
            "rows": [[row[i] for i in keep] for row in rows],
        },
        "figure": {
            "kind": "curve",
            "title": "Training",
            "x_label": "optimizer step",
            "series": [
                {"metric": "loss", "label": "training", "y_label": LOSS},
                {"metric": "valid_loss", "label": "held-out", "y_label": LOSS},
                {"metric": "accuracy", "label": "held-out", "y_label": "accuracy"},
            ],
        },
    }


def _accuracy(records: Sequence[StageRecord]) -> Section:
    # Evaluations may differ in samples: they are compared at the most that all have.
    k = min(record.results["k"][-1] for record in records)
    rows = []
    for record in records:
        r = record.results
        at = r["k"].index(k)
        row = [record.name, r["problems"], r["samples"], r["greedy"]]
        row += [r["pass_at_k"][0]]
        if k > 1:
            row += [r["pass_at_k"][at], r["majority_at_k"][at]]
        rows.append([*row, r["tokens_per_sample"]])
    many = [f"pass@{k}", f"majority@{k}"] if k > 1 else []
    return {
        "name": "Held-out accuracy",
        "text": "95 % intervals over questions (greedy: Wilson; the rest: bootstrap).",
        "table": {
            "columns": [
                "evaluation",
                "questions",
                "samples",
                "greedy",
                "pass@1",
                *many,
                "tokens a sample",
            ],
            "rows": rows,
        },
    }


def _coverage(records: Sequence[StageRecord]) -> Section:
    series, rows = [], []
    for record in records:
        r = record.results
        tokens = [k * r["tokens_per_sample"] for k in r["k"]]
        for name, values in (
            ("pass", r["pass_at_k"]),
            ("majority", r["majority_at_k"]),
        ):
            mean, lo, hi = (list(part) for part in zip(*values))
            one = {"label": f"{name}@k {record.name}", "x": tokens, "y": mean}
            one |= {"lo": lo, "hi": hi}
            if name == "pass" and "fit" in r:
                # In tokens: a k^b = a (x / t)^b with t tokens a sample.
                a, b = r["fit"]["a"], r["fit"]["b"]
                scaled = a * r["tokens_per_sample"] ** -b
                one["fit"] = {"a": scaled, "b": b, "r2": r["fit"]["r2"]}
                rows.append([record.name, a, b, r["fit"]["r2"]])
            series.append(one)
    return {
        "name": "Coverage",
        "text": "Chance that k samples hold a right one, and the law c = exp(a k^b).",
        "table": {"columns": ["evaluation", "a", "b", "R2"], "rows": rows},
        "figure": {
            "kind": "coverage",
            "title": "Coverage against compute",
            "x_label": "generated tokens a question",
            "y_label": "questions answered",
            "series": series,
        },
    }


def _diversity(records: Sequence[StageRecord]) -> Section:
    names = ("distinct", "distinct_right", "entropy", "surprise")
    found = [(r, r.results["diversity"]) for r in records if "diversity" in r.results]
    columns = ["evaluation", "samples", "distinct solutions", "right ones"]
    columns += ["entropy of solutions", "of texts"]
    rows = [[r.name, r.results["samples"], *(d[x] for x in names)] for r, d in found]
    return {
        "name": "Diversity",
        "text": "Of the samples of a question: how many solutions are different (their "
        "steps are), how many of those are right, the entropy of their frequencies "
        "and, from log-probs, that of the texts (nats, 95 % intervals).",
        "table": {"columns": columns, "rows": rows},
    }


def _texts(records: Sequence[StageRecord]) -> Section:
    shares = {r.name: r.results.get("texts", {}) for r in records}
    names = list(dict.fromkeys(name for found in shares.values() for name in found))
    rows = [
        [name.removeprefix("text_"), *(found.get(name) for found in shares.values())]
        for name in names
    ]
    return {
        "name": "What texts show",
        "text": "Shares of the samples of each evaluation, as the task or the template "
        "reads them." * bool(rows),
        "table": {"columns": ["share", *shares], "rows": rows},
    }


def _difficulty(records: Sequence[StageRecord]) -> Section:
    levels = sorted(
        {int(d) for r in records for d in r.results["greedy_by_difficulty"]}
    )
    series = []
    for record in records:
        bins = record.results["greedy_by_difficulty"]
        found = [bins.get(str(d), [None] * 3) for d in levels]
        mean, lo, hi = (list(part) for part in zip(*found))
        series.append({"label": record.name, "y": mean, "lo": lo, "hi": hi})
    return {
        "name": "By difficulty",
        "figure": {
            "kind": "bars",
            "title": "Greedy accuracy by difficulty",
            "x_label": "difficulty (steps)",
            "y_label": "accuracy",
            "categories": [str(d) for d in levels],
            "series": series if len(levels) > 1 else [],
        },
    }
