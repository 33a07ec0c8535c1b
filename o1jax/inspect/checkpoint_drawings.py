"""Small drawings for a table of a page: SVG without a script or a style.

In: a few numbers. Out: an svg element with a title that says its ends in words.
"""

import math
from collections.abc import Mapping, Sequence

WIDTH, HEIGHT, WIDEST_BAR = 120, 26, 9


def histogram(magnitudes: Mapping[int, int]) -> str:
    """Elements by power of two; heights are logarithmic."""
    if sum(magnitudes.values()) < 2:
        return ""
    low, high = min(magnitudes), max(magnitudes)
    top = math.log1p(max(magnitudes.values()))
    heights = [math.log1p(magnitudes.get(k, 0)) / top for k in range(low, high + 1)]
    return _bars(heights, f"2^{low} to 2^{high + 1}")


def bars(values: Sequence[float | None], what: str) -> str:
    """A bar each; the title names the highest."""
    known = [x or 0.0 for x in values]
    if len(known) < 2 or not max(known):
        return ""
    most = known.index(max(known))
    title = f"{min(known):.3g} to {max(known):.3g}, most in {what} {most}"
    return _bars([x / max(known) for x in known], title)


def curves(lines: Sequence[Sequence[float]]) -> str:
    """A line each, falling from left to right, all on one logarithmic scale."""
    top = max(max(line) for line in lines)
    if top <= 0:
        return ""
    floor = max(min(min(line) for line in lines), top * 1e-4)
    scale = math.log(top / floor) or 1.0
    drawn = []
    for line in lines:
        step = (WIDTH - 4) / max(len(line) - 1, 1)
        points = [
            f"{2 + i * step:.1f},"
            f"{2 + (HEIGHT - 4) * min(math.log(top / max(x, floor)) / scale, 1):.1f}"
            for i, x in enumerate(line)
        ]
        points = points if len(points) > 1 else [*points, f"6,{points[0][4:]}"]
        drawn.append(f'<polyline points="{" ".join(points)}"/>')
    return _svg("".join(drawn), f"{top:.3g} down to {min(map(min, lines)):.3g}")


def _bars(heights: Sequence[float], title: str) -> str:
    step = min(WIDTH / len(heights), WIDEST_BAR)
    drawn = [
        f'<rect x="{i * step:.1f}" y="{HEIGHT * (1 - h):.1f}" '
        f'width="{max(step - 0.6, 0.6):.1f}" height="{HEIGHT * h:.1f}"/>'
        for i, h in enumerate(heights)
        if h > 0
    ]
    return _svg("".join(drawn), title)


def _svg(inside: str, title: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'role="img"><title>{title}</title>{inside}</svg>'
    )
