"""Search trees as one self-contained HTML page, for a browser without network.

In: a trace or several, the JSON form of finished trees (search/trace.py). Out: a page
that draws them (tree_page.html, .css, .js): branches that open and close, the chosen
path marked, a panel of a node's numbers, search, filters. Rows are built when they are
first seen, for trees of thousands of nodes.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from o1jax.inspect.page import template, write_whole
from o1jax.inspect.tree import TEXTS, read


def page(traces: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> str:
    """One HTML file that shows a tree, or several with a selector; ValueError if bad.

    Texts are data to the page, never markup; besides, its policy (CSP) lets nothing run
    but its own script, and nothing load.
    """
    traces = [traces] if isinstance(traces, Mapping) else traces
    if not traces:
        raise ValueError("no traces to draw")
    named = [(f"trace {i}", trace) for i, trace in enumerate(traces)]
    trees = [read(trace, name).trace for name, trace in named]
    summaries = [{key: tree[key] for key in TEXTS} for tree in trees]
    data = [_block(summaries, "summaries"), *(_block(tree, "trace") for tree in trees)]
    before, after = template("tree_page").split("<!-- data -->")
    return before + "\n".join(data) + after


def _block(data: Any, name: str) -> str:
    """JSON in a script element that is never run; no `<`, so nothing can end it."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    text = text.replace("<", "\\u003c")
    return f'<script type="application/json" class="{name}">{text}</script>'


def write_page(
    file: str | Path, traces: Mapping[str, Any] | Sequence[Mapping[str, Any]]
) -> Path:
    """Write page(traces) whole or not at all."""
    return write_whole(file, page(traces))
