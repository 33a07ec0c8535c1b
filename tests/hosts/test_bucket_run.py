"""A workdir in a bucket: killed anywhere, its machine lost, it ends as on a disk."""

import json
import os
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from bucket import Bucket

from o1jax.loop.checkpoint_read import restore_params

EXPERIMENT = """
Experiment.task = @Chain()
Experiment.stages = [@one/Imitate(), @two/Imitate()]
one/Imitate.name = 'one'
two/Imitate.name = 'two'
Chain.min_steps = 2
Chain.max_steps = 2
Chain.modulus = 5
PolicyConfig.width = 16
PolicyConfig.layers = 1
PolicyConfig.heads = 2
PolicyConfig.ff = 16
SamplerConfig.max_new_tokens = 6
SamplerConfig.rows = 8
OptimizerConfig.learning_rate = 0.02
OptimizerConfig.warmup_steps = 1
BatchConfig.rows = 8
BatchConfig.length = 12
Imitate.steps = 6
Imitate.checkpoint_every = 2
Probe.problems = 8
"""

ONE = "--xla_force_host_platform_device_count=1"

# Commands of lines on stdin, each in a process that has nothing left to import; killed
# where FUNCTION is called the COUNTth time.
PROCESSES = """
import importlib, json, os, signal, sys
import o1jax.inspect.report, o1jax.loop.experiment, o1jax.loop.run
import gcsfs, google.auth, orbax.checkpoint
from o1jax.cli import main

def killed_at(place, count):
    module, path = place.split(":")
    owner, name = importlib.import_module(module), path
    if "." in path:
        owner, name = getattr(owner, path.split(".")[0]), path.split(".")[1]
    original, calls = getattr(owner, name), []

    def counted(*args, **kwargs):
        calls.append(0)
        if len(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(owner, name, counted)

for line in sys.stdin:
    arguments, out, err, place, count = json.loads(line)
    if not (child := os.fork()):
        for number, file in ((1, out), (2, err)):
            os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        if place:
            killed_at(place, count)
        code = main(arguments)
        sys.stdout.flush()
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def o1jax(tmp_path_factory):
    """o1jax(*arguments, at=FUNCTION, count=COUNT) -> (exit code, stdout, stderr)."""
    folder = tmp_path_factory.mktemp("o1jax")
    (folder / "tiny.gin").write_text(EXPERIMENT)
    with Bucket() as bucket:
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", PROCESSES],
            cwd=folder,
            env=os.environ
            | bucket.environment
            | {
                "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} {ONE}",
                "XDG_CACHE_HOME": str(folder / "cache"),
                "JAX_ENABLE_COMPILATION_CACHE": "true",
                "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

        def run(*arguments, at="", count=0):
            out, err = folder / "out", folder / "err"
            line = [[str(x) for x in arguments], str(out), str(err), at, count]
            process.stdin.write(json.dumps(line) + "\n")
            process.stdin.flush()
            code = int(process.stdout.readline())
            return code, out.read_text(), err.read_text()

        run.folder, run.bucket = folder, bucket
        yield run
        process.stdin.close()
        process.wait()
        process.stdout.close()
        bucket.shutdown()


@pytest.fixture(scope="module")
def disk(o1jax):
    """A run on a disk that was left alone."""
    code, _, err = o1jax("run", "tiny.gin", "--workdir", "disk")
    assert code == 0, err
    return o1jax.folder / "disk"


def assert_same(o1jax, name, disk):
    """The objects of a run in the bucket are the files of the run on the disk."""
    folder = o1jax.folder / name
    o1jax.bucket.write_to(folder, name)
    for file in ("metrics.jsonl", "tokenizer.model", "config.gin"):
        assert (folder / file).read_bytes() == (disk / file).read_bytes(), file
    for stage in ("00-one", "01-two"):
        mine, theirs = (
            json.loads((where / "stages" / f"{stage}.json").read_text())
            for where in (folder, disk)
        )
        assert mine["results"] == theirs["results"]
        mine, theirs = (
            jax.tree.leaves(restore_params(where / "checkpoints" / stage).params)
            for where in (folder, disk)
        )
        for a, b in zip(mine, theirs, strict=True):
            np.testing.assert_array_equal(a, b)
    assert "one" in json.loads((folder / "results.json").read_text())["stages"]
    assert (folder / "report.md").exists()


@pytest.fixture(scope="module")
def killed(o1jax):
    """A run in a bucket that was killed, lost its machine, and went on elsewhere."""
    where = "gs://bucket/run"
    # A push at the start, one with the tokenizer, then one with each step.
    at = {"at": "o1jax.loop.bucket:Bucket.push", "count": 5}
    assert o1jax("run", "tiny.gin", "--workdir", where, **at)[0] == -9
    names = set(o1jax.bucket.objects)
    assert "run/checkpoints/00-one/000004/commit_success.txt" in names
    assert "run/checkpoints/00-one/000006/commit_success.txt" not in names
    assert not any(name.startswith("run/stages") for name in names)
    shutil.rmtree(o1jax.folder / "cache")
    code, _, err = o1jax("run", "tiny.gin", "--workdir", where)
    assert code == 0, err
    assert "gs://bucket/run is mirrored in" in err
    assert "one 5/6" in err and "one 4/6" not in err  # it went on behind step 4
    return where


def test_killed_and_its_machine_lost_it_ends_as_on_a_disk(o1jax, disk, killed):
    assert_same(o1jax, "run", disk)


def test_what_looks_at_a_run_takes_its_address(o1jax, disk, killed):
    options = ("--split", "valid", "--problems", "8", "--samples", "1")
    code, out, err = o1jax("eval", killed, *options)
    assert code == 0, err
    answers = json.loads((disk / "stages/01-two.json").read_text())["results"]
    assert f"| greedy | {answers['accuracy']:.3f} [" in out
    code, out, err = o1jax("inspect", killed)
    assert code == 0, err
    assert "checkpoints/01-two" in out and "gs://bucket/run/config.gin" in out
    code, _, err = o1jax("eval", "gs://bucket/other")
    assert code == 2
    line = "o1jax: error: gs://bucket/other is no workdir: it has no config.gin"
    assert err.splitlines()[-1] == line


def test_another_config_is_refused(o1jax, killed):
    more = ("--set", "BatchConfig.rows=16")
    code, _, err = o1jax("run", "tiny.gin", "--workdir", killed, *more)
    assert code == 2
    said = (
        "o1jax: error: gs://bucket/run holds a run of another config (one/BatchConfig"
    )
    assert err.splitlines()[-1].startswith(said)


def test_a_run_that_was_copied_from_a_disk_goes_on(o1jax, disk):
    """At step 4 of its second stage; a rename made the step whole, here nothing did."""
    gone = ("01-two/000006", "01-two.json", "results.json", "report")
    for file in sorted(disk.rglob("*")):
        name = f"copied/{file.relative_to(disk)}"
        if file.is_file() and not any(part in name for part in gone):
            o1jax.bucket.put(name, file.read_bytes())
    code, _, err = o1jax("run", "tiny.gin", "--workdir", "gs://bucket/copied")
    assert code == 0, err
    assert "two 5/6" in err and "two 4/6" not in err and "one " not in err
    assert_same(o1jax, "copied", disk)


def test_a_bucket_that_fails_and_one_that_lost_objects(o1jax, disk):
    """What stood goes on; a step whose arrays are gone is moved aside."""
    bucket, where = o1jax.bucket, "gs://bucket/fails"
    bucket.breaks = "fails/checkpoints/01-two/000006/state"
    code, _, err = o1jax("run", "tiny.gin", "--workdir", where)
    assert code == 2
    steps = f"{where}/checkpoints/01-two"
    said = f"o1jax: error: checkpoint of step 6 in {steps} was not written ("
    assert err.splitlines()[-1].startswith(said)
    assert err.endswith("; the newest is step 4\n")
    code, _, err = o1jax("run", "tiny.gin", "--workdir", where)  # it can still be read
    assert code == 2
    said = f"o1jax: error: {where}: config.gin can't be written: Forbidden"
    assert err.splitlines()[-1].startswith(said)
    bucket.breaks, bucket.broken = "", False
    broken = "fails/checkpoints/01-two/000004/state/"
    for name in [name for name in bucket.objects if name.startswith(broken)]:
        del bucket.objects[name]
    code, _, err = o1jax("run", "tiny.gin", "--workdir", where)
    assert code == 0, err
    assert "checkpoint of step 4 is broken" in err and "going on from step 2" in err
    assert_same(o1jax, "fails", disk)
