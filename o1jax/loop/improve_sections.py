"""The part of a report that speaks of policies that improved themselves.

In: the records of Improve stages. Out: one section as inspect/report.py has them: what
each stage gained on held-out questions, and the curves of all rounds.
"""

from collections.abc import Sequence
from typing import Any

from o1jax.loop.workdir import StageRecord

CURVES = (  # metric, label, axis
    ("pass@1", "samples", "pass@1"),
    ("held_out_pass@1", "held-out", "pass@1"),
    ("kl", "of a response, from the first policy", "KL (nats)"),
    ("entropy", "of a token", "entropy (nats)"),
)


def section(records: Sequence[StageRecord], begin: int) -> dict[str, Any]:
    """Before and after, with 95 % intervals, and the curves; begin: steps before."""
    most = max(_k(record) for record in records)
    columns = ["stage", "rounds", "updates", "pass@1 before", "after"]
    columns += [f"pass@{most} before", "after", "seconds"]
    rows = []
    for record in records:
        r = record.results
        before, after = r["before"], r["after"]
        row = [record.name, r["rounds"], r["updates"]]
        for k in (1, most):
            row += [before.get(f"pass@{k}"), after.get(f"pass@{k}")]
        rows.append([*row, record.seconds])
    return {
        "name": "Improvement",
        "text": "Chances of being right on validation questions before and after each "
        "stage, 95 % intervals over questions (bootstrap). The curves are of each "
        "round's own samples or trees, of training questions that come once.",
        "table": {"columns": columns, "rows": rows},
        "figure": {
            "kind": "curve",
            "title": "Improvement",
            "x_label": "round",
            "origin": begin,
            "series": [
                {"metric": f"improve_{name}", "label": label, "y_label": axis}
                for name, label, axis in CURVES
            ],
        },
    }


def _k(record: StageRecord) -> int:
    """The largest k of its pass@k."""
    before = record.results["before"]
    return max(int(x.removeprefix("pass@")) for x in before if x.startswith("pass@"))
