"""The panels of report.png: one function a kind of figure, side by side in a row.

In: figures as report.py describes them, their data filled in. Out: a PNG.
"""

import io
import math
from collections.abc import Callable, Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import FuncFormatter

from o1jax.inspect.axes import (
    COLORS,
    MARKERS,
    STYLE,
    band,
    hue,
    legend_below,
    log_axis,
    numbers,
    of_one_hue,
    running,
    short,
)
from o1jax.inspect.reward_plots import overoptimisation, reliability

ROW = 3  # panels side by side at most, to be legible on a page; more wrap


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
        for panel, figure in zip(panels, of_one_hue(figures)):
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
        x, y = numbers(one["x"]), numbers(one["y"])
        label = one.get("label")
        if len(y) > 200:  # noise as a haze, its running mean as the line
            window = len(y) // 50
            ax.plot(x, y, color=COLORS[hue(one, i)], alpha=0.22, linewidth=0.8)
            x, y = running(x, window), running(y, window)
            label = f"{label} (mean of {window})"
        marker = MARKERS[hue(one, i)] if len(y) <= 30 else None
        ax.plot(x, y, color=COLORS[hue(one, i)], marker=marker, label=label)
        band(ax, one, COLORS[hue(one, i)])
    for ax, label in zip(axes, labels):
        ax.set_ylabel(label)
        ax.xaxis.set_major_formatter(FuncFormatter(short))
        ax.legend(loc="best")
    axes[-1].set_xlabel(figure.get("x_label", "step"))
    panel.align_ylabels(axes)


def coverage(panel: SubFigure, figure: Mapping) -> None:
    """A share against samples or tokens on a log axis, with exp(a x^b) dashed."""
    ax = panel.subplots()
    everything = []
    for i, one in enumerate(figure["series"]):
        x, y, color = numbers(one["x"]), numbers(one["y"]), COLORS[hue(one, i)]
        everything += one["x"]
        fit = one.get("fit")
        line = "none" if fit else "-"
        ax.plot(
            x,
            y,
            color=color,
            marker=MARKERS[hue(one, i)],
            linestyle=line,
            label=one["label"],
        )
        band(ax, one, color)
        if fit:
            dense = np.geomspace(x.min(), x.max(), 200)
            name = rf"$\exp({fit['a']:.2f}\,x^{{{fit['b']:.2f}}})$"
            if fit.get("r2") is not None:
                name += rf",  $R^2$ {fit['r2']:.3f}"
            smooth = np.exp(fit["a"] * dense ** fit["b"])
            ax.plot(dense, smooth, color=color, linestyle="--", label=name)
    log_axis(ax, everything)
    ax.set_ylim(0, min(1.02, max(0.05, ax.get_ylim()[1])))
    ax.set_xlabel(figure.get("x_label", "samples per problem"))
    ax.set_ylabel(figure.get("y_label", "pass@k"))
    legend_below(ax)


def bars(panel: SubFigure, figure: Mapping) -> None:
    """A share for each category, series side by side, intervals as whiskers."""
    ax = panel.subplots()
    series, names = figure["series"], figure["categories"]
    width = 0.76 / len(series)
    for i, one in enumerate(series):
        at = np.arange(len(names)) + (i - (len(series) - 1) / 2) * width
        y = numbers(one["y"])
        ax.bar(at, y, 0.92 * width, color=COLORS[hue(one, i)], label=one.get("label"))
        if one.get("lo") and one.get("hi"):
            ends = np.array([y - numbers(one["lo"]), numbers(one["hi"]) - y])
            ax.errorbar(
                at, y, np.maximum(ends, 0), fmt="none", ecolor="#333333", elinewidth=1
            )
    ax.set_xticks(range(len(names)), [str(name) for name in names])
    ax.grid(axis="x", visible=False)
    ax.set_ylim(0, max(0.05, ax.get_ylim()[1]))
    ax.set_xlabel(figure.get("x_label", "difficulty"))
    ax.set_ylabel(figure.get("y_label", "accuracy"))
    legend_below(ax)


FIGURES: dict[str, Callable[[SubFigure, Mapping], None]] = {
    "curve": curve,
    "coverage": coverage,
    "bars": bars,
    "reliability": reliability,
    "overoptimisation": overoptimisation,
}
