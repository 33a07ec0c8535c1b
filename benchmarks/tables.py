"""How the pages of results are written: numbers, tables, compile times."""


def number(x: float) -> str:
    """Three significant digits."""
    return f"{x:,.0f}" if x >= 100 else f"{x:.3g}"


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; empty without rows."""
    if not rows:
        return ""
    lines = [head, ["---"] * len(head), *rows]
    return "\n" + "\n".join("| " + " | ".join(row) + " |" for row in lines) + "\n"


def compile_time(taken: list[dict]) -> str:
    """Seconds of the first call beyond the work; a dash where nothing is compiled."""
    return f"{taken[0]['compile']:.1f} s" if "compile" in taken[0] else "-"
