"""Search trees as one self-contained HTML page, for a browser without network.

In: a trace or several, the JSON form of finished trees (search/trace.py). Out: a page
that draws them (tree_page.html, .css, .js): branches that open and close, the chosen
path marked, a panel of a node's numbers, search, filters. Rows are built when they are
first seen, for trees of thousands of nodes.
"""

import base64
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

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
    template = _part("html")
    for kind in ("css", "js"):
        own = _part(kind)
        digest = base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
        template = template.replace(f"{kind}-hash", f"sha256-{digest}")
        template = template.replace(f"/* tree_page.{kind} */", own)
    before, after = template.split("<!-- data -->")
    return before + "\n".join(data) + after


def _part(kind: str) -> str:
    return files("o1jax.inspect").joinpath(f"tree_page.{kind}").read_text("utf-8")


def _block(data: Any, name: str) -> str:
    """JSON in a script element that is never run; no `<`, so nothing can end it."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    text = text.replace("<", "\\u003c")
    return f'<script type="application/json" class="{name}">{text}</script>'


def write_page(
    file: str | Path, traces: Mapping[str, Any] | Sequence[Mapping[str, Any]]
) -> Path:
    """Write page(traces) whole or not at all."""
    file, content = Path(file), page(traces).encode()
    if not file.parent.is_dir() or file.is_dir():
        raise ValueError(f"{file} can't be written: not a file in an existing folder")
    handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=file.name)
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(content)
        os.chmod(temporary, 0o644)  # mkstemp's files are private
        os.replace(temporary, file)
    except BaseException:
        os.unlink(temporary)
        raise
    return file
