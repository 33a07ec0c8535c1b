"""Reports as lines for a terminal and rows for a table.

In: a Report. Out: text; numbers with units, "?" where the compiler did not tell.
"""

from collections.abc import Iterator

from o1jax.aot.check import Checked
from o1jax.aot.chips import GIB
from o1jax.aot.compile import Report

COLUMNS = (
    "program",
    "fits",
    "GiB",
    "of it held",
    "arguments",
    "temporary",
    "TFLOP",
    "GB sent",
    "compute",
    "memory",
    "interconnect",
    "bound by",
    "compiled in",
)


def cells(report: Report) -> tuple[str, ...]:
    """One for each of COLUMNS."""
    name = f"{report.stage}: {report.program}"
    if report.fits is None or not report.peak:
        verdict = "not checked" if report.fits is None else "NO"
        blank = [""] * (len(COLUMNS) - 3)
        return (name, verdict, *blank, f"{report.compile_seconds:.0f} s")
    gib = lambda size: f"{size / GIB:.2f}"
    flops = f"{report.flops / 1e12:.4g}"
    return (
        name,
        "yes" if report.fits else "NO",
        gib(report.peak),
        gib(sum(report.held.values())),
        gib(report.arguments),
        gib(report.temporaries),
        flops if report.exact else f"<= {flops}",
        sent(report),
        seconds(report.compute_seconds),
        seconds(report.memory_seconds),
        seconds(report.interconnect_seconds),
        report.bound or "?",
        f"{report.compile_seconds:.0f} s" + " (cached)" * report.from_cache,
    )


def sent(report: Report) -> str:
    """GB that a device sends over each axis: fsdp 40.1, data 1.5."""
    if report.sent is None:
        return "?"
    parts = [
        f"{axes} {size / 1e9:.4g}"
        for axes, size in sorted(report.sent.items(), key=lambda pair: -pair[1])
        if size >= 5e5
    ]
    return ", ".join(parts) or "none"


def seconds(value: float | None) -> str:
    """With a unit that fits."""
    if value is None:
        return "?"
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return "0"


def lines(report: Report) -> Iterator[str]:
    """Of one program, as it is done."""
    row = dict(zip(COLUMNS, cells(report)))
    limit = f"{report.limit / GIB:.2f}"
    if report.fits is None:
        yield f"  {row['program']}: not checked: {report.problem}"
        return
    if not report.peak:
        yield f"  {row['program']}: DOES NOT FIT into {limit} GiB: {report.problem}"
    else:
        verdict = "fits:" if report.fits else "DOES NOT FIT:"
        yield (
            f"  {row['program']}: {verdict} {row['GiB']} of {limit} GiB a device "
            f"({row['of it held']} held beside it, {row['arguments']} arguments, "
            f"{row['temporary']} temporary)"
        )
        yield (
            f"    {row['TFLOP']} TFLOP; sends GB: {row['GB sent']}; "
            f"compute {row['compute']}, memory {row['memory']}, "
            f"interconnect {row['interconnect']}: bound by {row['bound by']}; "
            f"compiled in {row['compiled in']}"
        )
    if not report.fits:
        for name, size in report.largest:
            yield f"    {size / GIB:8.2f} GiB  {name}"


def heading(checked: Checked) -> str:
    """Of an experiment."""
    return (
        f"{checked.title} ({checked.file}) on {checked.topology}: "
        f"{checked.parameters / 1e9:.2f}e9 parameters in {checked.layers} layers; "
        f"{checked.layout}"
    )
