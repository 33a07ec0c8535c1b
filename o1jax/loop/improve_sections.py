"""The part of a report that speaks of policies that improved themselves.

In: the records of Improve stages. Out: one section as inspect/report.py has them: what
each stage gained on held-out questions, and the curves of all rounds.
"""

from collections.abc import Mapping, Sequence
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
    adapted = any("learning" in record.results for record in records)
    twice = any("delta" in record.results["after"] for record in records)
    columns += ["parameters that learn"] * adapted
    columns += ["second attempt - first, before", "after"] * twice
    rows = []
    for record in records:
        r = record.results
        before, after = r["before"], r["after"]
        row = [record.name, r["rounds"], r["updates"]]
        for k in (1, most):
            row += [before.get(f"pass@{k}"), after.get(f"pass@{k}")]
        row.append(record.seconds)
        if adapted:
            row.append(_learning(r))
        if twice:
            row += [before.get("delta"), after.get("delta")]
        rows.append(row)
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


def _learning(results: Mapping[str, Any]) -> str:
    """The number of parameters that learn, where adapters do."""
    if "learning" not in results:
        return "all"
    learning, parameters = results["learning"], results["parameters"]
    return f"{learning:,} ({100 * learning / parameters:.1f} %)"


def _k(record: StageRecord) -> int:
    """The largest k of its pass@k."""
    before = record.results["before"]
    return max(int(x.removeprefix("pass@")) for x in before if x.startswith("pass@"))
