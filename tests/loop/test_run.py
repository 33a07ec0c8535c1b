"""What a run leaves in its workdir, on one device and on a mesh; what it refuses."""

import json
import re

import numpy as np
import pytest

from o1jax.cli import main
from o1jax.data.tokenizer import from_symbols


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def metric(workdir, name):
    return [row[name] for row in lines(workdir / "metrics.jsonl") if name in row]


def test_a_run_leaves_what_its_stages_made(finished):
    workdir = finished.workdir
    steps = lambda stage: sorted(p.name for p in (workdir / stage).iterdir())
    assert steps("checkpoints/01-one") == ["000006", "000008"]  # keep = 2
    assert steps("checkpoints/02-two") == ["000009", "000010"]
    assert steps("predictions") == ["00-before.jsonl", "03-after.jsonl"]
    assert steps("stages") == [
        "00-before.json",
        "01-one.json",
        "02-two.json",
        "03-after.json",
    ]
    for name in ("config.gin", "tokenizer.model", "results.json", "report.png"):
        assert (workdir / name).stat().st_size
    assert finished.stdout.startswith((workdir / "report.md").read_text())

    metrics = lines(workdir / "metrics.jsonl")
    assert [row["step"] for row in metrics] == list(range(1, 19))  # 8 + 10
    # Probes every 4 steps of a stage, and at its end.
    probed = [row["step"] for row in metrics if "accuracy" in row]
    assert probed == [4, 8, 8 + 4, 8 + 8, 8 + 10]
    # The second stage goes on from the first one's parameters.
    loss = metric(workdir, "loss")
    assert loss[8] < loss[0] - 0.3


def test_results_hold_what_the_report_needs(finished):
    results = json.loads((finished.workdir / "results.json").read_text())
    assert list(results["stages"]) == ["before", "one", "two", "after"]
    assert results["stages"]["two"]["steps"] == 10
    after = results["stages"]["after"]
    assert (after["problems"], after["samples"], after["k"]) == (8, 3, [1, 2])
    predictions = lines(finished.workdir / "predictions" / "03-after.jsonl")
    assert len(predictions) == 8
    greedy = [p["greedy_grade"] for p in predictions]
    assert after["greedy"][0] == np.mean(greedy)
    sampled = [p["samples_right"] / p["samples"] for p in predictions]
    assert after["pass_at_k"][0][0] == pytest.approx(np.mean(sampled))

    spent = {row["kind"]: row for row in results["ledger"]}
    assert spent["train"]["tokens"] == 18 * 8 * 12  # steps x rows x length
    assert spent["evaluate"]["flops"] > 0
    seconds = sum(row["seconds"] for row in results["ledger"] if row["kind"] != "total")
    assert 0 < seconds <= results["seconds"]


def test_each_program_is_compiled_once_a_stage_and_shape(finished):
    """Once an update and a sampler of the probe; a greedy and a random one to evaluate.

    Nothing is compiled for a probe that is not a stage's first.
    """
    compiled = re.findall(r"Compiling jit\((\w+)\)", finished.stderr)
    assert compiled.count("update") == 2
    assert compiled.count("sample") == 2 + 2 * 2
    assert compiled.count("init") == 1
    for stage, steps in (("one", 8), ("two", 10)):
        begin = finished.stderr.index(f"{stage} 4/{steps}")
        end = finished.stderr.index(f"{stage} {steps}/{steps}")
        assert "Compiling" not in finished.stderr[begin:end]


def test_a_run_warns_of_nothing(finished):
    """Under -W always, which shows all warnings, files left open among them."""
    # Nor of a disk that is slow while other tests use it, which orbax does.
    expected = r"(before|one|two|after)\b|.*jax\._src|WARNING:absl:Waiting for previous"
    lines = finished.stderr.splitlines()
    assert [line for line in lines if not re.match(expected, line)] == []


def test_running_again_does_nothing_and_another_config_is_refused(
    o1jax, tiny, finished, copied, differences, capsys
):
    stamps = {p: p.stat().st_mtime_ns for p in copied.glob("[ct]*/**/*")}
    code, out, err = o1jax("run", tiny, "--workdir", copied)
    assert (code, out.splitlines()[:-1], err) == (
        0,
        finished.stdout.splitlines()[:-1],
        "",
    )
    assert stamps == {p: p.stat().st_mtime_ns for p in copied.glob("[ct]*/**/*")}
    assert differences(copied, finished.workdir) == []

    other = ["run", str(tiny), "--workdir", str(copied), "--set", "Experiment.seed=1"]
    assert main(other) == 2
    assert capsys.readouterr().err == (
        f"o1jax: error: {copied} holds a run of another config (Experiment.seed was 0, "
        "is 1): choose a fresh --workdir\n"
    )


def test_a_mesh_trains_and_evaluates_like_one_device(o1jax, tiny, finished, tmp_path):
    workdir = tmp_path / "mesh"
    mesh = ("--set", "MeshConfig.fsdp=2", "--set", "MeshConfig.tensor=2")
    code, _, err = o1jax("run", tiny, "--workdir", workdir, *mesh, devices=8)
    assert code == 0, err
    for name in ("loss", "grad_norm"):
        np.testing.assert_allclose(
            metric(workdir, name), metric(finished.workdir, name), rtol=1e-4
        )
    # The parameters before training are the same, and so is every sample.
    first = [w / "stages" / "00-before.json" for w in (workdir, finished.workdir)]
    here, there = (json.loads(file.read_text())["results"] for file in first)
    assert here == there and here["tokens_per_sample"] > 1
    assert len(lines(workdir / "predictions" / "03-after.jsonl")) == 8


GOAL = """
Experiment.task = @Chain()
Experiment.stages = [@Imitate()]
Chain.min_steps = 1
Chain.max_steps = 1
Chain.modulus = 7
Chain.operators = '+'
PolicyConfig.width = 16
PolicyConfig.layers = 1
PolicyConfig.heads = 2
PolicyConfig.ff = 16
BatchConfig.rows = 64
BatchConfig.length = 8
SamplerConfig.max_new_tokens = 4
OptimizerConfig.learning_rate = 0.02
Imitate.steps = 500
Probe.every = 5
Probe.problems = 8
Probe.stop_at = 0.1
"""


def test_a_stage_that_reached_its_goal_takes_no_step_more(o1jax, tmp_path):
    """Nor does it if it was killed between its last checkpoint and its record."""
    (tmp_path / "goal.gin").write_text(GOAL)
    workdir = tmp_path / "run"
    command = ("run", tmp_path / "goal.gin", "--workdir", workdir)
    o1jax.killed_at("o1jax.loop.workdir:Workdir.finish", 1, *command)
    metrics = lines(workdir / "metrics.jsonl")
    # Any answer in the right form is right one time in seven.
    assert metrics[-1]["accuracy"] >= 0.1 and metrics[-1]["step"] < 500
    assert all(row.get("accuracy", 0) < 0.1 for row in metrics[:-1])
    assert o1jax("run", *command[1:])[0] == 0
    assert lines(workdir / "metrics.jsonl") == metrics
    (stage,) = (workdir / "stages").iterdir()
    record = json.loads(stage.read_text())
    assert record["steps"] == record["results"]["steps"] == metrics[-1]["step"]
    assert record["results"]["accuracy"] == metrics[-1]["accuracy"]


def refused(capsys, *args):
    assert main([str(a) for a in args]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    return err.removeprefix("o1jax: error: ").rstrip()


def test_rows_that_the_mesh_cannot_share_are_refused_at_once(tiny, tmp_path, capsys):
    """This process has 8 devices, which share the rows if no axis is given."""
    command = ("run", tiny, "--workdir", tmp_path / "run")
    assert refused(capsys, *command, "--set", "two/BatchConfig.rows=12") == (
        "stage 'two': BatchConfig.rows is 12, which the 8 row shards of the mesh "
        "cannot share evenly"
    )
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_tokenizer_without_the_words_of_a_task_is_refused(tiny, tmp_path, capsys):
    from_symbols(["a", ";"]).save(tmp_path / "other.model")
    command = ("run", tiny, "--workdir", tmp_path / "run")
    file = ("--set", f"TokenizerConfig.path='{tmp_path}/other.model'")
    kind = ("--set", "TokenizerConfig.kind='file'")
    assert refused(capsys, *command, *kind, *file) == (
        "the tokenizer of TokenizerConfig.path does not know '=', which the task of a "
        "stage needs"
    )
