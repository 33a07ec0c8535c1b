"""One experiment on 8 devices, whichever processes they belong to.

Samples, trees, predictions and what was spent are the same to the last byte: rows
never talk to each other. Losses, gradients and parameters are sums over devices, which
gloo adds up in another order than one process does: the last bit of an f32 may differ.
"""

import json
import signal

import numpy as np
import pytest

from o1jax.loop.checkpoint_read import restore_params

ULPS = 2.0**-20  # of the largest number: 8 times the last bit of an f32


def read(file):
    """A JSON file without times."""

    def untimed(value):
        if isinstance(value, dict):
            return {k: untimed(v) for k, v in value.items() if k != "seconds"}
        return [untimed(v) for v in value] if isinstance(value, list) else value

    return untimed(json.loads(file.read_text()))


def arrays(workdir, stage="00-imitate", step=None):
    """Parameters by name, as one process and one device read them."""
    found = {}

    def walk(tree, name):
        for key, value in tree.items():
            path = f"{name}/{key}"
            walk(value, path) if isinstance(value, dict) else found.update(
                {path: np.asarray(value)}
            )

    walk(restore_params(workdir / "checkpoints" / stage, step).params, "")
    return found


def assert_same_run(a, b, stages=3):
    """All but the last bits of sums over devices."""
    one, other = (
        [json.loads(x) for x in (w / "metrics.jsonl").read_text().splitlines()]
        for w in (a, b)
    )
    assert [x["step"] for x in one] == [x["step"] for x in other]
    assert "grad_norm" in one[0] and "loss" in one[0]
    for x, y in zip(one, other):
        assert x == pytest.approx(y, rel=1e-5, abs=1e-6)
    mine, theirs = arrays(a), arrays(b)
    assert mine.keys() == theirs.keys()
    for name, array in mine.items():
        near = ULPS * max(np.abs(array).max(), 1)
        np.testing.assert_allclose(theirs[name], array, rtol=0, atol=near, err_msg=name)
    names = [p.relative_to(a) for p in (*a.glob("predictions/*"), *a.glob("stages/*"))]
    assert len(names) == 2 + stages
    for name in names:
        if name.suffix == ".jsonl":
            assert (a / name).read_bytes() == (b / name).read_bytes(), name
        else:
            assert read(a / name)["ledger"] == read(b / name)["ledger"], name


@pytest.fixture(scope="module")
def one(start, tmp_path_factory):
    """The run of one process. Read only."""
    workdir = tmp_path_factory.mktemp("one") / "run"
    code, _, err = start(workdir, 1).end()
    assert code == 0, err
    return workdir


@pytest.mark.multihost
def test_two_processes_end_where_one_does_though_one_was_told_to_stop(
    one, start, tmp_path
):
    """SIGTERM to the second alone: both save the same step and exit with 0."""
    workdir = tmp_path / "two"
    job = start(workdir, 2)
    assert job.until(lambda: job.steps() > 1)
    job.kill(1, signal.SIGTERM)
    code, out, err = job.end()
    assert (code, out) == (0, ""), err
    (step,) = (int(x.name) for x in workdir.glob("checkpoints/*/??????"))
    assert err == (
        f"o1jax: SIGTERM: step {step} is saved in {workdir}/checkpoints/00-imitate; "
        "run again to go on"
    )
    assert 2 <= step < 30 and job.steps() == step

    job = start(workdir, 2)
    code, out, err = job.end()
    assert code == 0, err
    assert out.count("Report: ") == 1  # one process speaks
    assert_same_run(one, workdir)


@pytest.mark.multihost
@pytest.mark.slow  # five starts of four processes on a few cores: minutes
def test_four_processes_one_killed_again_and_again_end_where_one_does(
    one, start, tmp_path
):
    workdir = tmp_path / "four"
    for index, steps in ((2, 1), (0, 12), (3, 22)):
        job = start(workdir, 4)
        assert job.until(lambda job=job, steps=steps: job.steps() >= steps)
        job.kill(index)
        code, _, err = job.end()
        assert code != 0
        assert "local.sh: process" in err
    code, _, err = start(workdir, 4).end()
    assert code == 0, err
    assert_same_run(one, workdir)


@pytest.mark.multihost
@pytest.mark.slow  # two runs of four stages in three processes: minutes on a few cores
def test_learning_from_its_own_answers_is_the_same(start, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for workdir, count in ((one, 1), (two, 2)):
        code, _, err = start(workdir, count, file=start.learns).end()
        assert code == 0, err
    assert_same_run(one, two, stages=4)


def test_the_script_ends_the_others_when_one_fails(start, tmp_path):
    """A config that no process accepts: each says so once; no one waits."""
    job = start(tmp_path / "run", 2, "--set", "Imitate.steps=0")
    code, out, err = job.end()
    assert (code, out) == (2, "")
    assert err.startswith("o1jax: error: --set: Imitate.steps = 0:")
