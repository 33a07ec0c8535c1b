"""Lines for a terminal, and tables of them.

In: cells of text. Out: lines with a style each, in columns, none wider than the screen:
columns go first, in an order that the caller gives, and then the ends of lines.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rich.cells import cell_len

from o1jax.inspect.report import MISSING
from o1jax.inspect.tree import fit


class Line(NamedTuple):
    """A line and its style in rich's words."""

    text: str
    style: str = ""


def span(values: Sequence[float], form: str = ".3g") -> str:
    """2.1 to 3.4 of the layers, or the one number."""
    low, high = format(min(values), form), format(max(values), form)
    return low if low == high else f"{low} to {high}"


def number(x: float | None, form: str = ".3g") -> str:
    """Three digits, or a dash."""
    return MISSING if x is None else format(x, form)


def count(n: int, what: str, plural: str = "s") -> str:
    """1 file, 2 files."""
    return f"{n:,} {what}{'' if n == 1 else plural}"


def table(
    heads: Sequence[str] | None,
    rows: Sequence[Sequence[str]],
    width: int,
    *,
    right: set[int] = frozenset(),
    drop: Sequence[int] = (),
    styles: Sequence[str] | None = None,
) -> Iterator[Line]:
    """Rows in columns; those to drop are left out, in order, while it is too wide."""
    if not rows:
        return
    everything = [*([heads] if heads else []), *rows]
    widths = [max(map(cell_len, column)) for column in zip(*everything)]
    content = [max(map(cell_len, column)) for column in zip(*rows)]
    kept = [i for i, cells in enumerate(content) if cells or i == 0]
    for column in drop:
        if sum(widths[i] + 2 for i in kept) - 2 > width and column in kept:
            kept.remove(column)
    for index, row in enumerate(everything):
        cells = []
        for i in kept:
            pad = " " * (widths[i] - cell_len(row[i]))
            cells.append(pad + row[i] if i in right else row[i] + pad)
        text = fit("  ".join(cells).rstrip(), width, pad=False)
        own = (
            styles[index - bool(heads)] if styles and not (heads and not index) else ""
        )
        yield Line(text, "dim" if heads and not index else own)
