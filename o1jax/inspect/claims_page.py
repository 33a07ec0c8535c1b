"""All claims on one self-contained HTML page, for any browser.

In: the folder that `o1jax reproduce` writes its results into. Out: a page: a line a
claim, and below it what was published, each check with what was found, what it cost
and the figure. No script; every text is escaped, and by its policy (CSP) nothing loads.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from o1jax.inspect.claims import Found, read_claims
from o1jax.inspect.page import style, write_whole
from o1jax.inspect.report import duration, quantity

NAME = "index.html"
RUN = "all.json"  # what `o1jax reproduce --all` says of itself
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def write_page(results: Path) -> Path:
    """Writes and returns results/index.html. ValueError if there is no claim yet."""
    found = read_claims(results)
    if not found:
        raise ValueError(f"{results} holds no claim yet: o1jax reproduce --all")
    file = results / RUN
    run = json.loads(file.read_text()) if file.exists() else None
    return write_whole(results / NAME, page(found, run))


def page(found: Sequence[Found], run: Mapping[str, Any] | None = None) -> str:
    """The page as text; run: the last `o1jax reproduce --all`."""
    contents = [one.content for one in found]
    held = sum(content["passed"] for content in contents)
    checks = held + sum(content["failed"] for content in contents)
    lines = [
        f"{held} of {checks} checks hold, of {len(found)} claims. A check is about the "
        "published shape, not about the absolute number.",
        f"Compute: {_compute(sum(one.flops for one in found), contents)}; policies and "
        "arms that claims share are counted in each of them.",
    ]
    if run is not None:
        lines.append(_run(run))
    head = "".join(f"<p>{escape(line)}</p>" for line in lines)
    body = f"{head}{_table(found)}{''.join(map(_claim, found))}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Claims, reproduced</title><style>{style('claims_page')}</style>"
        f"</head>\n<body><h1>Claims, reproduced</h1>{body}</body></html>\n"
    )


def _run(run: Mapping[str, Any]) -> str:
    done = len(run["claims"])
    state = "" if done == run["of"] else f", {done} of {run['of']} claims so far"
    longest = ""
    if run["longest"] > run["seconds"]:
        longest = f"; the longest of such runs took {duration(run['longest'])}"
    return (
        f"Last run of all at once: {run['command']}, {duration(run['seconds'])} by the "
        f"clock on {run['cores']} cores{state}{longest}."
    )


def _compute(flops: float, contents: Sequence[Mapping[str, Any]]) -> str:
    seconds = sum(content["seconds"] for content in contents)
    return f"{quantity(flops)}FLOP in {duration(seconds)}"


def _verdict(content: Mapping[str, Any]) -> str:
    total = content["passed"] + content["failed"]
    kind = "failed" if content["failed"] else "held"
    return f'<span class="{kind}">{content["passed"]} of {total} hold</span>'


def _table(found: Sequence[Found]) -> str:
    columns = ("claim", "statement", "checks", "seeds", "tier", "time", "FLOP")
    right = ("seeds", "time", "FLOP")
    head = "".join(
        f'<th class="number">{c}</th>' if c in right else f"<th>{c}</th>"
        for c in columns
    )
    rows = []
    for one in found:
        content, name = one.content, escape(one.content["claim"])
        numbers = (duration(content["seconds"]), quantity(one.flops))
        rows.append(
            f'<tr><td class="name"><a href="#{name}">{name}</a></td>'
            f"<td>{escape(content['statement'])} {_source(content)}</td>"
            f"<td>{_verdict(content)}</td>"
            f'<td class="number">{content["seeds"]}</td>'
            f"<td>{escape(content['tier'])}</td>"
            + "".join(f'<td class="number">{x}</td>' for x in numbers)
            + "</tr>"
        )
    return f'<div class="scroll"><table><tr>{head}</tr>{"".join(rows)}</table></div>'


def _source(content: Mapping[str, Any]) -> str:
    source = escape(content["source"])
    return f'<a href="https://arxiv.org/abs/{source}">arXiv {source}</a>'


def _claim(one: Found) -> str:
    content, name = one.content, escape(one.content["claim"])
    checks = "".join(
        f'<tr><td><span class="{"held" if check["passed"] else "failed"}">'
        f"{'holds' if check['passed'] else 'FAILED'}</span></td>"
        f"<td>{escape(check['name'])}</td><td>{escape(check['found'])}</td></tr>"
        for check in content["checks"]
    )
    seeds = content["seeds"]
    facts = (
        f"{seeds} seed{'s' * (seeds > 1)}, {content['tier']} tier, "
        f"{_compute(one.flops, [content])}, {content['device']}, {content['date']}"
    )
    return (
        f'<section id="{name}"><h2>{name}: {escape(content["statement"])}</h2> '
        f"{_verdict(content)}"
        f"<p>Published ({_source(content)}): {escape(one.published)}</p>"
        '<div class="scroll"><table><tr><th></th><th>check</th><th>ours</th></tr>'
        f'{checks}</table></div><p class="muted">{escape(facts)}</p>'
        f"<p><code>{escape(content.get('command', ''))}</code></p>"
        f"{_figure(one)}{_ledger(content)}</section>\n"
    )


def _figure(one: Found) -> str:
    file = one.folder / "report.png"
    if not file.exists():
        return ""
    data = base64.b64encode(file.read_bytes()).decode()
    alt = escape(f"Figures of {one.content['claim']}", quote=True)
    return (
        "<details open><summary>Figure</summary>"
        f'<img alt="{alt}" src="data:image/png;base64,{data}"></details>'
    )


def _ledger(content: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{escape(row['kind'])}</td>"
        + "".join(
            f'<td class="number">{cell}</td>'
            for cell in (
                f"{round(row['tokens']):,}",
                quantity(row["flops"]),
                duration(row["seconds"]),
            )
        )
        + "</tr>"
        for row in content.get("ledger", ())
    )
    head = "".join(f'<th class="number">{c}</th>' for c in ("tokens", "FLOP", "time"))
    return (
        "<details><summary>Compute by arm</summary>"
        f'<div class="scroll"><table><tr><th></th>{head}</tr>{rows}</table></div>'
        "</details>"
    )
