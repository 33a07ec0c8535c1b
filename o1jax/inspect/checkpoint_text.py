"""An inspected checkpoint as lines for a terminal.

In: an Inspection (checkpoint_report.py). Out: lines with a style each: where it lies
and who wrote it, its tree of arrays, the optimizer, what else was saved, statistics,
what moved, and every problem. Columns that a narrow screen has no room for are not
drawn.
"""

from collections.abc import Iterator, Sequence
from typing import Any
from unicodedata import category

from rich.cells import cell_len

from o1jax.inspect.checkpoint import Checkpoint
from o1jax.inspect.checkpoint_lines import Line, count, number, span, table
from o1jax.inspect.checkpoint_report import Diff, Inspection
from o1jax.inspect.checkpoint_stats import OUTLIER, ArrayStats
from o1jax.inspect.checkpoint_tree import (
    array_parts,
    bytes_text,
    dtypes_text,
)
from o1jax.inspect.report import quantity
from o1jax.inspect.tree import fit

MOST_MOVED = 20  # lines of what moved; --json and --html have them all
MOST_CHANGES = 30


def lines(
    inspection: Inspection, *, width: int, config: bool = False
) -> Iterator[Line]:
    """All of an inspection; with `config`, the whole text of the run's config.

    No terminal obeys a line: names come from files that anyone may have written.
    """
    for line in _lines(inspection, width, config):
        tame = ("\ufffd" if category(char)[0] == "C" else char for char in line.text)
        yield Line("".join(tame), line.style)


def _lines(inspection: Inspection, width: int, config: bool) -> Iterator[Line]:
    checkpoint = inspection.checkpoint
    if inspection.stages:
        yield from _stages(inspection, width)
        yield Line("")
    if checkpoint:
        yield Line(checkpoint.url, "bold")
        yield from map(Line, facts(checkpoint))
        yield Line("")
        yield from _arrays(checkpoint, width)
        yield from _documents(checkpoint, width)
        yield from _config(checkpoint, config)
    if inspection.stats is not None:
        yield Line("")
        yield from _stats(inspection, width)
    if inspection.diff:
        yield Line("")
        yield from _diff(inspection.diff, width)
    if inspection.problems:
        yield Line("")
        yield Line(count(len(inspection.problems), "problem"), "bold red")
        yield from (Line(f"  {p}", "red") for p in inspection.problems)


def _stages(inspection: Inspection, width: int) -> Iterator[Line]:
    yield Line(inspection.where, "bold")
    rows = []
    for stage in inspection.stages:
        newest = stage.newest
        shown = newest is not None and newest is inspection.checkpoint
        rows.append(
            [
                stage.name or ".",
                f"{newest.number:,}" if newest and newest.number is not None else "",
                bytes_text(newest.stored) if newest else "",
                newest.written if newest else "nothing was committed",
                ", ".join(stage.steps),
                "◂ below" if shown else "",
            ]
        )
    heads = ["stage", "newest", "on disk", "committed", "steps", ""]
    yield from table(heads, rows, width, right={1, 2}, drop=[3, 4, 2])


def facts(checkpoint: Checkpoint) -> list[str]:
    """Who wrote it, how and when; what it holds."""
    facts = [checkpoint.writer, checkpoint.format]
    if checkpoint.processes:
        facts.append(count(checkpoint.processes, "process", "es"))
    if checkpoint.written:
        facts.append(f"committed {checkpoint.written}")
    size = f", {bytes_text(checkpoint.stored)}" if checkpoint.stored else ""
    facts.append(count(checkpoint.files, "file") + size)
    params = sum(array.size for array in checkpoint.params)
    about = [f"{quantity(params).rstrip()} parameters"]
    if checkpoint.params:
        about[0] += f" in {dtypes_text(checkpoint.params)}"
    meshes = {a.sharding.mesh_text for a in checkpoint.arrays if a.sharding} - {""}
    about += [f"saved on mesh {mesh}" for mesh in sorted(meshes)]
    return [" · ".join(facts), " · ".join(about)]


def _arrays(checkpoint: Checkpoint, width: int) -> Iterator[Line]:
    parts = list(array_parts(checkpoint))
    rows, styles = [p.cells for p in parts], [p.style for p in parts]
    heads = ["array", "shape", "dtype", "sharding", "chunks", "bytes", "stored"]
    yield from table(heads, rows, width, right={5, 6}, drop=[6, 4, 3], styles=styles)


def _documents(checkpoint: Checkpoint, width: int) -> Iterator[Line]:
    rows = list(objects(checkpoint.documents))
    if not rows:
        return
    yield Line("")
    room = max(cell_len(path) for path, _ in rows)
    yield Line("documents", "bold")
    for path, text in rows:
        yield Line(fit(f"  {fit(path, room)}  {text}", width, pad=False))


def objects(value: dict[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """(path, numbers and texts) of every object in nested ones."""
    plain = [f"{k} {_scalar(v)}" for k, v in value.items() if not isinstance(v, dict)]
    if plain:
        yield path, " · ".join(plain)
    for key, inner in value.items():
        if isinstance(inner, dict):
            yield from objects(inner, f"{path}/{key}" if path else key)


def _scalar(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if type(value) is int else str(value)


def _config(checkpoint: Checkpoint, whole: bool) -> Iterator[Line]:
    if checkpoint.config is None:
        return
    file, text = checkpoint.config
    found = text.splitlines()
    yield Line("")
    more = "" if whole else " (--config prints them)"
    yield Line(f"config  {file}: {count(len(found), 'line')}{more}")
    if whole:
        yield from (Line(f"  {line}") for line in found)


def _stats(inspection: Inspection, width: int) -> Iterator[Line]:
    yield Line("statistics", "bold")
    heads = ["array", "norm", "rms", "least", "largest", "zeros", "NaN, Inf"]
    heads += [f">{OUTLIER:.0f} rms", "dead", "s1", "effective rank"]
    rows, styles = [], []
    for stats in inspection.stats:
        bad = stats.nan + stats.inf
        styles.append("red" if bad else "")
        rows.append(
            [
                stats.path,
                number(stats.norm),
                number(stats.rms),
                number(stats.least),
                number(stats.largest),
                f"{stats.zeros:,}" if stats.zeros else "",
                f"{stats.nan:,}, {stats.inf:,}" if bad else "",
                f"{stats.outliers:,}" if stats.outliers else "",
                dead_text(stats),
                *_spectrum_text(stats),
            ]
        )
    drop = [2, 7, 5, 3, 4, 8]
    yield from table(
        heads, rows, width, right=set(range(1, 11)), drop=drop, styles=styles
    )
    for error in inspection.failed:
        yield Line(f"  {error.path}: not measured: {error.reason}", "yellow")


def dead_text(stats: ArrayStats) -> str:
    """Slices that are all zero: 3/512 on axis 0."""
    if stats.dead and stats.norm == 0:
        return "all zero"
    return ", ".join(f"{d.count:,}/{d.of:,} on axis {d.axis}" for d in stats.dead)


def _spectrum_text(stats: ArrayStats) -> list[str]:
    leads = [s.values[0] for s in stats.spectra if s.values]
    ranks = [s.effective_rank for s in stats.spectra]
    if not leads:
        return ["", ""]
    return [
        span(leads),
        f"{span(ranks, '.0f')} of {stats.spectra[0].full_rank:,}",
    ]


def _diff(diff: Diff, width: int) -> Iterator[Line]:
    yield Line(f"compared with {diff.other.url}", "bold")
    for title, changes in zip(diff.structure._fields, diff.structure):
        if not changes:
            continue
        yield Line(f"  {title}: {count(len(changes), 'change')}")
        rows = [
            [
                f"    {c.name}",
                _or_absent(c.before),
                f"→ {_or_absent(c.after)}",
            ]
            for c in changes[:MOST_CHANGES]
        ]
        yield from table(None, rows, width)
        if len(changes) > MOST_CHANGES:
            yield Line(f"    … {len(changes) - MOST_CHANGES:,} more")
    if not any(diff.structure):
        yield Line("  same config, documents, arrays and layout")
    still = sum(m.distance == 0 and not m.not_finite for m in diff.moved)
    yield Line(f"  {len(diff.moved) - still:,} arrays moved, {still:,} are the same")
    rows = [
        [
            f"    {m.path}",
            number(m.relative),
            number(m.distance),
            number(m.largest),
            number(m.cosine, ".5f"),
            layers_text(m.layers),
            f"{m.not_finite:,}" if m.not_finite else "",
        ]
        for m in diff.moved
        if m.distance or m.not_finite
    ]
    heads = [
        "    moved most",
        "|b-a|/|a|",
        "|b-a|",
        "largest",
        "cosine",
        "layers",
        "NaN",
    ]
    yield from table(
        heads, rows[:MOST_MOVED], width, right={1, 2, 3, 4, 6}, drop=[3, 4, 5]
    )
    if len(rows) > MOST_MOVED:
        yield Line(f"    … {len(rows) - MOST_MOVED:,} more")
    for error in diff.failed:
        yield Line(f"  {error.path}: not compared: {error.reason}", "yellow")


def layers_text(layers: Sequence[float | None]) -> str:
    """The layer that moved most: 0.21 to 0.35, most in layer 3."""
    known = [x for x in layers if x is not None]
    if len(known) < 2:
        return ""
    most = max(range(len(layers)), key=lambda i: layers[i] or 0.0)
    return f"{span(known)}, most in layer {most}"


def _or_absent(text: str) -> str:
    return text or "absent"
