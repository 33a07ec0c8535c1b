"""The panels of report.png about reward models: calibration and over-optimisation.

In: figures as report.py describes them. Out: drawn panels, one a kind, listed in
plots.FIGURES.

Sources: reliability diagram, Guo et al. 2017 (arXiv:1706.04599); gold and proxy against
KL, Gao et al. 2022 (arXiv:2210.10760).
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from o1jax.inspect.axes import COLORS, MARKERS, band, hue, numbers, short

MEANS = 15  # of the many points that a training leaves


def reliability(panel: SubFigure, figure: Mapping) -> None:
    """Mean label against mean probability, dots by size of bin; below, the sizes."""
    ax, below = panel.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    ideal = {"color": "#888888", "linewidth": 1, "linestyle": "--", "zorder": 1}
    ax.plot([0, 1], [0, 1], label="calibrated", **ideal)
    series = figure["series"]
    for i, one in enumerate(series):
        x, y, color = numbers(one["x"]), numbers(one["y"]), COLORS[hue(one, i)]
        share = numbers(one["count"]) / max(np.nansum(numbers(one["count"])), 1)
        label = one.get("label")
        if one.get("ece") is not None:
            label = f"{label}, ECE {one['ece']:.3f}"
        ax.plot(x, y, color=color, linewidth=1.2, alpha=0.6)
        ax.scatter(
            x,
            y,
            s=14 + 260 * share,
            marker=MARKERS[hue(one, i)],
            color=color,
            edgecolor="white",
            linewidth=0.6,
            label=label,
            zorder=3,
        )
        if one.get("lo") and one.get("hi"):
            ax.vlines(x, numbers(one["lo"]), numbers(one["hi"]), color=color, lw=1)
        width = 0.05 / len(series)
        at = x + (i - (len(series) - 1) / 2) * width
        below.bar(at, share, width, color=color, alpha=0.85)
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    ax.set_ylabel(figure.get("y_label", "share of steps that are right"))
    below.set_ylabel("steps")
    below.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:.0f} %"))
    below.yaxis.set_major_locator(MaxNLocator(2))
    below.grid(axis="x", visible=False)
    below.set_xlabel(figure.get("x_label", "mean probability of being right"))
    panel.align_ylabels([ax, below])
    _legend_outside(panel, ax.get_legend_handles_labels()[0], 2)


def overoptimisation(panel: SubFigure, figure: Mapping) -> None:
    """Gold (full) and proxy (hollow, dotted) against KL, which is drawn as its root.

    Series of one label are of one reward model and share its colour. The laws fitted to
    gold are dashed, a triangle at their peak. Series of different y_label stand in
    plots above each other.
    """
    series = [
        {"y_label": figure.get("y_label", "reward"), **s} for s in figure["series"]
    ]
    models = list(dict.fromkeys(one.get("label") for one in series))
    hues = [
        hue(next(s for s in series if s.get("label") == m), i)
        for i, m in enumerate(models)
    ]
    labels = list(dict.fromkeys(one["y_label"] for one in series))
    axes = panel.subplots(len(labels), 1, sharex=True, squeeze=False)[:, 0]
    end = max(np.nanmax(numbers(one["x"])) for one in series) or 1.0
    for one in series:
        ax, model = axes[labels.index(one["y_label"])], models.index(one.get("label"))
        x, y, color = numbers(one["x"]), numbers(one["y"]), COLORS[hues[model]]
        proxy, fit = one.get("role") == "proxy", one.get("fit")
        line = ":" if proxy else "none" if fit else "-"
        if np.any(np.diff(x) < 0):  # along training: points, and their mean as the line
            ax.plot(
                x, y, "o", color=color, markersize=1.5, alpha=0.15 if proxy else 0.3
            )
            x, y = _means(x, y)
        ax.plot(
            x,
            y,
            color=color,
            marker=MARKERS[hues[model]],
            markersize=4.5 if len(x) <= 30 else 2,
            markerfacecolor="white" if proxy else color,
            linestyle=line,
        )
        band(ax, one, color)
        if fit:
            _law(ax, fit, end, color)
    for ax, label in zip(axes, labels):
        ax.set_ylabel(label)
        ax.set_xscale("function", functions=(_root, np.square))
        ax.set_xlim(0, end * 1.04)
        ax.set_xticks(_root_ticks(end))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(FuncFormatter(short))
    axes[-1].set_xlabel(figure.get("x_label", "KL from the start (nats, root scale)"))
    panel.align_ylabels(axes)
    _legend_outside(panel, _keys(series, dict(zip(models, hues))), 3)


def _means(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means of up to MEANS stretches of the root's scale that have points."""
    root = np.sqrt(x)
    place = np.minimum(root / (root.max() or 1) * MEANS, MEANS - 1).astype(int)
    found = np.unique(place)
    mean = lambda of: np.array([of[place == i].mean() for i in found])
    return mean(x), mean(y)


def _law(ax: Axes, fit: Mapping, end: float, color: str) -> None:
    """start + d (alpha - beta d), or with log d, of d = sqrt(KL)."""

    def law(d: np.ndarray) -> np.ndarray:
        bend = d if fit["form"] == "best_of_n" else np.log(np.where(d > 0, d, 1))
        return fit.get("start", 0) + d * (fit["alpha"] - fit["beta"] * bend)

    d = np.linspace(0, math.sqrt(end), 200)
    ax.plot(d**2, law(d), color=color, linestyle="--")
    peak = fit.get("peak")
    if peak is not None and 0 < peak < d[-1]:
        ax.plot(
            peak**2, law(np.array(peak)), "v", color=color, markersize=8, mec="white"
        )


def _keys(series: Sequence[Mapping], models: Mapping[str, int]) -> list[Line2D]:
    """A legend of what differs: the models by colour, then the kinds of line."""
    keys = [
        Line2D([], [], color=COLORS[i], marker=MARKERS[i], lw=0, label=model)
        for model, i in models.items()
    ]
    fits = [one["fit"] for one in series if one.get("fit")]
    if any(one.get("role") == "proxy" for one in series):
        hollow = {"marker": "o", "markerfacecolor": "white", "linestyle": ":"}
        keys.append(Line2D([], [], color="#555555", label="proxy", **hollow))
        style = "none" if fits else "-"
        keys.append(Line2D([], [], color="#555555", marker="o", ls=style, label="gold"))
    for form in dict.fromkeys(fit["form"] for fit in fits):
        law = r"$d\,(\alpha - \beta d)$"
        law = law if form == "best_of_n" else r"$d\,(\alpha - \beta \log d)$"
        keys.append(Line2D([], [], color="#555555", ls="--", label=law))
    return keys


def _root(x: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum(x, 0))  # the axis reaches a little below 0


def _root_ticks(end: float) -> list[float]:
    """Round numbers, so far apart on the root's scale that no labels touch."""
    tenth = 10 ** math.floor(math.log10(end)) / 10
    found = [0.0]
    for x in (m * tenth for m in (1, 4, 10, 20, 40, 70, 100)):
        gap = (math.sqrt(x) - math.sqrt(found[-1])) / math.sqrt(end)
        if x <= end * 1.04 and gap > 0.12:
            found.append(x)
    return found


def _legend_outside(panel: SubFigure, keys: Sequence, columns: int) -> None:
    panel.legend(
        handles=keys,
        loc="outside lower center",
        ncols=min(len(keys), columns),
        columnspacing=1.2,
        handlelength=1.8,
    )
