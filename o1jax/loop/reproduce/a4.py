"""A4: labels of steps that nobody wrote, from how continuations end.

In: reward models trained on the same traces with labels of the oracle, of rollouts from
every step (hard and soft), of a binary search for the first error, and of the outcome
alone. Out: best-of-N and step AUC of each, against what its labels cost. Hard and soft:
Wang et al. 2023, arXiv 2312.08935; binary search: Luo et al. 2024, arXiv 2406.06592.
"""

from typing import Any

import numpy as np

from o1jax.loop.labelling import Labels
from o1jax.loop.reproduce.a3 import (
    AT,
    FEW,
    POLICY,
    SAMPLES,
    SMALL,
    Curves,
    Unverified,
    reward,
    unverified,
)
from o1jax.loop.reproduce.claim import Arm, Check, Claim, Evidence, Findings, Tier
from o1jax.loop.reproduce.verify import Verify, verify
from o1jax.statistics import bootstrap_interval, paired_bootstrap

ROLLOUTS = 8
# Behind an error all continuations fail too, which is a label like any other; a binary
# search knows nothing there.
LABELS = {
    "exact": Labels(),  # the task's own
    "hard": Labels("rollouts", ROLLOUTS, hard=True, after_error="keep"),
    "soft": Labels("rollouts", ROLLOUTS, after_error="keep"),
    "binary": Labels("binary", ROLLOUTS),
}
ORM = "outcome"
# Chosen before the seeds that are reported were run.
SLACK = 0.03  # accuracy
CHEAPER = 3.0  # times, in rollouts
AUC = 0.02


def _arms() -> tuple[Arm, ...]:
    """A soft label is the chance to succeed from there: the last one says it all."""
    arms = [Arm(POLICY, Unverified(), unverified)]
    for name, labels in LABELS.items():
        how = "last" if name == "soft" else "product"
        method = Verify(reward("steps", FEW, labels=labels), SAMPLES, how=how)
        arms.append(Arm(name, method, verify))
    arms.append(Arm(ORM, Verify(reward("outcome", FEW), SAMPLES), verify))
    return tuple(arms)


def analyse(evidence: Evidence) -> Findings:
    """Checks of the shape, then accuracy and what it cost."""
    curves = Curves(evidence)
    checks = [
        _above(curves, "hard"),
        _above(curves, "soft"),
        _alike(curves),
        _near_exact(curves),
        _cheaper(evidence),
    ]
    return Findings(checks, [_table(evidence, curves), _curves(curves)])


def _difference(curves: Curves, a: str, b: str) -> Any:
    return paired_bootstrap(curves.at(a, AT), curves.at(b, AT))


def _text(curves: Curves, a: str, b: str) -> str:
    found = _difference(curves, a, b)
    return (
        f"{curves.at(a, AT).mean():.3f} and {curves.at(b, AT).mean():.3f}: "
        f"{found.difference:+.3f} [{found.lo:+.3f}, {found.hi:+.3f}]"
    )


def _above(curves: Curves, name: str) -> Check:
    return Check(
        f"best of {AT}: {name} labels of {ROLLOUTS} rollouts above outcomes (resolved)",
        _difference(curves, name, ORM).lo > 0,
        _text(curves, name, ORM),
    )


def _alike(curves: Curves) -> Check:
    found = _difference(curves, "hard", "soft")
    return Check(
        f"best of {AT}: hard and soft labels within {SLACK} of each other",
        abs(found.difference) <= SLACK,
        _text(curves, "hard", "soft"),
    )


def _near_exact(curves: Curves) -> Check:
    found = _difference(curves, "exact", "hard")
    return Check(
        f"best of {AT}: hard labels at most {SLACK} below exact ones",
        found.difference <= SLACK,
        _text(curves, "exact", "hard"),
    )


def _mean(evidence: Evidence, arm: str, name: str) -> float:
    """Of a fact over seeds; 0 where it is none of the arm."""
    facts = [{**p.facts, **p.facts["judged"]} for p in evidence.arms[arm]]
    return float(np.mean([fact.get(name, 0.0) for fact in facts]))


def _cheaper(evidence: Evidence) -> Check:
    every, binary = (_mean(evidence, a, "rollouts") for a in ("hard", "binary"))
    aucs = [_mean(evidence, a, "step_auc") for a in ("hard", "binary")]
    return Check(
        f"binary search: at least {CHEAPER:g} times fewer rollouts than every step, at "
        f"a step AUC at most {AUC} lower",
        bool(every >= CHEAPER * binary and aucs[1] >= aucs[0] - AUC),
        f"{binary:,.0f} and {every:,.0f} rollouts, AUC {aucs[1]:.4f} and {aucs[0]:.4f}",
    )


def _table(evidence: Evidence, curves: Curves) -> dict[str, Any]:
    rows, series = [], []
    for name in (*LABELS, ORM):
        found = list(bootstrap_interval(curves.at(name, AT)))
        data, training = (
            _mean(evidence, name, f) for f in ("data_flops", "train_flops")
        )
        facts = ("labels", "rollouts", "step_auc", "ece", "first_error_f1")
        measured = [_mean(evidence, name, fact) for fact in facts]
        gap = _difference(curves, name, ORM)
        rows.append([name, *measured, found, list(gap[:3]), data, training])
        value, lo, hi = found
        point = {"x": [data + training], "y": [value], "lo": [lo], "hi": [hi]}
        series.append({"label": name, **point})
    return {
        "name": "What labels are worth",
        "text": f"{FEW:,} traces for all. FLOP of data: of sampling the traces and of "
        "labelling; exact labels are the task's and cost none. Above outcomes: paired "
        "problem by problem.",
        "table": {
            "columns": [
                "labels",
                "number",
                "rollouts",
                "step AUC",
                "ECE",
                "first-error F1",
                f"best of {AT}",
                "above outcomes",
                "FLOP of data",
                "FLOP of training",
            ],
            "rows": rows,
        },
        "figure": {
            "kind": "coverage",
            "title": "Accuracy against the compute of a reward model",
            "x_label": "FLOP of data and training",
            "y_label": f"best of {AT}",
            "series": series,
        },
    }


def _curves(curves: Curves) -> dict[str, Any]:
    names = ("oracle", "exact", "hard", "soft", "binary", ORM, "majority")
    found = {
        name: [bootstrap_interval(curves.at(name, k)) for k in curves.k]
        for name in names
    }
    rows = [
        [int(k), *(list(found[name][i]) for name in names)]
        for i, k in enumerate(curves.k)
        if k >= SMALL
    ]
    series = []
    for name in names:
        y, lo, hi = (list(part) for part in zip(*found[name]))
        one = {"label": name, "x": curves.k.tolist(), "y": y, "lo": lo, "hi": hi}
        series.append(one)
    return {
        "name": "Best of N",
        "text": "Among the same 256 samples; 95 % bootstrap over seeds and problems.",
        "table": {"columns": ["N", *names], "rows": rows},
        "figure": {
            "kind": "coverage",
            "title": f"Reward models of {FEW:,} traces",
            "x_label": "samples a problem, N",
            "y_label": "accuracy",
            "series": series,
        },
    }


CLAIM = Claim(
    name="A4",
    statement="Step labels from rollouts train a reward model as labels of people do",
    source="2312.08935",
    shape="step labels from rollouts lead outcome labels by about 4 points in "
    "best-of-N on MATH, hard and soft ones alike; a binary search for the first error "
    "gives 75 times the labels for the same compute (arXiv 2406.06592).",
    tiers={
        "nano": Tier(experiment="claims/chain8.gin", arms=_arms(), problems=200),
    },
    analyse=analyse,
)
