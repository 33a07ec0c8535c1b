"""`results.json` and `metrics.jsonl` of a workdir -> `report.md` and `report.png`.

results.json, all keys optional, is what the parts of a run add their sections to:

    {"title", "command", "device", "config_fingerprint", "seconds",
     "sections": [{"name", "text", "table", "figure"}],
     "ledger": [{"kind", "tokens", "flops", "seconds"}]}        # Ledger.table()

text is Markdown. table is {"columns": [names], "rows": [[cell]]}; a cell is text, a
number, null, or [value, lo, hi]. figure is one, or a list, of
    {"kind", "title", "x_label", "y_label", "series"}
with series [{"label", "x", "y", "lo", "hi"}] of equally long lists, null for a gap; and
by kind
    curve     a series' own "y_label": a plot for each, stacked over a common x; or its
              "metric" instead of x and y: that metric of metrics.jsonl against step,
              counted from the figure's "origin" (optional)
    coverage  a series' "fit": {"a", "b", "r2"}, drawn as exp(a x^b); x is logarithmic
    bars      the figure's "categories" in place of x
    reliability  x and y the mean probability and label of each bin, a series' "count"
              the size of each, and its "ece" (optional), named in the legend
    overoptimisation  x the KL in nats, a series' "role" "gold" or "proxy", and own
              "y_label" as in curve; series of one label share a colour; gold's "fit":
              {"form": "best_of_n" | "rl", "alpha", "beta", "start", "peak"}, drawn as
              start + d (alpha - beta d) or d (alpha - beta log d), d = sqrt(x), start
              the gold at 0; peak, a d, may be null
What has no data is left out. A new kind is a function in plots.FIGURES.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MISSING = "–"  # noqa: RUF001


def write_report(workdir: str | Path) -> Path:
    """Write both files, each at once, and return the path of report.md.

    ValueError if results.json is missing or malformed; it names the section.
    """
    from o1jax.inspect.plots import draw  # matplotlib is imported here

    workdir = Path(workdir)
    results = _read_results(workdir / "results.json")
    metrics = read_metrics(workdir / "metrics.jsonl")
    sections = [s for s in results.get("sections", []) if _has_data(s, metrics)]
    figures = [
        {"title": section.get("name", ""), **figure}
        for section in sections
        for figure in _figures(section, metrics)
    ]
    text = _markdown(results, sections, bool(figures))
    if figures:
        _replace(workdir / "report.png", draw(figures))
    else:
        (workdir / "report.png").unlink(missing_ok=True)
    _replace(workdir / "report.md", text.encode())
    return workdir / "report.md"


def read_metrics(path: Path) -> dict[str, list[tuple[int, float | None]]]:
    """(step, value) of every metric, by step. Lines of one step are merged.

    A last line cut short by a kill is passed over; a missing file is no metrics.
    """
    steps: dict[int, dict[str, float | None]] = {}
    lines = path.read_text().splitlines() if path.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            steps.setdefault(row.pop("step"), {}).update(row)
        except (ValueError, AttributeError, KeyError):
            if number < len(lines):
                raise ValueError(f"{path}:{number}: not a line of metrics") from None
    series: dict[str, list[tuple[int, float | None]]] = {}
    for step in sorted(steps):
        for name, value in steps[step].items():
            series.setdefault(name, []).append((step, value))
    return series


def _read_results(path: Path) -> dict[str, Any]:
    try:
        results = json.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"{path} is missing: nothing to report") from None
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(results, dict):
        raise ValueError(f"{path} must hold an object")
    return results


def _figures(section: Mapping, metrics: Mapping) -> list[dict]:
    """A section's figures, with the data of named metrics put in; empty ones go."""
    figures = section.get("figure") or []
    figures = [figures] if isinstance(figures, Mapping) else figures
    filled = []
    for figure in figures:
        series = []
        for one in figure.get("series", []):
            if "metric" in one:
                points = metrics.get(one["metric"], [])
                origin = figure.get("origin", 0)
                x, y = [p[0] - origin for p in points], [p[1] for p in points]
                one = {"label": one["metric"], **one, "x": x, "y": y}
            y = one.get("y") or []
            lists = {
                "x": figure.get("categories", one.get("x", [])),
                "lo": one.get("lo") or y,
                "hi": one.get("hi") or y,
                "count": one.get("count") or y,
            }
            for name, values in lists.items():
                if y and len(values) != len(y):
                    raise ValueError(
                        f"section {section.get('name')!r}: series {one.get('label')!r} "
                        f"has {len(values)} {name} for {len(y)} y"
                    )
            if any(value is not None for value in y):
                series.append(one)
        if series:
            filled.append({**figure, "series": series})
    return filled


def _has_data(section: Mapping, metrics: Mapping) -> bool:
    table = section.get("table") or {}
    return bool(section.get("text") or table.get("rows") or _figures(section, metrics))


def _markdown(results: Mapping, sections: Sequence[Mapping], picture: bool) -> str:
    parts = [f"# {results.get('title') or 'Report'}"]
    if results.get("command"):
        parts.append(f"```\n{results['command']}\n```")
    facts = []
    if results.get("device"):
        facts.append(f"Device: {results['device']}")
    if results.get("seconds") is not None:
        facts.append(f"Time: {duration(results['seconds'])}")
    if results.get("config_fingerprint"):
        facts.append(f"Config: `{results['config_fingerprint']}`")
    if facts:
        parts.append("  \n".join(facts))
    if picture:
        parts.append("![Figures of the sections below](report.png)")
    for section in sections:
        parts.append(f"## {section.get('name', '')}")
        if section.get("text"):
            parts.append(section["text"])
        table = section.get("table") or {}
        if table.get("rows"):
            parts.append(markdown_table(table["columns"], table["rows"]))
        if not section.get("text") and not table.get("rows"):
            parts.append("See the picture above.")
    if results.get("ledger"):
        parts.append("## Compute")
        parts.append(_ledger_table(results["ledger"]))
    return "\n\n".join(parts) + "\n"


def _ledger_table(ledger: Sequence[Mapping]) -> str:
    rows = []
    for row in ledger:
        flops, seconds = row.get("flops") or 0, row.get("seconds") or 0
        rate = quantity(flops / seconds) if flops and seconds else None
        rows.append(
            [
                row["kind"],
                round(row.get("tokens") or 0) or None,
                _Text(quantity(flops)) if flops else None,
                _Text(f"{seconds:,.1f}") if seconds else None,
                _Text(rate) if rate else None,
            ]
        )
    return markdown_table(["kind", "tokens", "FLOP", "seconds", "FLOP/s"], rows)


def evaluation_table(results: Mapping[str, Any]) -> str:
    """What `o1jax eval` prints, of what loop/evaluate.py measured."""
    count = f"{results['problems']} questions, {results['samples']} samples each"
    rows = [["greedy", results["greedy"], None]]
    for k, right, voted in zip(
        results["k"], results["pass_at_k"], results["majority_at_k"]
    ):
        rows.append([f"k = {k}", right, voted])
    text = f"{count}\n\n" + markdown_table(["", "pass@k", "majority@k"], rows)
    if shares := results.get("texts"):
        rows = [[name.removeprefix("text_"), share] for name, share in shares.items()]
        text += "\n\n" + markdown_table(["samples show", "share"], rows)
    return text


class _Text(str):
    """A number already written out; it is aligned as a number."""


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table, padded to be read as text too; numbers are right-aligned.

    ValueError for a row whose length is not that of the columns.
    """
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(f"row {row} has {len(row)} cells, not {len(columns)}")
    right = [
        all(_is_number(row[i]) for row in rows if row[i] is not None)
        for i in range(len(columns))
    ]
    cells = [
        [str(c) for c in columns],
        *([format_cell(x) for x in row] for row in rows),
    ]
    widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(columns))]

    def line(row: Sequence[str]) -> str:
        padded = (
            cell.rjust(width) if r else cell.ljust(width)
            for cell, width, r in zip(row, widths, right)
        )
        return "| " + " | ".join(padded) + " |"

    rule = ["-" * (w - 1) + ":" if r else "-" * w for w, r in zip(widths, right)]
    return "\n".join([line(cells[0]), line(rule), *map(line, cells[1:])])


def _is_number(cell: Any) -> bool:
    return isinstance(cell, int | float | list | tuple | _Text)


def format_cell(cell: Any) -> str:
    """0.412, 12,345, 1.2e-05, `0.412 [0.371, 0.455]`, text, or a dash for nothing."""
    if cell is None:
        return MISSING
    if isinstance(cell, list | tuple):
        value, lo, hi = map(format_cell, cell)
        return f"{value} [{lo}, {hi}]"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, int):
        return f"{cell:,}"
    if isinstance(cell, float):
        if cell == 0 or 1e-3 <= abs(cell) < 1e3:
            return f"{cell:.3f}"
        return f"{cell:,.0f}" if 1e3 <= abs(cell) < 1e9 else f"{cell:.3g}"
    return str(cell).replace("|", "\\|").replace("\n", " ")


def quantity(x: float) -> str:
    """Three digits with a prefix: 1.23 G."""
    for prefix, size in zip("EPTGMk", (1e18, 1e15, 1e12, 1e9, 1e6, 1e3)):
        if x >= size:
            return f"{x / size:.3g} {prefix}"
    return f"{x:.3g}"


def duration(seconds: float) -> str:
    """8.4 s, 2 min 05 s, 3 h 07 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"


def _replace(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)
