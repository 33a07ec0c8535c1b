"""Checked experiments as one self-contained HTML page.

In: Checked records. Out: a page with a table for each, a bar of every program's memory,
its collectives and its largest arrays. No script; every text is escaped.
"""

from collections.abc import Sequence
from html import escape

from o1jax.aot.check import Checked
from o1jax.aot.chips import GIB
from o1jax.aot.compile import Report
from o1jax.aot.text import COLUMNS, cells, heading

STYLE = """
:root { color-scheme: light dark }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem; max-width: 110rem }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto }
th, td { padding: .3rem .6rem; border-bottom: 1px solid #8884; text-align: left;
  white-space: nowrap; font-variant-numeric: tabular-nums }
.bar { width: 14rem; height: .8rem; background: #8883; display: flex }
.bar i { display: block; height: 100% }
.held { background: #8a8 } .arguments { background: #59c }
.temporaries { background: #d90 }
.no td { color: #c33; font-weight: 600 } .unknown td { opacity: .7 }
.key i { display: inline-block; width: .8rem; height: .8rem; margin: 0 .3rem 0 1rem }
"""
PARTS = ("held", "arguments", "temporaries")


def page(checked: Sequence[Checked]) -> str:
    """The page as text."""
    body = "".join(_experiment(one) for one in checked)
    key = "".join(f'<i class="{part}"></i>{part}' for part in PARTS)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        "<title>o1jax aot</title>"
        f"<style>{STYLE}</style><h1>Does it fit?</h1>"
        '<p class="key">Memory of a device while a program runs:'
        f"{key}. Seconds are the least that each kind of work can take.</p>"
        f"{body}</html>\n"
    )


def _experiment(checked: Checked) -> str:
    verdict = "all that was compiled fits" if checked.fits else "it does not fit"
    head = "".join(f"<th>{escape(name)}</th>" for name in ("memory", *COLUMNS))
    rows = "".join(_row(report) for report in checked.reports)
    notes = "".join(f"<li>{escape(note)}</li>" for note in checked.notes)
    more = "".join(_details(report) for report in checked.reports)
    return (
        f"<h2>{escape(checked.title)}: {verdict}</h2><p>{escape(heading(checked))}</p>"
        f"<table><tr>{head}</tr>{rows}</table><ul>{notes}</ul>"
        f"<details><summary>collectives and largest arrays</summary>{more}</details>"
    )


def _row(report: Report) -> str:
    kind = {True: "", False: "no", None: "unknown"}[report.fits]
    parts = (sum(report.held.values()), report.arguments, report.temporaries)
    scale = max(report.limit, sum(parts), 1.0)
    bar = "".join(
        f'<i class="{name}" style="width:{100 * size / scale:.1f}%"></i>'
        for name, size in zip(PARTS, parts)
    )
    inner = "".join(f"<td>{escape(text)}</td>" for text in cells(report))
    return f'<tr class="{kind}"><td><div class="bar">{bar}</div></td>{inner}</tr>'


def _details(report: Report) -> str:
    found = report.collectives or {}
    moved = "".join(f"<li>{n} {escape(kind)}</li>" for kind, n in found.items())
    large = "".join(
        f"<li>{size / GIB:.2f} GiB {escape(name)}</li>" for name, size in report.largest
    )
    problem = f"<p>{escape(report.problem)}</p>" if report.problem else ""
    name = escape(f"{report.stage}: {report.program}")
    return f"<h3>{name}</h3>{problem}<ul>{moved}</ul><ul>{large}</ul>"
