"""The presets: each says whom it follows and what it leaves out, and each runs."""

import json
import re
from pathlib import Path

import pytest

import o1jax.loop.experiment  # noqa: F401  registers every config class
from o1jax.config import check_workdir, load
from o1jax.loop.run import run

FOLDER = Path(__file__).parents[2] / "experiments" / "presets"
PRESETS = sorted(file.stem for file in FOLDER.glob("*.gin"))
ARXIV = re.compile(r"arXiv (\d{4}\.\d{5})")
# What a whole run does for minutes, done for seconds.
SHORT = {
    "Imitate.steps": 2,
    "TrainReward.steps": 2,
    "TrainReward.rows": 16,
    "TraceConfig.problems": 16,
    "Improve.rounds": 1,
    "Improve.questions": 8,
    "Improve.samples": 4,
    "Improve.rows": 32,
    "HeldOut.problems": 8,
    "HeldOut.samples": 2,
    "Probe.problems": 8,
    "Evaluate.problems": 8,
    "Evaluate.samples": 2,
    "Compare.problems": 8,
    "Compare.budgets": (2,),
}

# Pairs of right and wrong answers need a policy that is right now and then.
LEARNS = ["facts/Imitate.steps=100", "traces/TraceConfig.problems=64"]
for scope in ("test", "chains"):
    LEARNS += [f"{scope}/Chain.{end}_steps=1" for end in ("min", "max")]


def header(name):
    lines = (FOLDER / f"{name}.gin").read_text().splitlines()
    taken = lines[: next(i for i, line in enumerate(lines) if line[:1] != "#")]
    return " ".join(line.removeprefix("#").strip() for line in taken)


def shortened(name, *, more=()):
    """Its config, with every field of SHORT that it has and that is not off."""
    file, short = FOLDER / f"{name}.gin", []
    for row in load(file).rows():
        value = SHORT.get(row.name.split("/")[-1])
        if value is not None and row.value != "0":
            short.append(f"{row.name}={value!r}")
    own = {line.partition("=")[0] for line in more}
    return load(file, [*(x for x in short if x.partition("=")[0] not in own), *more])


def test_there_are_the_seven():
    seven = {"cloning", "journey", "marco", "openr", "reflect", "rstar", "still1"}
    assert set(PRESETS) == seven


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_says_what_it_is(name):
    text = header(name)
    assert f"o1jax run experiments/presets/{name}.gin" in text
    assert ARXIV.search(text) and "Left out: " in text
    stages = load(FOLDER / f"{name}.gin").experiment.stages
    kinds = {type(stage).__name__ for stage in stages}
    assert {"Imitate", "Evaluate"} <= kinds
    # Its docs name it with the same source.
    docs = (FOLDER.parents[1] / "docs" / "presets.md").read_text()
    (row,) = (x for x in docs.splitlines() if x.startswith(f"| [{name}]("))
    assert set(ARXIV.findall(row)) <= set(ARXIV.findall(text)) and ARXIV.search(row)


def ran(name, tmp_path, **options):
    loaded = shortened(name, **options)
    check_workdir(loaded, tmp_path)
    run(loaded, tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results["stages"]) == [s.name for s in loaded.experiment.stages]


def test_a_shortened_preset_runs(tmp_path):
    ran("reflect", tmp_path)


@pytest.mark.slow  # a program or two for each of up to fourteen stages: minutes
@pytest.mark.parametrize("name", sorted({*PRESETS} - {"reflect", "journey"}))
def test_every_shortened_preset_runs(name, tmp_path):
    """But for journeys, which a policy of two steps never finds: test_stages.py."""
    ran(name, tmp_path, more=LEARNS if name == "rstar" else ())
