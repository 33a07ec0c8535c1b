"""What the reports of claims on training texts share: their tables and checks.

In: evidence whose arms are `taught`. Out: sections of a report, and checks that two
arms differ. All intervals are paired bootstraps over seeds and problems.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from o1jax.loop.reproduce.claim import Check, Evidence
from o1jax.loop.reproduce.learned import fact
from o1jax.loop.reproduce.learned_report import NONE, between
from o1jax.statistics import bootstrap_interval, paired_bootstrap

KINDS = {
    "greedy": "greedy",
    "sampled": "pass@1",
    "harder": "greedy, harder",
    "harder_right": "pass@1, harder",
}


def scores(evidence: Evidence, arm: str, kind: str) -> np.ndarray:
    """f64[S, P]: a greedy answer is right or wrong, of samples the part that is."""
    if kind == "sampled":
        return evidence.accuracy(arm)
    found = evidence.column(arm, kind).astype(float)
    return found / evidence.column(arm, "samples") if kind == "harder_right" else found


def above(evidence: Evidence, a: str, b: str, kind: str) -> Check:
    """a is above b, resolved."""
    found = scores(evidence, a, kind), scores(evidence, b, kind)
    return Check(
        f"{KINDS[kind]}: {a} above {b} (resolved)",
        paired_bootstrap(*found).lo > 0,
        between(*found),
    )


def not_below(evidence: Evidence, a: str, b: str, kind: str, slack: float) -> Check:
    """a is nowhere in its interval below b by more than `slack`, and right at times."""
    found = scores(evidence, a, kind), scores(evidence, b, kind)
    return Check(
        f"{KINDS[kind]}: {a} not below {b} by more than {slack:g}, and not 0",
        bool(paired_bootstrap(*found).lo >= -slack and found[0].any()),
        between(*found),
    )


def equal_tokens(evidence: Evidence, arms: Sequence[str]) -> Check:
    """A comparison at equal tokens must be one."""
    read = {arm: fact(evidence, arm, "read") for arm in arms}
    first = read[arms[0]]
    return Check(
        "training tokens are equal, to the token",
        all(np.array_equal(tokens, first) for tokens in read.values()),
        ", ".join(f"{arm} {tokens[0]:,.0f}" for arm, tokens in read.items()),
    )


def tested(
    evidence: Evidence, arms: Sequence[str], kinds: Sequence[str]
) -> dict[str, Any]:
    """Section: what each arm's policy does with test problems, and what it read."""
    rows, series = [], []
    for arm in arms:
        found = [[*bootstrap_interval(scores(evidence, arm, kind))] for kind in kinds]
        words = float(evidence.column(arm, "words").mean())
        flops = float(fact(evidence, arm, "text_flops").mean())
        rows.append([arm, *found, words, fact(evidence, arm, "steps").mean(), flops])
        y, lo, hi = (list(part) for part in zip(*found))
        series.append({"label": arm, "y": y, "lo": lo, "hi": hi})
    heads = [KINDS[kind] for kind in kinds]
    columns = ["arm", *heads, "tokens, greedy", "updates", "FLOP of reading"]
    return {
        "name": "The policies, tested",
        "text": f"{evidence.tier.problems} test problems a seed, with a 95 % bootstrap "
        "interval over seeds and problems; samples at temperature 1.",
        "table": {"columns": columns, "rows": rows},
        "figure": {
            "kind": "bars",
            "title": "Test problems",
            "categories": heads,
            "x_label": "",
            "y_label": "right",
            "series": series,
        },
    }


def differences(
    evidence: Evidence, pairs: Sequence[tuple[str, str]], kinds: Sequence[str]
) -> dict[str, Any]:
    """Section: a - b for pairs of arms; the first kind says which is better."""
    rows = []
    for a, b in pairs:
        found = [
            paired_bootstrap(scores(evidence, a, kind), scores(evidence, b, kind))
            for kind in kinds
        ]
        first = found[0]
        better = (a if first.difference > 0 else b) if first.resolved else NONE
        rows.append([a, b, *(list(d[:3]) for d in found), better])
    columns = ["a", "b", *(KINDS[kind] for kind in kinds), "better at the first"]
    return {
        "name": "Differences",
        "text": "a - b, paired problem by problem; not resolved where the interval "
        "holds 0.",
        "table": {"columns": columns, "rows": rows},
    }


def tried(
    files: str, text: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]
) -> dict[str, Any]:
    """Section: other settings, which are no part of the evidence; seed 0 on a CPU."""
    return {
        "name": "Settings tried",
        "text": f"`o1jax run` of {files}, seed 0, two CPU cores, 200 test questions. "
        f"{text}",
        "table": {"columns": list(columns), "rows": [list(row) for row in rows]},
    }


def shown(
    evidence: Evidence, arms: Sequence[str], name: str, *, title: str
) -> dict[str, Any]:
    """Section: the meter's shares, a fact of each arm; means over seeds."""
    found = {arm: [one.facts[name] for one in evidence.arms[arm]] for arm in arms}
    words = dict.fromkeys(word for of in found.values() for one in of for word in one)
    rows = []
    for arm, of in found.items():
        values = [[one[word] for one in of if word in one] for word in words]
        rows.append([arm, *(float(np.mean(v)) if v else None for v in values)])
    columns = ["arm", *(word.removeprefix("text_") for word in words)]
    return {
        "name": title,
        "text": "Of samples, means over seeds; what each is: docs/behaviours.md.",
        "table": {"columns": columns, "rows": rows},
    }
