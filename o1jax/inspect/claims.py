"""The index of all claims: results/*/results.json -> results/README.md.

In: what `o1jax reproduce` left in a folder. Out: a table with a line a claim, and below
it what was published and what was found, made afresh each time.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from o1jax.inspect.page import write_whole
from o1jax.inspect.report import duration, markdown_table, quantity

HEAD = """# Claims, reproduced

Each folder holds the report, the figure, results.json and the prediction for every
problem. A check is about the published shape, not the absolute number; one that failed
is counted as failed here and shown with its numbers. `o1jax reproduce` rebuilds this
page, `o1jax reproduce --page` one with the figures in it.
"""
COLUMNS = ["claim", "statement", "tier", "seeds", "checks", "date", "time", "FLOP"]
COLUMNS += ["device"]


class Found(NamedTuple):
    """A claim that was reproduced."""

    folder: Path
    content: Mapping[str, Any]  # its results.json

    @property
    def flops(self) -> float:
        """All of them: policies are counted in each claim that uses them."""
        ledger = self.content.get("ledger", ())
        return float(sum(row["flops"] for row in ledger if row["kind"] != "total"))

    @property
    def published(self) -> str:
        """The shape that is claimed."""
        text = next(
            (s["text"] for s in self.content["sections"] if s["name"] == "The claim"),
            "",
        )
        return text.partition("): ")[2].partition("\n\n")[0]

    @property
    def checks(self) -> str:
        """How many passed and failed."""
        passed, failed = self.content["passed"], self.content["failed"]
        return f"{passed} passed" + (f", **{failed} failed**" if failed else "")


def read_claims(results: Path) -> list[Found]:
    """All that are in a folder, in order. ValueError for a file that is not JSON."""
    found = []
    for file in results.glob("*/results.json"):
        try:
            content = json.loads(file.read_text())
        except ValueError as error:
            raise ValueError(f"{file} is not JSON: {error}") from None
        if "claim" in content:
            found.append(Found(file.parent, content))
    return sorted(found, key=lambda one: _number(one.content["claim"]))


def write_index(results: Path) -> Path:
    """Writes and returns results/README.md. ValueError for a file that is not JSON."""
    found = read_claims(results)
    table = markdown_table(COLUMNS, [_row(one) for one in found])
    text = "\n".join([HEAD, f"{table}\n", *map(_part, found)])
    return write_whole(results / "README.md", text)


def _row(one: Found) -> list[Any]:
    content = one.content
    return [
        f"[{content['claim']}]({one.folder.name}/report.md)",
        f"{content['statement']} (arXiv {content['source']})",
        content["tier"],
        content["seeds"],
        one.checks,
        content["date"],
        duration(content["seconds"]),
        quantity(one.flops) if one.flops else None,
        content["device"],
    ]


def _part(one: Found) -> str:
    """What was published, each check with what was found, and the figure."""
    content, name = one.content, one.folder.name
    lines = [f"## {content['claim']}", "", f"Published: {one.published}", ""]
    for check in content["checks"]:
        result = "passed" if check["passed"] else "**FAILED**"
        lines.append(f"- {result}: {check['name']}: {check['found']}")
    if (one.folder / "report.png").exists():
        lines += ["", f"[figure]({name}/report.png)"]
    return "\n".join(lines) + "\n"


def _number(claim: str) -> tuple[str, int, str]:
    """A2 before A10, and A13 before A13V."""
    letters, digits, rest = re.fullmatch(r"(\D*)(\d*)(.*)", claim).groups()
    return letters, int(digits or 0), rest
