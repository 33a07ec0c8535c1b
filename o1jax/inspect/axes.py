"""What the panels of report.png share: colours, style, axes, legends.

In: the lists of a figure's series, as report.py describes them. Out: matplotlib's axes,
drawn on. Series differ in colour (Okabe and Ito's palette, safe for the colour-blind),
marker and line.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#222222")
MARKERS = "osD^vPX"
STYLE = {
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.labelcolor": "#222222",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.7,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "lines.solid_capstyle": "round",
}


def numbers(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if v is None else v for v in values], float)


def of_one_hue(figures: Sequence[Mapping]) -> list[Mapping]:
    """The figures with a `hue` a series: a label has the same one in all of them.

    Labels of one figure alone take what is free there, their own place if it is.
    """
    labels = [[one.get("label") for one in figure["series"]] for figure in figures]
    stands = Counter(label for found in labels for label in set(found))
    shared: dict[str | None, int] = {}
    for found in labels:
        for i, label in enumerate(found):
            if stands[label] > 1 and label not in shared:
                shared[label] = _free(i, shared.values())
    hued = []
    for figure, found in zip(figures, labels):
        of = {label: shared[label] for label in found if label in shared}
        for i, label in enumerate(found):
            of[label] = of[label] if label in of else _free(i, of.values())
        series = [{"hue": of[x], **one} for x, one in zip(found, figure["series"])]
        hued.append({**figure, "series": series})
    return hued


def _free(first: int, taken: Iterable[int]) -> int:
    """The first hue from `first` on that is not taken; any, if all are."""
    taken = set(taken)
    order = [(first + i) % len(COLORS) for i in range(len(COLORS))]
    return next((i for i in order if i not in taken), order[0])


def hue(one: Mapping, i: int) -> int:
    """The index of a series' colour and marker; `i` is its place in its figure."""
    return one.get("hue", i) % len(COLORS)


def band(ax: Axes, one: Mapping, color: str) -> None:
    if one.get("lo") and one.get("hi"):
        lo, hi = numbers(one["lo"]), numbers(one["hi"])
        ax.fill_between(one["x"], lo, hi, color=color, alpha=0.16, linewidth=0)


def running(values: np.ndarray, window: int) -> np.ndarray:
    return np.convolve(values, np.full(window, 1 / window), "valid")


def log_axis(ax: Axes, x: Sequence[float]) -> None:
    """Ticks at the powers of 2 if the data lie there, else at those of 10."""
    two = all(v > 0 and math.log2(v).is_integer() for v in x)
    ax.set_xscale("log", base=2 if two else 10)
    if two:
        powers = range(int(math.log2(min(x))), int(math.log2(max(x))) + 1)
        ax.set_xticks([2**p for p in powers[:: 1 + len(powers) // 8]])
    elif max(x) < 30 * min(x):  # less than two decades have too few powers of 10
        ax.set_xticks(ticks(x))
    ax.xaxis.set_major_formatter(FuncFormatter(short))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.xaxis.set_minor_locator(NullLocator())


def ticks(x: Sequence[float]) -> np.ndarray:
    """The data where their labels do not touch, else 1, 2 and 5 of each decade."""
    data = np.unique(x)
    if np.all(data[1:] > 1.5 * data[:-1]):
        return data
    decades = 10.0 ** np.arange(np.floor(np.log10(data[0])), np.log10(data[-1]) + 1)
    found = np.outer(decades, [1, 2, 5]).ravel()
    return found[(found >= data[0]) & (found <= data[-1])]


def short(x: float, _: Any) -> str:
    """64, 2k, 1.5M, 3G."""
    for prefix, size in zip("EPTGMk", (1e18, 1e15, 1e12, 1e9, 1e6, 1e3)):
        if abs(x) >= size:
            return f"{x / size:.3g}{prefix}"
    return f"{x:g}"


def legend_below(ax: Axes) -> None:
    handles, _ = ax.get_legend_handles_labels()
    columns = 2 if len(handles) > 2 else len(handles)
    ax.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, -0.17),
        ncols=max(columns, 1),
        columnspacing=1.2,
        handlelength=1.8,
    )
