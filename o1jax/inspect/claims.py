"""The index of all claims: results/*/results.json -> results/README.md.

In: what `o1jax reproduce` left in a folder. Out: a table with a line a claim, made
afresh each time.
"""

import json
import re
from pathlib import Path
from typing import Any

from o1jax.inspect.report import duration, markdown_table

HEAD = """# Claims, reproduced

Each folder holds the report, the figure, results.json and the prediction for every
problem. A check is about the published shape, not the absolute number; one that failed
is counted as failed here and shown with its numbers in the report. `o1jax reproduce`
rebuilds this page.
"""
COLUMNS = ["claim", "statement", "tier", "seeds", "checks", "date", "time", "device"]


def write_index(results: Path) -> Path:
    """Writes and returns results/README.md. ValueError for a file that is not JSON."""
    found = []
    for file in results.glob("*/results.json"):
        try:
            content = json.loads(file.read_text())
        except ValueError as error:
            raise ValueError(f"{file} is not JSON: {error}") from None
        if "claim" in content:
            found.append((_number(content["claim"]), _row(file, content)))
    rows = [row for _, row in sorted(found, key=lambda pair: pair[0])]
    index = results / "README.md"
    partial = index.with_name(f".{index.name}.partial")
    partial.write_text(f"{HEAD}\n{markdown_table(COLUMNS, rows)}\n")
    partial.replace(index)
    return index


def _row(file: Path, content: dict[str, Any]) -> list[Any]:
    passed, failed = content["passed"], content["failed"]
    checks = f"{passed} passed" + (f", **{failed} failed**" if failed else "")
    return [
        f"[{content['claim']}]({file.parent.name}/report.md)",
        f"{content['statement']} (arXiv {content['source']})",
        content["tier"],
        content["seeds"],
        checks,
        content["date"],
        duration(content["seconds"]),
        content["device"],
    ]


def _number(claim: str) -> tuple[str, int]:
    """A2 before A10."""
    letters, digits = re.fullmatch(r"(\D*)(\d*).*", claim).groups()
    return letters, int(digits or 0)
