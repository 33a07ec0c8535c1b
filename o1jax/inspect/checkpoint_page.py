"""An inspected checkpoint as one self-contained HTML page, for any browser.

In: an Inspection (checkpoint_report.py). Out: a page with everything in it: problems,
stages, the tree of arrays, statistics with a histogram and the singular values of every
layer, what moved, documents and config. Its tables sort by a click on a column's head
and can be searched. Every text is escaped; by its policy (CSP) nothing runs but the
page's own script, and nothing loads.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path

from o1jax.inspect.checkpoint import Checkpoint
from o1jax.inspect.checkpoint_drawings import bars, curves, histogram
from o1jax.inspect.checkpoint_lines import count, number, span
from o1jax.inspect.checkpoint_report import Diff, Inspection
from o1jax.inspect.checkpoint_stats import OUTLIER, ArrayStats
from o1jax.inspect.checkpoint_text import (
    dead_text,
    facts,
    objects,
)
from o1jax.inspect.checkpoint_tree import Part, array_parts, bytes_text
from o1jax.inspect.page import template, write_whole

Cell = str | tuple[str, float]  # HTML, or HTML and the number that it sorts by


def page(inspection: Inspection) -> str:
    """The page as text."""
    checkpoint = inspection.checkpoint
    parts = [*_problems(inspection), *_stages(inspection)]
    if checkpoint:
        parts += _arrays(checkpoint)
    if inspection.stats is not None:
        parts += _stats(inspection)
    if inspection.diff:
        parts += _diff(inspection.diff)
    if checkpoint:
        parts += _documents(checkpoint)
    title = checkpoint.url if checkpoint else inspection.where
    lines = facts(checkpoint) if checkpoint else ["no step was committed"]
    head = "".join(f"<p>{escape(line)}</p>" for line in lines)
    whole = template("checkpoint_page").replace("<!-- title -->", escape(title))
    before, after = whole.split("<!-- parts -->")
    return f"{before}{head}{''.join(parts)}{after}"


def write_page(file: Path, inspection: Inspection) -> None:
    """Write page(inspection) whole or not at all."""
    write_whole(file, page(inspection))


def _section(title: str, content: Iterable[str], shut: bool = False) -> str:
    opened = "" if shut else " open"
    inside = "".join(content)
    return f"<details{opened}><summary>{escape(title)}</summary>{inside}</details>"


def _table(
    heads: Sequence[str], rows: Sequence[Sequence[Cell]], classes: Sequence[str] = ()
) -> str:
    """A table; a cell with a number is set to the right and sorts by it."""
    body = []
    for index, row in enumerate(rows):
        cells = [
            f'<td class="n" data-n="{cell[1]!r}">{cell[0]}</td>'
            if isinstance(cell, tuple)
            else f"<td>{cell}</td>"
            for cell in row
        ]
        own = f' class="{classes[index]}"' if classes and classes[index] else ""
        body.append(f"<tr{own}>{''.join(cells)}</tr>")
    numeric = [
        ' class="n"' if any(isinstance(cell, tuple) for cell in column) else ""
        for column in zip(*rows)
    ]
    top = "".join(
        f"<th{kind}>{escape(head)}</th>"
        for head, kind in zip(heads, numeric or [""] * len(heads))
    )
    return (
        f'<div class="wide"><table><thead><tr>{top}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _problems(inspection: Inspection) -> Iterator[str]:
    if inspection.problems:
        items = "".join(f"<li>{escape(line)}</li>" for line in inspection.problems)
        title = count(len(inspection.problems), "problem")
        yield f'<div class="bad"><h2>{title}</h2><ul>{items}</ul></div>'


def _stages(inspection: Inspection) -> Iterator[str]:
    rows = [
        [
            escape(stage.name or "."),
            _n(stage.newest.number) if stage.newest else "",
            _n(stage.newest.stored, bytes_text) if stage.newest else "",
            escape(stage.newest.written if stage.newest else "nothing was committed"),
            escape(", ".join(stage.steps)),
            "shown here" if stage.newest is inspection.checkpoint else "",
        ]
        for stage in inspection.stages
    ]
    heads = ["stage", "newest", "on disk", "committed", "steps", ""]
    if rows:
        yield _section("Stages", [_table(heads, rows)])


def _arrays(checkpoint: Checkpoint) -> Iterator[str]:
    parts: list[Part] = list(array_parts(checkpoint))
    heads = ["array", "shape", "dtype", "sharding", "chunks", "bytes", "stored"]
    rows = [
        [f"<code>{escape(p.cells[0])}</code>", *map(escape, p.cells[1:])] for p in parts
    ]
    kinds = {"bold": "head", "red": "broken", "dim": "dim"}
    table = _table(heads, rows, [kinds.get(part.style, "") for part in parts])
    table = table.replace("<table>", '<table class="tree">', 1)
    yield _section(count(len(checkpoint.arrays), "array"), [table])


def _stats(inspection: Inspection) -> Iterator[str]:
    heads = ["array", "magnitudes", "norm", "rms", "mean", "least", "largest", "zeros"]
    heads += ["NaN", "Inf", f"beyond {OUTLIER:.0f} rms", "dead"]
    heads += ["singular values", "largest", "effective rank"]
    rows = [_stats_row(stats) for stats in inspection.stats]
    classes = ["broken" if s.nan or s.inf else "" for s in inspection.stats]
    missing = "".join(
        f"<li>{escape(e.path)}: not measured: {escape(e.reason)}</li>"
        for e in inspection.failed
    )
    note = (
        "Magnitudes: elements by powers of two. Singular values: the leading ones of "
        "each layer, lower bounds by a sketch. Both scales are logarithmic."
    )
    yield _section(
        "Statistics",
        [f"<p>{note}</p>", _table(heads, rows, classes), f"<ul>{missing}</ul>"],
    )


def _stats_row(s: ArrayStats) -> list[Cell]:
    leads = [x.values[0] for x in s.spectra if x.values]
    ranks = [x.effective_rank for x in s.spectra]
    spectra = ["", "", ""]
    if leads:
        full = f"{span(ranks, '.0f')} of {s.spectra[0].full_rank:,}"
        spectra = [
            curves([x.values for x in s.spectra if x.values]),
            (span(leads), max(leads)),
            (full, min(ranks) / s.spectra[0].full_rank),
        ]
    return [
        f"<code>{escape(s.path)}</code>",
        histogram(s.magnitudes),
        *(_n(x, number) for x in (s.norm, s.rms, s.mean, s.least, s.largest)),
        *(_n(x or None) for x in (s.zeros, s.nan, s.inf, s.outliers)),
        (dead_text(s), sum(d.count for d in s.dead)),
        *spectra,
    ]


def _diff(diff: Diff) -> Iterator[str]:
    inside = []
    for title, changes in zip(diff.structure._fields, diff.structure):
        rows = [
            [f"<code>{escape(c.name)}</code>", escape(c.before), escape(c.after)]
            for c in changes
        ]
        if rows:
            inside.append(f"<h3>{title}: {count(len(rows), 'change')}</h3>")
            inside.append(_table(["", "before", "after"], rows))
    rows = [
        [
            f"<code>{escape(m.path)}</code>",
            *(_n(x, number) for x in (m.relative, m.distance, m.largest)),
            _n(m.cosine, lambda x: f"{x:.5f}"),
            bars(m.layers, "layer"),
            _n(m.not_finite or None),
        ]
        for m in diff.moved
    ]
    heads = ["array", "|b-a| / |a|", "|b-a|", "largest", "cosine", "by layer"]
    inside += [
        "<h3>how far each array moved</h3>",
        _table([*heads, "not finite"], rows),
    ]
    inside += [
        f"<p>{escape(e.path)}: not compared: {escape(e.reason)}</p>"
        for e in diff.failed
    ]
    yield _section(f"Compared with {diff.other.url}", inside)


def _documents(checkpoint: Checkpoint) -> Iterator[str]:
    rows = [
        [f"<code>{escape(path)}</code>", escape(text)]
        for path, text in objects(checkpoint.documents)
    ]
    if rows:
        whole = json.dumps(checkpoint.documents, indent=1)
        more = _section("as JSON", [f"<pre>{escape(whole)}</pre>"], shut=True)
        yield _section("Documents", [_table(["", ""], rows), more])
    if checkpoint.config:
        file, text = checkpoint.config
        content = f"<pre>{escape(text)}</pre>"
        yield _section(f"Config: {file}", [content], shut=True)


def _n(x: float | None, form: object = "{:,}".format) -> Cell:
    """A number's cell, or an empty one."""
    return "" if x is None else (escape(form(x)), x)
