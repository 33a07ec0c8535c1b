"""A search tree as text, a line a node: step, visits, value, log-prob, verdict.

In: a trace, the JSON form of a finished tree, node 0 being the root and every node
after its parent (search/trace.py). Out: lines that fit the terminal, of a large tree
those of its most visited nodes, with the others counted where they would be.
"""

import heapq
import math
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import StringIO
from typing import Any, NamedTuple

from rich.cells import cell_len, set_cell_size
from rich.color import ColorSystem
from rich.console import Console
from rich.style import Style
from rich.text import Text

from o1jax.inspect.report import MISSING, quantity

# Field -> what it must be; columns hold one of these a node.
COLUMNS = {
    "parent": "a whole number",
    "action": "a whole number",
    "step": "text",
    "visits": "a whole number",
    "value": "a number",
    "raw_value": "a number",
    "logprob": "a number",
    "finished": "true or false",
    "verdict": "text",
}
TEXTS = ("question", "method", "answer_verdict")
SPENT = ("generated_tokens", "reread_tokens", "reward_tokens", "flops")
IS_KIND = {  # whole numbers that a browser's JSON keeps exact
    "a whole number": lambda x: type(x) is int and abs(x) < 2**53,
    "a number": lambda x: (
        x is None or isinstance(x, float) or (type(x) is int and abs(x) < 2**53)
    ),
    "text": lambda x: isinstance(x, str),
    "true or false": lambda x: isinstance(x, bool),
}
LEAST_TEXT = 24  # cells of a step with its guide, before there are more columns
Paint = Callable[[str, str], str]  # text, style -> text with its escape sequences


class Tree(NamedTuple):
    """A trace that was checked, and what follows from it."""

    trace: dict[str, Any]  # the known fields; numbers that are not finite are None
    children: list[list[int]]  # of each node, most visited first, then highest value
    size: list[int]  # nodes of each subtree, the node itself included
    path: list[int]  # root to the chosen node; empty if none was chosen


def read(trace: Mapping[str, Any], name: str = "trace") -> Tree:
    """Check a trace. ValueError, one line that says which field is wrong, and how."""
    if not isinstance(trace, Mapping):
        raise ValueError(f"{name} is {type(trace).__name__}, not an object")
    missing = {*COLUMNS, *TEXTS, "chosen", "spent"} - set(trace)
    if missing:
        raise ValueError(f"{name} has no field {min(missing)!r}")
    known = {key: _kind(trace[key], "text", f"{name}: {key}") for key in TEXTS}
    spent = trace["spent"] if isinstance(trace["spent"], Mapping) else {}
    known["spent"] = {
        key: _kind(spent.get(key, ""), "a number", f"{name}: spent.{key}")
        for key in SPENT
    }
    if not isinstance(trace["parent"], list | tuple) or not trace["parent"]:
        raise ValueError(f"{name}: parent must be a list, of one node or more")
    count = len(trace["parent"])
    for key, kind in COLUMNS.items():
        column = trace[key]
        if not isinstance(column, list | tuple) or len(column) != count:
            raise ValueError(f"{name}: {key} is not a list of {count}, one a node")
        known[key] = [
            _kind(cell, kind, f"{name}: {key}[{i}]") for i, cell in enumerate(column)
        ]
    for node, parent in enumerate(known["parent"]):
        if not (0 <= parent < node or parent == -1 == node - 1):
            raise ValueError(f"{name}: parent[{node}] is {parent}, not a node before")
        if known["visits"][node] < 0:
            raise ValueError(f"{name}: visits[{node}] is below 0")
    chosen = known["chosen"] = _kind(
        trace["chosen"], "a whole number", f"{name}: chosen"
    )
    if not 0 <= chosen < count:
        raise ValueError(f"{name}: chosen is {chosen}, but there are {count} nodes")
    return _tree(known)


def _kind(cell: Any, kind: str, where: str) -> Any:
    if not IS_KIND[kind](cell):
        raise ValueError(f"{where} is {str(cell)[:40]!r}, not {kind}")
    return None if isinstance(cell, float) and not math.isfinite(cell) else cell


def _tree(trace: dict[str, Any]) -> Tree:
    parents, visits, value = trace["parent"], trace["visits"], trace["value"]
    children: list[list[int]] = [[] for _ in parents]
    size = [1] * len(parents)
    for node in range(len(parents) - 1, 0, -1):
        size[parents[node]] += size[node]
    for node in range(1, len(parents)):
        children[parents[node]].append(node)
    for siblings in children:
        siblings.sort(key=lambda i: (-visits[i], _descending(value[i])))
    path, node = [], trace["chosen"]
    while node > 0:
        path.append(node)
        node = parents[node]
    return Tree(trace, children, size, [0, *reversed(path)] if path else [])


def _descending(x: float | None) -> float:
    return math.inf if x is None else -x


def draw(
    trace: Mapping[str, Any], *, width: int, color: bool, max_nodes: int = 60
) -> str:
    """The tree as lines of at most `width` cells (32 or more), each ended.

    Of a larger tree the chosen path and the most visited nodes, max_nodes in all, are
    shown and the others counted; a longer chosen path is shown whole all the same.
    """
    if max_nodes < 1:
        raise ValueError(f"max_nodes is {max_nodes}, must be 1 or more")
    tree, width = read(trace), max(width, LEAST_TEXT + 8)
    paint = _painter(color)
    lines = [*_header(tree, width, paint), ""]
    kept = _most_visited(tree, max_nodes)
    columns = _columns([tree.trace["verdict"][node] for node in kept], width)
    room = width - sum(columns)
    rows = list(_rows(tree, kept, room // 2))
    step = max(cell_len(row.guide + row.text + row.tail) for row in rows) + 2
    widths = [min(step, room), *columns]
    if columns[-1]:
        widths[-1] += width - sum(widths)  # verdicts take what is left
    names = zip(("visits", "value", "log-prob"), columns)
    heads = "".join(f"{head:>{cells}}" if cells else "" for head, cells in names)
    heads += "  verdict" if columns[-1] else ""
    lines.append(paint(" " * widths[0] + heads, "dim"))
    lines += [_line(tree, row, widths, paint) for row in rows]
    marks = ["● chosen path"] * bool(tree.path) + ["■ finished", "▸n nodes left out"]
    legend = " · ".join([*marks, "value: mean return of the visits"])
    return "\n".join([*lines, "", *_wrapped(legend, width, paint, "dim")]) + "\n"


class Row(NamedTuple):
    """A line of the drawing: a node, or the count of what is left out there."""

    node: int  # -1 for a count
    guide: str  # the lines that lead to it
    text: str
    tail: str  # kept when text is shortened


def _most_visited(tree: Tree, count: int) -> set[int]:
    """Chosen path and root first, then always the best node below a kept one."""
    visits, value = tree.trace["visits"], tree.trace["value"]
    kept = {0, *tree.path}
    depth = {node: at for at, node in enumerate(tree.path or [0])}
    heap: list[tuple[int, int, float, int]] = []

    def offer(parent: int) -> None:
        for node in tree.children[parent]:
            if node not in kept:
                depth[node] = depth[parent] + 1
                rank = -visits[node], depth[node], _descending(value[node]), node
                heapq.heappush(heap, rank)

    for node in sorted(kept):
        offer(node)
    while heap and len(kept) < count:
        node = heapq.heappop(heap)[-1]
        kept.add(node)
        offer(node)
    return kept


def _rows(tree: Tree, kept: set[int], limit: int) -> Iterator[Row]:
    """Lines from the root down; a guide of more than `limit` cells loses its left."""
    visits, on_path = tree.trace["visits"], set(tree.path)
    counts: dict[int, str] = {}  # an id below 0 -> what its line says
    # A node or such an id, its depth, the guide of its line, the guide below it.
    stack = [(0, 0, "● " if tree.path else "", "")]
    while stack:
        node, depth, guide, below = stack.pop()
        if 2 * depth > limit:  # deep chains: the depth as a number stands for the rest
            label = f"{depth} ‹"  # noqa: RUF001
            guide = label + guide[len(label) - limit :]
        if node < 0:
            yield Row(-1, guide, counts[node], "")
            continue
        siblings = [child for child in tree.children[node] if child in kept]
        hidden = [child for child in tree.children[node] if child not in kept]
        tail = " ■" if tree.trace["finished"][node] else ""
        if hidden:
            left_out = sum(tree.size[child] for child in hidden)
            if siblings:
                visited = sum(visits[child] for child in hidden)
                siblings.append(-len(counts) - 1)
                counts[siblings[-1]] = f"… {left_out:,} more, {visited:,} visits"
            else:
                tail += f" ▸{left_out:,}"
        text = printable(tree.trace["step"][node])
        unsaid = "(end)" if tree.trace["finished"][node] else "(empty)"
        yield Row(node, guide, text or (unsaid if node else "question"), tail)
        for child in reversed(siblings):
            last, chosen = child == siblings[-1], child in on_path
            elbow = ("┕━●" if last else "┝━●") if chosen else ("└─ " if last else "├─ ")
            deeper = (below + ("  " if last else "│ "))[-limit:]
            stack.append((child, depth + 1, f"{below[-limit:]}{elbow} ", deeper))


def _columns(verdicts: Sequence[str], width: int) -> list[int]:
    """Cells of visits, value, log-prob and verdict; 0 for what a step has to have."""
    verdict = min(max(map(cell_len, map(printable, verdicts))), width // 4)
    verdict = max(verdict, 7) + 2 if verdict else 0
    for columns in ([8, 8, 10, verdict], [8, 8, 0, verdict], [8, 8, 0, 0]):
        if width - sum(columns) >= LEAST_TEXT:
            return columns
    return [8, 0, 0, 0]


def _line(tree: Tree, row: Row, widths: Sequence[int], paint: Paint) -> str:
    step, *numbers, verdict = widths
    if row.node < 0:
        return paint(fit(row.guide + row.text, step).rstrip(), "dim")
    trace, chosen = tree.trace, row.node in tree.path
    visits = trace["visits"][row.node]
    value = trace["value"][row.node] if visits else None  # a mean of nothing
    logprob = trace["logprob"][row.node] if row.node else None
    cells = [f"{visits:,}", number(value), number(logprob)]
    line = "".join(f"{c:>{w}}" for c, w in zip(cells, numbers) if w)
    room = step - cell_len(row.guide + row.tail)
    text = row.guide + fit(row.text, room, pad=False) + row.tail
    style = "bold green" if chosen else "" if visits else "dim"
    said = fit(printable(trace["verdict"][row.node]), max(verdict - 2, 0), pad=False)
    line = paint(fit(text, step) + line, style)
    tint = "green" if said == "ok" else "red"
    return f"{line}  {paint(said, tint)}" if said else line


def _header(tree: Tree, width: int, paint: Paint) -> Iterator[str]:
    trace, spent = tree.trace, tree.trace["spent"]
    yield from _wrapped(printable(trace["question"]), width, paint, "bold")
    count, flops = len(trace["parent"]), spent["flops"] or 0.0
    facts = [
        printable(trace["method"]),
        printable(trace["answer_verdict"]) if tree.path else "nothing was chosen",
        f"{count:,} node{'s' * (count > 1)}",
        f"{spent['generated_tokens'] or 0:,.0f} tokens generated",
        f"{spent['reread_tokens'] or 0:,.0f} re-read",
        f"{spent['reward_tokens'] or 0:,.0f} by the reward",
        f"{quantity(flops)}FLOP" if flops >= 1e3 else f"{flops:.0f} FLOP",
    ]
    style = {"right": "green", "wrong": "red"}.get(trace["answer_verdict"], "")
    yield from _wrapped(" · ".join(facts), width, paint, style)


def _wrapped(text: str, width: int, paint: Paint, style: str) -> Iterator[str]:
    for line in Text(text).wrap(Console(file=StringIO()), width):
        yield paint(line.plain.rstrip(), style)


def printable(text: str) -> str:
    """One line that no terminal obeys: a policy can write escape sequences too."""
    return "".join(
        "\ufffd" if unicodedata.category(char)[0] == "C" else char
        for char in " ".join(text.split())
    )


def fit(text: str, cells: int, *, pad: bool = True) -> str:
    """Text in exactly (pad) or at most that many cells of a terminal."""
    if cell_len(text) > cells:
        return set_cell_size(text, max(cells - 1, 0)) + "…"[: max(cells, 0)]
    return set_cell_size(text, cells) if pad else text


def number(x: float | None) -> str:
    """0.412, 1.2e+05, or a dash."""
    if x is None:
        return MISSING
    return f"{x:z.3f}" if abs(x) < 1e3 else f"{x:.2g}"


def _painter(color: bool) -> Paint:
    def paint(text: str, style: str) -> str:
        if not (color and style and text):
            return text
        return Style.parse(style).render(text, color_system=ColorSystem.STANDARD)

    return paint
