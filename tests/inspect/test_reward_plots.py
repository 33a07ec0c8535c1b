"""Panels about reward models show what was measured, where it was measured."""

import io

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from o1jax.inspect import plots, reward_plots

RELIABILITY = {
    "kind": "reliability",
    "series": [
        {
            "label": "2k",
            "x": [0.2, 0.9],
            "y": [0.4, 0.8],
            "count": [1, 3],
            "ece": 0.125,
        },
        {"label": "8k", "x": [0.5], "y": [0.5], "lo": [0.4], "hi": [0.6], "count": [7]},
    ],
}
OVEROPTIMISATION = {
    "kind": "overoptimisation",
    "series": [
        {
            "label": "small",
            "x": [0.0, 1.0, 4.0],
            "y": [0.3, 0.6, 0.5],
            "lo": [0.2, 0.5, 0.4],
            "hi": [0.4, 0.7, 0.6],
            "fit": {"form": "best_of_n", "alpha": 0.5, "beta": 0.2, "start": 0.3}
            | {"peak": 1.25},
        },
        {"label": "small", "role": "proxy", "x": [0, 1, 4], "y": [0.3, 0.8, 0.9]},
        {"label": "large", "x": [0, 1, 4], "y": [0.3, 0.6, None]},
    ],
}


def panel():
    return Figure(figsize=(4, 4)).subfigures(1, 1)


def test_reliability_draws_bins_by_size_below_the_diagonal():
    page = panel()
    reward_plots.reliability(page, RELIABILITY)
    top, below = page.axes
    diagonal = top.lines[0]
    assert diagonal.get_xdata().tolist() == diagonal.get_ydata().tolist() == [0, 1]
    small = next(c for c in top.collections if c.get_label() == "2k, ECE 0.125")
    assert small.get_offsets().tolist() == [[0.2, 0.4], [0.9, 0.8]]
    fewer, more = small.get_sizes()
    assert more > fewer
    first, second = below.containers
    assert [bar.get_height() for bar in first] == [0.25, 0.75]
    assert [bar.get_height() for bar in second] == [1.0]
    names = [text.get_text() for text in page.legends[0].get_texts()]
    assert names == ["calibrated", "2k, ECE 0.125", "8k"]


def test_overoptimisation_draws_gold_proxy_and_law_over_the_root_of_kl():
    page = panel()
    reward_plots.overoptimisation(page, OVEROPTIMISATION)
    (ax,) = page.axes
    gold, law, peak, proxy, other = ax.lines
    assert gold.get_ydata().tolist() == [0.3, 0.6, 0.5]
    # d = sqrt(KL) ends at 2: 0.3 + 2 (0.5 - 0.2 * 2) = 0.5, as measured.
    assert law.get_ydata()[[0, -1]] == pytest.approx([0.3, 0.5])
    # The peak, d = 0.5 / 0.4, at KL d^2: 0.3 + 0.5^2 / (4 * 0.2).
    assert peak.get_xdata()[0] == pytest.approx(1.25**2)
    assert peak.get_ydata()[0] == pytest.approx(0.6125)
    assert law.get_ydata().max() == pytest.approx(0.6125, abs=1e-4)
    assert proxy.get_color() == gold.get_color() != other.get_color()
    assert proxy.get_markerfacecolor() == "white" != gold.get_markerfacecolor()
    at = ax.transData.transform([(0, 0), (1, 0), (4, 0)])[:, 0]
    assert at[2] - at[0] == pytest.approx(2 * (at[1] - at[0]))
    names = [text.get_text() for text in page.legends[0].get_texts()]
    assert names[:4] == ["small", "large", "proxy", "gold"] and "beta d" in names[4]


def test_overoptimisation_along_training_has_its_own_law_and_plots_by_unit():
    page = panel()
    fit = {"form": "rl", "alpha": 1.0, "beta": 0.5, "peak": None}
    kl = np.linspace(0, 9, 50).tolist()
    gold = {"label": "a", "x": kl, "y": kl, "fit": fit, "y_label": "accuracy"}
    proxy = {**gold, "fit": None, "role": "proxy", "y_label": "log-odds"}
    reward_plots.overoptimisation(page, {"series": [gold, proxy]})
    top, bottom = page.axes
    assert (top.get_ylabel(), bottom.get_ylabel()) == ("accuracy", "log-odds")
    _, law = top.lines  # and no peak
    ends = [0.0, 3 * (1 - 0.5 * np.log(3))]
    assert law.get_ydata()[[0, -1]] == pytest.approx(ends)


def test_a_page_holds_both():
    png = plots.draw(
        [{"title": "a", **RELIABILITY}, {"title": "b", **OVEROPTIMISATION}]
    )
    height, width, _ = imread(io.BytesIO(png)).shape
    assert width > 2 * height  # side by side


@pytest.mark.parametrize("end", [0.003, 0.09, 1, 4.5, 30, 99])
def test_ticks_of_a_root_scale_are_few_and_apart(end):
    found = reward_plots._root_ticks(end)
    assert 4 <= len(found) <= 7 and found[-1] >= 0.4 * end
    assert (np.diff(np.sqrt(found)) > 0.12 * np.sqrt(end)).all()


def test_many_points_along_training_are_a_haze_behind_their_means():
    page = panel()
    x = np.tile(np.linspace(0, 4, 50), 2)  # back and forth: not a curve of KL
    one = {"label": "PRM", "role": "proxy", "x": list(x), "y": list(np.sqrt(x))}
    reward_plots.overoptimisation(page, {"series": [one]})
    haze, means = page.axes[0].lines
    assert len(haze.get_xdata()) == 100 and len(means.get_xdata()) <= 15
    np.testing.assert_allclose(means.get_ydata(), np.sqrt(means.get_xdata()), atol=0.05)
