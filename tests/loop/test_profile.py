"""`o1jax profile`: seconds of the steps behind the warm-up, by kind of work."""

import json
import time
from dataclasses import replace

import pytest

import o1jax.loop.experiment  # noqa: F401  registers every config class
from o1jax.config import load
from o1jax.inspect.report import write_report
from o1jax.loop import timing
from o1jax.loop.ledger import Ledger
from o1jax.loop.profile import profile, sections
from o1jax.loop.timing import Timed, Watch, watching


def test_only_the_steps_behind_the_warm_up_count(tmp_path):
    ledger = Ledger()
    ledger.add("train", tokens=1, flops=999, seconds=99)  # before the stage
    watch = Watch(warmup=1, steps=2, folder=tmp_path, ledger=ledger)
    with watching(watch):
        for number in range(4):
            with timing.step("stage", number, ledger):
                time.sleep(0.01)
                ledger.add("train", tokens=1, flops=10.0**number, seconds=0.004)
    assert watch.timed.steps == 2 and watch.timed.flops == {"train": 10 + 100}
    assert watch.timed.kinds["train"] == pytest.approx(0.008)
    assert 0.02 <= watch.timed.seconds < 5
    assert watch.timed.host == pytest.approx(watch.timed.seconds - 0.008)
    assert list(tmp_path.rglob("*.xplane.pb"))


def test_a_step_that_fails_ends_its_trace(tmp_path):
    """And so does a stage that is over too early: the next trace can begin."""
    ledger = Ledger()

    def one_step(name, steps, error=None):
        watch = Watch(0, steps, tmp_path / name, ledger)
        with watching(watch), timing.step("stage", 0, ledger):
            if error is not None:
                raise error
        return watch.timed

    with pytest.raises(KeyError, match="a step's own"):
        one_step("fails", 1, KeyError("a step's own"))
    assert one_step("ends", 2) is None
    assert one_step("next", 1).steps == 1
    for name in ("fails", "ends", "next"):
        assert list((tmp_path / name).rglob("*.xplane.pb"))


def test_a_table_splits_a_step_and_leaves_the_rest_to_the_host():
    found = {
        "one": Timed(2, 4.0, {"train": 3.0}, {"train": 12.0}),
        "two": Timed(2, 4.0, {"rollout": 1.0, "train": 2.0}, {"train": 8.0}),
    }
    seconds, speed = (section["table"] for section in sections(found))
    columns = ["stage", "steps", "seconds", "update", "rollout", "host"]
    assert seconds["columns"] == columns
    assert seconds["rows"] == [
        ["one", 2, 2.0, 1.5, None, 0.5],
        ["two", 2, 2.0, 1.0, 0.5, 0.5],
    ]
    assert speed["rows"] == [["one", 4.0, None], ["two", 4.0, None]]


def test_the_command_traces_every_stage_that_has_steps(tiny, o1jax, tmp_path):
    options = ("--steps", 2, "--warmup", 1, "--out", tmp_path / "out")
    code, out, err = o1jax("profile", tiny, *options)
    assert code == 0, err
    assert "Seconds a step" in out and "traces for xprof" in out
    results = json.loads((tmp_path / "out/results.json").read_text())
    rows = results["sections"][0]["table"]["rows"]
    assert [row[:2] for row in rows] == [["one", 2], ["two", 2]]
    for name in ("one", "two"):
        assert list((tmp_path / "out/traces" / name).rglob("*.xplane.pb"))
    assert not (tmp_path / "out/checkpoints").exists()
    assert write_report(tmp_path / "out").exists()


@pytest.mark.parametrize(
    "options, said",
    [
        (("--policy", "nowhere"), "nowhere is no workdir"),
        (("--steps", "0"), "--steps"),
    ],
    ids=["policy", "steps"],
)
def test_mistakes_are_one_line(tiny, o1jax, tmp_path, options, said):
    code, _, err = o1jax("profile", tiny, "--out", tmp_path / "out", *options)
    assert code == 2 and said in err and len(err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_what_can_not_be_profiled_is_said(finished, tiny, tmp_path):
    ask = {"steps": 1, "warmup": 1}
    other = load(tiny, ["PolicyConfig.width=8"])
    with pytest.raises(ValueError, match="is not the one of this experiment"):
        profile(other, tmp_path, policy=finished.workdir, **ask)
    loaded = load(tiny)
    measured = replace(loaded.experiment, stages=loaded.experiment.stages[:1])
    with pytest.raises(ValueError, match="nothing to profile"):
        profile(replace(loaded, experiment=measured), tmp_path, policy=None, **ask)
