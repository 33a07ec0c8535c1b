"""What the reports of claims on learning share: their tables and curves.

In: evidence whose arms are `learned`. Out: sections of a report, and checks that two
arms differ. All intervals are paired bootstraps over seeds and problems.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from o1jax.loop.reproduce.claim import Check, Evidence
from o1jax.loop.reproduce.compare import bar_series
from o1jax.loop.reproduce.learned import covered, curve, fact, voted
from o1jax.statistics import Difference, bootstrap_interval, paired_bootstrap

KS = (1, 16, 64)
VOTES = 16
LEARNING = ("train", "rollout", "search", "reference", "critic", "reward")


def lead(evidence: Evidence, a: str, b: str, k: int = 1) -> Difference:
    """Of arm a over arm b in pass@k."""
    return paired_bootstrap(covered(evidence, a, k), covered(evidence, b, k))


def vote_lead(evidence: Evidence, a: str, b: str) -> Difference:
    """The same in majority of VOTES."""
    return paired_bootstrap(voted(evidence, a, VOTES), voted(evidence, b, VOTES))


def above(
    evidence: Evidence, a: str, b: str, *, least: float = 0.0, k: int = 1
) -> Check:
    """a is above b in pass@k, resolved, and by `least` at least."""
    found = lead(evidence, a, b, k)
    by = f" by at least {least}" if least else ""
    return Check(
        f"pass@{k}: {a} above {b}{by} (resolved)",
        found.lo > 0 and found.difference >= least,
        between(covered(evidence, a, k), covered(evidence, b, k)),
    )


def between(a: np.ndarray, b: np.ndarray) -> str:
    """Two means and their difference, in words."""
    found = paired_bootstrap(a, b)
    return (
        f"{a.mean():.3f} and {b.mean():.3f}: {found.difference:+.3f} "
        f"[{found.lo:+.3f}, {found.hi:+.3f}]"
    )


def of_seeds(values: Sequence[float], digits: int = 3) -> str:
    """A number a seed."""
    return ", ".join(f"{value:.{digits}f}" for value in values)


def tested(evidence: Evidence, arms: Sequence[str]) -> dict[str, Any]:
    """Section: what each arm's policy does with test problems."""
    rows = []
    for arm in arms:
        row = [list(bootstrap_interval(covered(evidence, arm, k))) for k in KS]
        vote = list(bootstrap_interval(voted(evidence, arm, VOTES)))
        rows.append([arm, *row, vote])
    columns = ["policy", *(f"pass@{k}" for k in KS), f"majority@{VOTES}"]
    return {
        "name": "The policies, tested",
        "text": "Of 64 samples of each test problem at temperature 1, unbiased, with "
        "a 95 % bootstrap interval over seeds and problems.",
        "table": {"columns": columns, "rows": rows},
    }


def differences(
    evidence: Evidence,
    pairs: Sequence[tuple[str, str]],
    *,
    name: str = "Differences",
    text: str = "",
) -> dict[str, Any]:
    """Section: a - b for pairs of arms."""
    rows = []
    for a, b in pairs:
        found = [lead(evidence, a, b, k) for k in KS] + [vote_lead(evidence, a, b)]
        first = found[0]
        better = (a if first.difference > 0 else b) if first.resolved else NONE
        rows.append([a, b, *(list(d[:3]) for d in found), better])
    columns = [f"pass@{k}" for k in KS] + [f"majority@{VOTES}", "pass@1 is better"]
    return {
        "name": name,
        "text": (text + " " if text else "")
        + "a - b, paired problem by problem; not resolved where the interval holds 0.",
        "table": {"columns": ["a", "b", *columns], "rows": rows},
    }


NONE = "not resolved"


def costs(
    evidence: Evidence, rates: Mapping[str, float], *, text: str = ""
) -> dict[str, Any]:
    """Section: what the learning cost, means over seeds; rates: learning rates."""
    rows = []
    for arm, predictions in evidence.arms.items():
        flops = {
            kind: float(np.mean([p.facts["flops"].get(kind, 0) for p in predictions]))
            for kind in LEARNING
        }
        data = flops["rollout"] + flops["search"] + flops["reward"]
        read = flops["reference"] + flops["critic"]
        stopped = sum(bool(p.facts["stopped"]) for p in predictions)
        means = [float(fact(evidence, arm, n).mean()) for n in ("generated", "updates")]
        row = [arm, rates.get(arm), *means, data, read, flops["train"], stopped]
        rows.append(row)
    columns = ["generated tokens", "updates", "FLOP of data", "FLOP of reading"]
    return {
        "name": "What the learning cost",
        "text": text
        + " Means over seeds. Reading: reference and critic. Stopped: seeds on which "
        "numbers were none.",
        "table": {
            "columns": ["arm", "learning rate", *columns, "FLOP of updates", "stopped"],
            "rows": rows,
        },
    }


def curves(
    evidence: Evidence,
    arms: Sequence[str],
    metric: str,
    *,
    title: str,
    y_label: str,
    window: int = 5,
) -> dict[str, Any]:
    """Figure: a metric against rounds, the mean over seeds of `window` rounds each."""
    series = []
    for arm in arms:
        each = curve(evidence, arm, metric)
        count = each.shape[1] // window
        y = each[:, : count * window].reshape(len(each), count, window).mean(2).mean(0)
        x = (np.arange(count) + 0.5) * window
        y = [None if np.isnan(v) else float(v) for v in y]
        series.append({"label": arm, "x": x.tolist(), "y": y})
    return {
        "kind": "curve",
        "title": title,
        "x_label": "round",
        "y_label": y_label,
        "series": series,
    }


def bars(
    evidence: Evidence, arms: Sequence[str], *, title: str, ks: Sequence[int] = KS
) -> dict[str, Any]:
    """Figure: pass@k of each arm, side by side."""
    interval = lambda arm, k: bootstrap_interval(covered(evidence, arm, k))
    series = bar_series({arm: [interval(arm, k) for k in ks] for arm in arms})
    return {
        "kind": "bars",
        "title": title,
        "categories": [f"pass@{k}" for k in ks],
        "x_label": "",
        "y_label": "right, chance",
        "series": series,
    }
