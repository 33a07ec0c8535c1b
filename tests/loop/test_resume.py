"""A run that is killed and started again ends where an uninterrupted one ends.

"The same" is meant bit for bit: parameters, metrics, predictions, and what was spent.
"""

import json
import shutil
import signal
import time


def test_killed_anywhere_it_ends_at_the_same_parameters(
    o1jax, tiny, tmp_path, finished, differences
):
    workdir = tmp_path / "run"
    command = ("run", tiny, "--workdir", workdir)
    there = lambda pattern: [str(p.relative_to(workdir)) for p in workdir.glob(pattern)]

    # While the first evaluation is graded: nothing of it is kept.
    o1jax.killed_at("o1jax.loop.answer:Grader.submit", 2, *command)
    assert there("stages/*") == [] and there("tokenizer.model")

    # In stage one, in front of its first checkpoint: it begins anew.
    o1jax.killed_at("o1jax.loop.metrics:Metrics.log", 3, *command)
    assert there("stages/*") == ["stages/00-before.json"]
    assert len((workdir / "metrics.jsonl").read_text().splitlines()) == 1

    # While a checkpoint is written: what stands of it is no checkpoint.
    o1jax.killed_at("o1jax.loop.manifest:write", 2, *command)
    assert there("checkpoints/*/??????") == ["checkpoints/01-one/000003"]
    assert there("checkpoints/*/000006.*")

    # Between a stage's last checkpoint and its record.
    o1jax.killed_at("o1jax.loop.workdir:Workdir.finish", 1, *command)
    assert there("checkpoints/*/000008") and not there("stages/01*")

    # Between two stages.
    o1jax.killed_at("o1jax.loop.train:Checkpoints", 2, *command)
    assert there("stages/01*") and not there("checkpoints/02*")

    # In stage two, at a moment that only the watcher chooses.
    process = o1jax.start(*command)
    metrics = workdir / "metrics.jsonl"
    while process.poll() is None and len(metrics.read_text().splitlines()) < 10:
        time.sleep(0.002)
    process.kill()
    process.communicate()
    assert process.returncode == -9

    # In the last evaluation, and in front of the results.
    o1jax.killed_at("o1jax.loop.evaluate:_write_predictions", 1, *command)
    assert there("stages/02*") and not there("stages/03*")
    o1jax.killed_at("o1jax.loop.run:write_json", 1, *command)
    assert there("stages/03*") and not there("results.json")

    code, _, err = o1jax(*command)
    assert (code, err) == (0, "")
    assert differences(workdir, finished.workdir) == []
    steps = [json.loads(x)["step"] for x in metrics.read_text().splitlines()]
    assert steps == list(range(1, 19))  # 8 + 10, no gap and none twice


def damage(checkpoint):
    """Flips a byte in the largest file of a step."""
    file = max(checkpoint.glob("state/**/*"), key=lambda f: f.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_a_damaged_newest_checkpoint_costs_some_steps(
    o1jax, tiny, copied, finished, differences
):
    folder = copied / "checkpoints" / "02-two"
    for file in ("stages/02-two.json", "stages/03-after.json"):
        (copied / file).unlink()
    damage(folder / "000010")
    code, _, err = o1jax("run", tiny, "--workdir", copied)
    assert code == 0
    first = err.splitlines()[0]
    assert first.startswith("checkpoint of step 10 is broken (")
    assert first.endswith(f"moved to {folder / 'broken-000010'}, going on from step 9")
    shutil.rmtree(folder / "broken-000010")
    assert differences(copied, finished.workdir) == []


def test_a_stage_whose_last_parameters_are_damaged_is_no_longer_done(
    o1jax, tiny, copied, finished, differences
):
    (copied / "stages" / "03-after.json").unlink()
    damage(copied / "checkpoints" / "02-two" / "000010")
    code, _, err = o1jax("run", tiny, "--workdir", copied)
    assert code == 0
    assert "stage two is run again: no usable checkpoint in" in err
    assert "going on from step 9" in err
    assert differences(copied, finished.workdir) == []


def test_ctrl_c_is_quiet_and_leaves_the_checkpoints_intact(
    o1jax, tiny, copied, finished, differences
):
    for file in ("stages/02-two.json", "stages/03-after.json", "results.json"):
        (copied / file).unlink()
    shutil.rmtree(copied / "checkpoints" / "02-two")
    process = o1jax.start("run", tiny, "--workdir", copied)
    while process.poll() is None and not list(copied.glob("checkpoints/02-two/??????")):
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert all(line.startswith("two ") for line in err.splitlines())  # the bar
    assert not (copied / "results.json").exists()
    # How often a run saves may change on the way.
    often = ("--set", "Imitate.checkpoint_every=1")
    assert o1jax("run", tiny, "--workdir", copied, *often)[0] == 0
    assert differences(copied, finished.workdir) == []


def test_ctrl_c_while_a_program_is_compiled_is_no_crash(o1jax, tiny, tmp_path):
    options = {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    process = o1jax.start("run", tiny, "--workdir", tmp_path / "run", **options)
    while process.poll() is None and not (tmp_path / "run/tokenizer.model").exists():
        time.sleep(0.002)
    time.sleep(0.3)  # a second and more of compilation begins here
    process.send_signal(signal.SIGINT)
    assert process.communicate() == ("", "")
    assert process.returncode == 130
