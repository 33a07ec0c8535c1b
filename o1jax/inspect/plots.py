"""The panels of report.png: one function a kind of figure, side by side in a row.

In: figures as report.py describes them, their data filled in. Out: a PNG. Series differ
in colour (Okabe and Ito's palette, safe for the colour-blind), marker and line.
"""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#222222")
MARKERS = "osD^vPX"
ROW = 3  # panels side by side at most, to be legible on a page; more wrap
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


def draw(figures: Sequence[Mapping]) -> bytes:
    """A PNG with a panel for each figure. ValueError for an unknown kind."""
    for figure in figures:
        if figure.get("kind") not in FIGURES:
            known = ", ".join(FIGURES)
            raise ValueError(
                f"unknown figure kind {figure.get('kind')!r}; known: {known}"
            )
    rows = math.ceil(len(figures) / ROW)
    columns = math.ceil(len(figures) / rows)
    with matplotlib.rc_context(STYLE):
        page = Figure(figsize=(4.6 * columns, 3.9 * rows), layout="constrained")
        page.get_layout_engine().set(w_pad=0.08, h_pad=0.08)
        panels = page.subfigures(rows, columns, squeeze=False, wspace=0.03).ravel()
        for panel, figure in zip(panels, figures):
            panel.suptitle(
                figure["title"], x=0.03, ha="left", fontsize=11, fontweight="bold"
            )
            FIGURES[figure["kind"]](panel, figure)
        png = io.BytesIO()
        page.savefig(png, format="png", dpi=160)
    return png.getvalue()


def curve(panel: SubFigure, figure: Mapping) -> None:
    """Metrics against steps; series of different y_label in plots above each other."""
    series = [{"y_label": figure.get("y_label", ""), **s} for s in figure["series"]]
    labels = list(dict.fromkeys(s["y_label"] for s in series))
    axes = panel.subplots(len(labels), 1, sharex=True, squeeze=False)[:, 0]
    for i, one in enumerate(series):
        ax = axes[labels.index(one["y_label"])]
        x, y = _numbers(one["x"]), _numbers(one["y"])
        label = one.get("label")
        if len(y) > 200:  # noise as a haze, its running mean as the line
            window = len(y) // 50
            ax.plot(x, y, color=COLORS[i % 7], alpha=0.22, linewidth=0.8)
            x, y = _running(x, window), _running(y, window)
            label = f"{label} (mean of {window})"
        marker = MARKERS[i % 7] if len(y) <= 30 else None
        ax.plot(x, y, color=COLORS[i % 7], marker=marker, label=label)
        _band(ax, one, COLORS[i % 7])
    for ax, label in zip(axes, labels):
        ax.set_ylabel(label)
        ax.xaxis.set_major_formatter(FuncFormatter(_short))
        ax.legend(loc="best")
    axes[-1].set_xlabel(figure.get("x_label", "step"))
    panel.align_ylabels(axes)


def coverage(panel: SubFigure, figure: Mapping) -> None:
    """A share against samples or tokens on a log axis, with exp(a x^b) dashed."""
    ax = panel.subplots()
    everything = []
    for i, one in enumerate(figure["series"]):
        x, y, color = _numbers(one["x"]), _numbers(one["y"]), COLORS[i % 7]
        everything += one["x"]
        fit = one.get("fit")
        line = "none" if fit else "-"
        ax.plot(
            x, y, color=color, marker=MARKERS[i % 7], linestyle=line, label=one["label"]
        )
        _band(ax, one, color)
        if fit:
            dense = np.geomspace(x.min(), x.max(), 200)
            name = rf"$\exp({fit['a']:.2f}\,x^{{{fit['b']:.2f}}})$"
            if fit.get("r2") is not None:
                name += rf",  $R^2$ {fit['r2']:.3f}"
            smooth = np.exp(fit["a"] * dense ** fit["b"])
            ax.plot(dense, smooth, color=color, linestyle="--", label=name)
    _log_axis(ax, everything)
    ax.set_ylim(0, min(1.02, max(0.05, ax.get_ylim()[1])))
    ax.set_xlabel(figure.get("x_label", "samples per problem"))
    ax.set_ylabel(figure.get("y_label", "pass@k"))
    _legend_below(ax)


def bars(panel: SubFigure, figure: Mapping) -> None:
    """A share for each category, series side by side, intervals as whiskers."""
    ax = panel.subplots()
    series, names = figure["series"], figure["categories"]
    width = 0.76 / len(series)
    for i, one in enumerate(series):
        at = np.arange(len(names)) + (i - (len(series) - 1) / 2) * width
        y = _numbers(one["y"])
        ax.bar(at, y, 0.92 * width, color=COLORS[i % 7], label=one.get("label"))
        if one.get("lo") and one.get("hi"):
            ends = np.array([y - _numbers(one["lo"]), _numbers(one["hi"]) - y])
            ax.errorbar(
                at, y, np.maximum(ends, 0), fmt="none", ecolor="#333333", elinewidth=1
            )
    ax.set_xticks(range(len(names)), [str(name) for name in names])
    ax.grid(axis="x", visible=False)
    ax.set_ylim(0, max(0.05, ax.get_ylim()[1]))
    ax.set_xlabel(figure.get("x_label", "difficulty"))
    ax.set_ylabel(figure.get("y_label", "accuracy"))
    _legend_below(ax)


FIGURES: dict[str, Callable[[SubFigure, Mapping], None]] = {
    "curve": curve,
    "coverage": coverage,
    "bars": bars,
}


def _numbers(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if v is None else v for v in values], float)


def _band(ax: Axes, one: Mapping, color: str) -> None:
    if one.get("lo") and one.get("hi"):
        lo, hi = _numbers(one["lo"]), _numbers(one["hi"])
        ax.fill_between(one["x"], lo, hi, color=color, alpha=0.16, linewidth=0)


def _running(values: np.ndarray, window: int) -> np.ndarray:
    return np.convolve(values, np.full(window, 1 / window), "valid")


def _log_axis(ax: Axes, x: Sequence[float]) -> None:
    """Ticks at the powers of 2 if the data lie there, else at those of 10."""
    two = all(v > 0 and math.log2(v).is_integer() for v in x)
    ax.set_xscale("log", base=2 if two else 10)
    if two:
        powers = range(int(math.log2(min(x))), int(math.log2(max(x))) + 1)
        ax.set_xticks([2**p for p in powers[:: 1 + len(powers) // 8]])
    elif max(x) < 30 * min(x):  # less than two decades have too few powers of 10
        ax.set_xticks(_ticks(x))
    ax.xaxis.set_major_formatter(FuncFormatter(_short))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.xaxis.set_minor_locator(NullLocator())


def _ticks(x: Sequence[float]) -> np.ndarray:
    """The data where their labels do not touch, else 1, 2 and 5 of each decade."""
    data = np.unique(x)
    if np.all(data[1:] > 1.5 * data[:-1]):
        return data
    decades = 10.0 ** np.arange(np.floor(np.log10(data[0])), np.log10(data[-1]) + 1)
    ticks = np.outer(decades, [1, 2, 5]).ravel()
    return ticks[(ticks >= data[0]) & (ticks <= data[-1])]


def _short(x: float, _: Any) -> str:
    """64, 2k, 1.5M."""
    for prefix, size in (("M", 1e6), ("k", 1e3)):
        if abs(x) >= size:
            return f"{x / size:.3g}{prefix}"
    return f"{x:g}"


def _legend_below(ax: Axes) -> None:
    handles, _ = ax.get_legend_handles_labels()
    columns = 2 if len(handles) > 2 else len(handles)
    ax.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, -0.17),
        ncols=max(columns, 1),
        columnspacing=1.2,
        handlelength=1.8,
    )
