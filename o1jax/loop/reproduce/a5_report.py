"""The tables of A5: curves, accuracy by difficulty, and the choice for each bin.

In: what the arms of the grid found, and the choices made from it (optimal.py). Out:
sections of the report.
"""

from typing import Any

import numpy as np

from o1jax.loop.reproduce.a5_grid import (
    BINS,
    BUDGETS,
    DIFFICULTY,
    LARGE,
    METHODS,
    NOISES,
    SMALL,
    arm_name,
    auc,
    best_of_n,
    saved,
)
from o1jax.loop.reproduce.claim import Evidence
from o1jax.loop.reproduce.optimal import difficulty_bins
from o1jax.statistics import bootstrap_interval


def curves(evidence: Evidence) -> dict[str, Any]:
    figures = []
    for noise in NOISES:
        series = []
        for method in METHODS:
            names = [arm_name(method, noise, budget) for budget in BUDGETS]
            rows = [bootstrap_interval(evidence.accuracy(name)) for name in names]
            mean, lo, hi = (list(part) for part in zip(*rows))
            x = [float(evidence.column(name, "tokens").mean()) for name in names]
            label = method.replace("_", "-")
            series.append({"label": label, "x": x, "y": mean, "lo": lo, "hi": hi})
        figures.append(
            {
                "kind": "coverage",
                "title": f"Guide of AUC {auc(noise):.2f} (noise {noise:g})",
                "x_label": "generated tokens a problem",
                "y_label": "accuracy",
                "series": series,
            }
        )
    return {
        "name": "Accuracy against compute",
        "text": "The guide is the exact value of a state (can the target still be "
        "reached?) plus normal noise that belongs to the state. AUC: chance that it "
        "values a good state above a bad one. It costs no tokens of a model. All "
        "methods choose among finished answers by the guide; grading comes after.",
        "figure": figures,
    }


def by_bin(evidence: Evidence) -> dict[str, Any]:
    bins = difficulty_bins(evidence.accuracy(DIFFICULTY), BINS)
    rate = evidence.accuracy(DIFFICULTY)
    rows = []
    for bin_ in range(BINS):
        for noise in NOISES:
            row: list[Any] = [bin_ + 1, float(rate[bins == bin_].mean()), noise]
            for budget in (SMALL[1], SMALL[-1], LARGE):
                for method in METHODS:
                    name = arm_name(method, noise, budget)
                    row.append(float(evidence.accuracy(name)[bins == bin_].mean()))
            rows.append(row)
    heads = [
        f"{method.replace('_', '-')} {budget}"
        for budget in (SMALL[1], SMALL[-1], LARGE)
        for method in METHODS
    ]
    return {
        "name": "By difficulty",
        "text": f"Bins of equally many problems by the policy's own pass@1 (64 other "
        f"samples a problem), 1 the easiest of {BINS}.",
        "table": {"columns": ["bin", "pass@1", "noise", *heads], "rows": rows},
    }


def choice(evidence: Evidence, optimal: dict) -> dict[str, Any]:
    rows, figures = [], []
    for noise in NOISES:
        one = optimal[noise]
        times = saved(evidence, noise, one)
        for i, budget in enumerate(BUDGETS):
            name = arm_name("best_of_n", noise, budget)
            picks = [
                f"{METHODS[one.method[0, i, b]]} {BUDGETS[one.budget[0, i, b]]}"
                for b in range(BINS)
            ]
            rows.append(
                [
                    noise,
                    budget,
                    list(bootstrap_interval(one.accuracy[i])),
                    float(evidence.accuracy(name).mean()),
                    float(times[i]) if np.isfinite(times[i]) else None,
                    ", ".join(picks),
                ]
            )
        curves = (
            ("chosen for each bin", one.accuracy.mean(-1), one.cost.mean(-1)),
            ("best-of-N", *best_of_n(evidence, noise)),
        )
        figures.append(
            {
                "kind": "coverage",
                "title": f"Compute-optimal choice, AUC {auc(noise):.2f}",
                "x_label": "generated tokens a problem",
                "y_label": "accuracy",
                "series": [
                    {"label": label, "x": list(x), "y": list(y)}
                    for label, y, x in curves
                ],
            }
        )
    return {
        "name": "Compute-optimal choice",
        "text": "For every bin the best method and budget up to the total, chosen on "
        "one half of the problems and scored on the other. Saving: how many times "
        "fewer tokens it needs for best-of-N's accuracy at that budget. Choices are "
        "those of the first fold, easiest bin first.",
        "table": {
            "columns": [
                "noise",
                "budget",
                "chosen",
                "best-of-N",
                "saving",
                "choices",
            ],
            "rows": rows,
        },
        "figure": figures,
    }
