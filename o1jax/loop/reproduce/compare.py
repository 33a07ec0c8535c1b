"""Tables of differences between arms, which say what is not resolved.

In: scores [S, P] of arms on the same problems of the same seeds. Out: a section of the
report. The bootstrap is paired and hierarchical: seeds are drawn with replacement, then
problems within each drawn seed, and both arms are read at what was drawn. With three
seeds it understates the variance between seeds by a factor of 2/3.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from o1jax.loop.reproduce.claim import Evidence
from o1jax.statistics import Difference, paired_bootstrap

NOT_RESOLVED = "not resolved"
COLUMNS = ["a", "b", "a - b", "better", "tokens of a / of b", "FLOP of a / of b"]


def difference(evidence: Evidence, a: str, b: str) -> Difference:
    """Accuracy of arm a less that of arm b, with its 95 % interval."""
    return paired_bootstrap(evidence.accuracy(a), evidence.accuracy(b))


def difference_table(
    evidence: Evidence, pairs: Sequence[tuple[str, str]], *, name: str = "Differences"
) -> dict[str, Any]:
    """A row for each pair of arms; the ratios show whether the budgets are equal."""
    rows = []
    for a, b in pairs:
        found = difference(evidence, a, b)
        better = (a if found.difference > 0 else b) if found.resolved else NOT_RESOLVED
        ratios = [_ratio(evidence, a, b, column) for column in ("tokens", "flops")]
        rows.append([a, b, list(found[:3]), better, *ratios])
    return {
        "name": name,
        "text": "Difference in accuracy, with a 95 % interval of a paired bootstrap "
        "over seeds and problems within a seed; *not resolved* where it holds 0.",
        "table": {"columns": COLUMNS, "rows": rows},
    }


def _ratio(evidence: Evidence, a: str, b: str, column: str) -> float | None:
    below = float(np.sum(evidence.column(b, column)))
    return float(np.sum(evidence.column(a, column))) / below if below else None


def bar_series(found: Mapping[str, Sequence[Sequence[float]]]) -> list[dict[str, Any]]:
    """The series of a bar chart; by label, (mean, low, high) of each category."""
    series = []
    for label, intervals in found.items():
        y, lo, hi = (list(part) for part in zip(*intervals))
        series.append({"label": label, "y": y, "lo": lo, "hi": hi})
    return series
