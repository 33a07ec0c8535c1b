"""A report says what was measured, and leaves out what was not."""

import json

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from o1jax.inspect import axes, plots
from o1jax.inspect.report import format_cell, markdown_table, write_report

COVERAGE = {
    "kind": "coverage",
    "x_label": "samples",
    "series": [
        {
            "label": "after",
            "x": [1, 4, 16],
            "y": [0.3, 0.5, 0.7],
            "lo": [0.2, 0.4, 0.6],
            "hi": [0.4, 0.6, 0.8],
            "fit": {"a": -1.2, "b": -0.45, "r2": 0.991},
        }
    ],
}
BARS = {
    "kind": "bars",
    "categories": [3, 4],
    "series": [
        {"label": "before", "y": [0.5, None], "lo": [0.4, None], "hi": [0.7, None]},
        {"label": "after", "y": [0.8, 0.6], "lo": [0.7, 0.5], "hi": [0.9, 0.7]},
    ],
}
CURVE = {
    "kind": "curve",
    "series": [
        {"metric": "loss", "label": "training", "y_label": "loss (nats)"},
        {"metric": "accuracy", "label": "held-out", "y_label": "accuracy"},
    ],
}


def write(workdir, sections, metrics=(), **results):
    (workdir / "results.json").write_text(json.dumps({"sections": sections, **results}))
    lines = "".join(json.dumps(row) + "\n" for row in metrics)
    (workdir / "metrics.jsonl").write_text(lines)
    return write_report(workdir).read_text()


def panel():
    return Figure(figsize=(4, 4)).subfigures(1, 1)


def test_report_of_a_run(tmp_path):
    table = {"columns": ["policy", "accuracy"], "rows": [["nano", [0.412, 0.371, 0.5]]]}
    text = write(
        tmp_path,
        [
            {"name": "Training", "figure": CURVE},
            {"name": "Held-out", "text": "200 questions.", "table": table},
            {"name": "Coverage", "figure": [COVERAGE, BARS]},
        ],
        metrics=[{"step": 1, "loss": 2.0}, {"step": 2, "loss": None, "accuracy": 0.1}],
        title="Quickstart",
        command="o1jax run quickstart.gin",
        device="2 cores",
        config_fingerprint="3fa9c1",
        seconds=125,
        ledger=[
            {"kind": "train", "tokens": 12000, "flops": 3.5e12, "seconds": 70.0},
            {"kind": "reward", "tokens": 40, "flops": 0, "seconds": 0.0},
        ],
    )
    assert text.splitlines() == [
        "# Quickstart",
        "",
        "```",
        "o1jax run quickstart.gin",
        "```",
        "",
        "Device: 2 cores  ",
        "Time: 2 min 05 s  ",
        "Config: `3fa9c1`",
        "",
        "![Figures of the sections below](report.png)",
        "",
        "## Training",
        "",
        "See the picture above.",
        "",
        "## Held-out",
        "",
        "200 questions.",
        "",
        "| policy |             accuracy |",
        "| ------ | -------------------: |",
        "| nano   | 0.412 [0.371, 0.500] |",
        "",
        "## Coverage",
        "",
        "See the picture above.",
        "",
        "## Compute",
        "",
        "| kind   | tokens |  FLOP | seconds | FLOP/s |",
        "| ------ | -----: | ----: | ------: | -----: |",
        "| train  | 12,000 | 3.5 T |    70.0 |   50 G |",
        "| reward |     40 |     – |       – |      – |",  # noqa: RUF001
    ]
    height, width, _ = imread(tmp_path / "report.png").shape
    assert width > 2.5 * height  # three panels in a row
    assert {p.name for p in tmp_path.iterdir()} == {
        "results.json",
        "metrics.jsonl",
        "report.md",
        "report.png",
    }


def test_what_lacks_data_is_left_out(tmp_path):
    empty = {"name": "Coverage", "figure": {"kind": "coverage", "series": []}}
    nulls = {**BARS, "series": [{"label": "a", "y": [None, None]}]}
    (tmp_path / "report.png").write_bytes(b"of an earlier run")
    text = write(
        tmp_path,
        [
            {"name": "Training", "figure": CURVE},
            empty,
            {"name": "Nothing", "figure": nulls, "table": {"columns": [], "rows": []}},
            {"name": "Words", "text": "Here."},
        ],
    )
    assert text == "# Report\n\n## Words\n\nHere.\n"
    assert not (tmp_path / "report.png").exists()


def test_metrics_merge_by_step_and_a_cut_line_is_passed_over(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "draw", lambda figures: drawn.extend(figures) or b"")
    (tmp_path / "results.json").write_text(
        json.dumps({"sections": [{"name": "Training", "figure": CURVE}]})
    )
    (tmp_path / "metrics.jsonl").write_text(
        '{"loss": 2.0, "step": 1}\n{"loss": 1.0, "step": 2}\n'
        '{"accuracy": 0.5, "step": 2}\n{"loss": 0.'
    )
    write_report(tmp_path)
    loss, accuracy = drawn[0]["series"]
    assert (loss["x"], loss["y"]) == ([1, 2], [2.0, 1.0])
    assert (accuracy["x"], accuracy["y"]) == ([2], [0.5])


def test_curve_may_count_steps_from_an_origin(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(plots, "draw", lambda figures: seen.extend(figures) or b"png")
    rows = [{"step": step, "loss": 1.0 / step} for step in (41, 42)]
    write(tmp_path, [{"name": "Improvement", "figure": CURVE | {"origin": 40}}], rows)
    assert seen[0]["series"][0]["x"] == [1, 2]


def test_curve_stacks_one_plot_for_each_unit():
    page = panel()
    x = list(range(1, 401))
    loss = {"label": "loss", "x": x, "y": [1 / v for v in x], "y_label": "nats"}
    accuracy = {"label": "acc", "x": [100, 400], "y": [0.1, 0.5], "y_label": "share"}
    plots.curve(page, {"kind": "curve", "series": [loss, accuracy]})
    top, bottom = page.axes
    assert (top.get_ylabel(), bottom.get_ylabel()) == ("nats", "share")
    assert bottom.get_xlabel() == "step"
    _, smooth = top.lines  # 400 points: a haze and the mean of 400 // 50 = 8
    assert smooth.get_label() == "loss (mean of 8)"
    assert smooth.get_xdata()[0] == pytest.approx(np.mean(x[:8]))
    assert smooth.get_ydata()[0] == pytest.approx(np.mean([1 / v for v in x[:8]]))


def test_a_label_has_one_colour_on_the_whole_page():
    line = lambda label: {"label": label, "x": [0, 1], "y": [0, 1]}
    bar = lambda label: {"label": label, "y": [1]}
    figures = [
        {"kind": "curve", "series": [line("a"), line("b")]},
        {"kind": "bars", "categories": ["x"], "series": [bar("start"), bar("b")]},
    ]
    hued = axes.of_one_hue(figures)
    found = [[axes.hue(one, 7) for one in figure["series"]] for figure in hued]
    assert found == [[0, 1], [0, 1]]
    figures[1]["series"] = [bar("start"), bar("a"), bar("b")]
    hued = axes.of_one_hue(figures)
    assert [one["hue"] for one in hued[1]["series"]] == [2, 0, 1]


def test_coverage_draws_points_band_and_fit():
    page = panel()
    plots.coverage(page, COVERAGE)
    (ax,) = page.axes
    points, fit = ax.lines
    assert points.get_ydata().tolist() == [0.3, 0.5, 0.7]
    # exp(-1.2 * 1^b) at the first k, exp(-1.2 * 16^-0.45) at the last.
    assert fit.get_ydata()[[0, -1]] == pytest.approx(
        [np.exp(-1.2), np.exp(-1.2 * 16**-0.45)]
    )
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names[0] == "after"
    assert "-1.20" in names[1] and "-0.45" in names[1] and "0.991" in names[1]
    band = ax.collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == 0.2 and band[:, 1].max() == 0.8
    assert ax.get_xscale() == "log" and ax.get_xticks().tolist() == [1, 2, 4, 8, 16]


def test_bars_stand_side_by_side_with_their_intervals():
    page = panel()
    plots.bars(page, BARS)
    (ax,) = page.axes
    heights = [[bar.get_height() for bar in group] for group in ax.containers[::2]]
    assert heights[0][0] == 0.5 and np.isnan(heights[0][1])
    assert heights[1] == [0.8, 0.6]
    before, after = ax.containers[0][0], ax.containers[2][0]
    assert before.get_x() + before.get_width() <= after.get_x()
    whiskers = ax.collections[1].get_segments()  # of "after"
    assert [seg[:, 1].tolist() for seg in whiskers] == [
        pytest.approx([0.7, 0.9]),
        pytest.approx([0.5, 0.7]),
    ]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["3", "4"]


@pytest.mark.parametrize(
    "cell, text",
    [
        (12345, "12,345"),
        (0.41234, "0.412"),
        (3e-4, "0.0003"),
        (12345.6, "12,346"),
        (6.1e13, "6.1e+13"),
        ([0.412, 0.371, 0.455], "0.412 [0.371, 0.455]"),
        ("a|b\nc", "a\\|b c"),
        (True, "yes"),
    ],
)
def test_cells(cell, text):
    assert format_cell(cell) == text


def test_only_columns_of_numbers_are_right_aligned():
    table = markdown_table(["name", "n", "mixed"], [["a", 1, 2], ["b", None, "x"]])
    assert table.splitlines()[1] == "| ---- | --: | ----- |"


@pytest.mark.parametrize(
    "sections, message",
    [
        ([{"name": "A", "figure": {**BARS, "kind": "pie"}}], "figure kind 'pie'"),
        (
            [{"name": "A", "figure": {**BARS, "categories": [3]}}],
            "section 'A': series 'before' has 1 x for 2 y",
        ),
        (
            [{"name": "A", "figure": {**COVERAGE, "series": [{"y": [1.0]}]}}],
            "section 'A': series None has 0 x for 1 y",
        ),
        (
            [
                {
                    "name": "A",
                    "figure": {"series": [{"x": [0], "y": [1], "count": [1, 2]}]},
                }
            ],
            "has 2 count for 1 y",
        ),
        (
            [{"name": "A", "table": {"columns": ["a"], "rows": [[1, 2]]}}],
            "has 2 cells, not 1",
        ),
    ],
)
def test_malformed_results_are_named_and_nothing_is_written(
    tmp_path, sections, message
):
    with pytest.raises(ValueError, match=message):
        write(tmp_path, sections)
    assert not (tmp_path / "report.md").exists()


def test_missing_and_broken_files_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"results\.json is missing"):
        write_report(tmp_path)
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(ValueError, match=r"results\.json is not JSON"):
        write_report(tmp_path)
    (tmp_path / "results.json").write_text("{}")
    (tmp_path / "metrics.jsonl").write_text('oops\n{"step": 1}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl:1: not a line"):
        write_report(tmp_path)


def test_numbers_on_axes_are_short():
    found = [axes.short(x, None) for x in (0, 0.5, 64, 2e3, 1.5e6, 1e9, 2.5e12)]
    assert found == ["0", "0.5", "64", "2k", "1.5M", "1G", "2.5T"]


def test_ticks_are_the_data_unless_their_labels_would_touch():
    assert axes.ticks([128, 64, 32]).tolist() == [32, 64, 128]
    close = [68, 68.015, 203.6, 271.7, 272.9, 539.6, 1087]
    assert axes.ticks(close).tolist() == [100, 200, 500, 1000]
