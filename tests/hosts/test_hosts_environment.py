"""Where a process belongs is read from the environment, and mistakes are named."""

import errno
import os
import sys

import pytest
from etils import epath

from o1jax.cli import main
from o1jax.loop.checkpoint import Checkpoints
from o1jax.parallel.hosts import Hosts, hosts_of

THREE = {
    "O1JAX_COORDINATOR": "10.0.0.1:8476",
    "O1JAX_PROCESSES": "3",
    "O1JAX_PROCESS_ID": "2",
}


def test_the_second_of_three():
    assert hosts_of(THREE) == Hosts("10.0.0.1:8476", 3, 2)
    waits = {"O1JAX_HOSTS_TIMEOUT": "60", "O1JAX_HEARTBEAT": "10"}
    assert hosts_of(THREE | waits) == Hosts("10.0.0.1:8476", 3, 2, 60.0, 10)


def test_one_process_needs_nothing():
    assert hosts_of({}) is None


def test_a_slice_names_its_own_hosts():
    auto = {"O1JAX_COORDINATOR": "auto"}
    pod = {"TPU_WORKER_HOSTNAMES": "w-0,w-1", "TPU_WORKER_ID": "1"}
    assert hosts_of(auto | pod) == Hosts("w-0:8476", 2, 1)
    assert hosts_of(auto) == Hosts()  # jax asks the metadata server


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"O1JAX_PROCESS_ID": "3"}, "O1JAX_PROCESS_ID=3 must be in [0, 3)"),
        ({"O1JAX_PROCESSES": "many"}, "O1JAX_PROCESSES='many' is not a whole number"),
        ({"O1JAX_COORDINATOR": "here"}, "must be host:port: 'here'"),
        ({"O1JAX_COORDINATOR": ""}, "O1JAX_PROCESSES is set, but O1JAX_COORDINATOR"),
    ],
)
def test_mistakes_are_named(change, line):
    with pytest.raises(ValueError) as error:
        hosts_of(THREE | change)
    assert line in str(error.value)


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "chain.gin"
    file.write_text("Experiment.task = @Chain()\nExperiment.stages = [@Imitate()]\n")
    return file


def test_a_missing_host_is_one_line_and_exit_code_2(file, tmp_path, monkeypatch, capfd):
    for name, value in THREE.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("O1JAX_COORDINATOR", "localhost:8476")
    monkeypatch.setenv("O1JAX_PROCESS_ID", "0")
    monkeypatch.setenv("O1JAX_HOSTS_TIMEOUT", "0")
    assert main(["run", str(file), "--workdir", str(tmp_path / "run")]) == 2
    out, err = capfd.readouterr()
    start = "o1jax: error: 2 of 3 processes did not come within 0 s: 1-2 missing; came:"
    assert out == "" and err.startswith(start) and err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_bucket_that_nothing_here_can_open(file, capfd, monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    for where, why in {
        "gs://bucket/run": "needs a package: pip install 'o1jax[buckets]'",
        "ftp://host/run": "a workdir is a folder, gs://BUCKET/... or s3://...",
        "gs:/bucket/run": "a bucket's address has two slashes",
    }.items():
        assert main(["run", str(file), "--workdir", where]) == 2
        out, err = capfd.readouterr()
        assert out == "" and err.count("\n") == 1
        assert err.startswith(f"o1jax: error: {where}") and err.endswith(f"{why}\n")


def test_a_full_disk_is_one_line(file, tmp_path, monkeypatch, capfd):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as write() does

    monkeypatch.setattr("o1jax.loop.run.run", full)
    workdir = tmp_path / "run"
    assert main(["run", str(file), "--workdir", str(workdir)]) == 2
    assert capfd.readouterr().err == (
        f"o1jax: error: {workdir}: No space left on device; what was saved stands: "
        "make room, run again\n"
    )


def test_the_address_of_a_bucket_is_taken_as_it_is(monkeypatch):
    for name in ("_adopt", "_open"):
        monkeypatch.setattr(Checkpoints, name, lambda self: None)
    assert Checkpoints("gs://bucket/run").directory == epath.Path("gs://bucket/run")
    assert Checkpoints("run").directory == epath.Path("run").absolute()
