"""What the launch scripts call, against stand-ins that write it down."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[2] / "launch"
HERE = ("--name", "run-1", "--zone", "us-west4-a")
RUN = ("--file", "experiments/chain.gin", "--workdir", "/mnt/runs/chain")
QUEUED = ["gcloud", "compute", "tpus", "queued-resources"]
SSH = ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "run-1", "--zone", "us-west4-a"]


def verbs(calls):
    """create, describe, scp, ...: what each call of gcloud is for."""
    return [call[4] if "tpus" in call else call[0] for call in calls]


def test_a_slice_is_asked_for_by_its_topology(cloud):
    for topology, kind, runtime in (
        ("v5e:16x16", ["--accelerator-type=v5litepod-256"], "v2-alpha-tpuv5-lite"),
        ("v6e:4x4", ["--accelerator-type=v6e-16"], "v2-alpha-tpuv6e"),
        ("v5p:4x4x8", ["--type=v5p", "--topology=4x4x8"], "v2-alpha-tpuv5"),
        ("v4:2x2x4", ["--type=v4", "--topology=2x2x4"], "tpu-ubuntu2204-base"),
    ):
        create = ("create", *HERE, "--topology", topology, "--file", "f.gin", "--spot")
        assert cloud("tpu.sh", *create) == (0, "", "")
        assert cloud.calls[-1] == [
            *(*QUEUED, "create", "run-1", "--node-id=run-1", "--zone", "us-west4-a"),
            *(*kind, f"--runtime-version={runtime}", "--spot"),
        ]


def test_a_dry_run_prints_the_very_commands_and_calls_none(cloud):
    keep = ("keep", *HERE, *RUN, "--topology", "v5e:4x4", "--project", "p")
    code, out, _ = cloud("tpu.sh", *keep, "--dry-run")
    assert code == 0 and cloud.calls == []
    printed = [shlex.split(line) for line in out.splitlines()]
    assert printed[0][:2] == ["true", str(LAUNCH / "preflight.py")]
    cloud.says(states=["ACTIVE", "ACTIVE"], exits=["0"])
    assert cloud("tpu.sh", *keep)[0] == 0
    watched = [call for call in cloud.calls if "cat ~/o1jax.exit" not in call[-1]]
    assert [x for x in watched if "describe" not in x] == [
        x for x in printed[1:] if "describe" not in x
    ]


def test_a_run_is_kept_through_two_preemptions(cloud):
    cloud.says(
        states=["WAITING_FOR_RESOURCES", "ACTIVE", "ACTIVE", "SUSPENDED"]  # taken away
        + ["PROVISIONING", "FAILED"]  # never came
        + ["ACTIVE", "ACTIVE", "ACTIVE"],
        exits=["", "75", "0"],  # goes on; told to stop on a slice that stayed; done
    )
    code, _, err = cloud("tpu.sh", "keep", *HERE, *RUN, "--topology", "v5e:4x4")
    assert code == 0, err
    steps = [v for v in verbs(cloud.calls) if v not in ("describe", "git")]
    begin = ["create", "scp", "ssh", "ssh"]  # ask, copy, install, start
    look = ["ssh"]
    assert steps == [
        *(*begin, *look, "delete"),
        *("create", "delete"),
        *(*begin, *look, "ssh", *look, "delete"),
    ]
    assert err.count("run-1 was taken away: asking for another slice") == 2


def test_a_run_that_fails_keeps_its_slice(cloud):
    cloud.says(states=["ACTIVE", "ACTIVE"], exits=["2"])
    code, _, err = cloud("tpu.sh", "keep", *HERE, *RUN, "--topology", "v5e:4x4")
    assert code == 1
    assert "the run failed with code 2; the slice is kept: see logs" in err
    assert "delete" not in verbs(cloud.calls)


def test_every_host_runs_the_same_and_keeps_its_exit_code(cloud, tmp_path):
    assert cloud("tpu.sh", "run", *HERE, *RUN)[0] == 0
    (call,) = cloud.calls
    assert call[:-2] == SSH and call[-2] == "--worker=all"
    # The command as a host's shell reads it, with launch/worker.sh for a stand-in.
    home = tmp_path / "host"
    (home / "o1jax" / "launch").mkdir(parents=True)
    worker = home / "o1jax" / "launch" / "worker.sh"
    worker.write_text('#!/bin/sh\necho "$@"; exit 3\n')
    worker.chmod(0o755)
    command = call[-1].removeprefix("--command=") + " wait"
    subprocess.run(["bash", "-c", command], cwd=home, env={"HOME": str(home)})
    assert (home / "o1jax.exit").read_text() == "3\n"
    words = ".venv/bin/o1jax run experiments/chain.gin --workdir /mnt/runs/chain\n"
    assert (home / "o1jax.log").read_text() == words


def test_stop_tells_every_host(cloud):
    assert cloud("tpu.sh", "stop", *HERE)[0] == 0
    command = '--command=kill -TERM "$(cat ~/o1jax.pid)"'
    assert cloud.calls == [[*SSH, "--worker=all", command]]


@pytest.mark.parametrize(
    ("script", "args", "line"),
    [
        ("tpu.sh", ("--name", "Run", "--zone", "z"), "a name is lower-case letters"),
        (
            "tpu.sh",
            ("--name", "a" * 62, "--zone", "z"),
            "at most 61 characters",
        ),
        (
            "mig.sh",
            ("--name", "a" * 59, "--zone", "z"),
            "at most 58 characters",
        ),
        ("tpu.sh", (*HERE, "--topology", "v5e:16"), "is not CHIP:SIZES, such as v5e"),
        ("tpu.sh", (*HERE, "--topology", "tpu7x:2x2x1"), "is for launch/mig.sh"),
        ("mig.sh", (*HERE, "--topology", "v5e:4x4"), "is for launch/tpu.sh"),
        ("tpu.sh", HERE, "--topology is missing"),
        ("tpu.sh", ("--name", "n"), "--zone is missing"),
        ("tpu.sh", (*HERE, "--zome", "z"), "unknown option --zome"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_called(cloud, script, args, line):
    code, out, err = cloud(script, "create", *args, "--file", "f.gin")
    assert (code, out, cloud.calls) == (2, "", [])
    assert err.startswith(f"{script}: ") and line in err and err.count("\n") == 1


def test_a_name_that_xpk_would_refuse(cloud):
    where = ("--cluster", "c", "--zone", "z", "--topology", "v5e:4x4")
    name = "a" * 40
    code, _, err = cloud("gke.sh", "run", *where, "--name", name, "--image", "i", *RUN)
    assert code == 2 and "a workload of xpk has at most 39 characters, not 40" in err


@pytest.mark.parametrize("script", ["tpu.sh", "mig.sh"])
def test_what_the_check_refuses_costs_nothing(cloud, script):
    create = ("create", *HERE, "--topology", "v6e:4x4", "--file", "f.gin")
    code, _, _ = cloud(script, *create, O1JAX_PYTHON="false")
    assert code == 1 and cloud.calls == []
    assert cloud(script, *create, "--no-check", O1JAX_PYTHON="false")[0] == 0


def test_a_workload_of_gke(cloud):
    where = ["--cluster", "c", "--zone", "us-west4-a"]
    run = ("run", *where, "--name", "n", "--topology", "v5p:4x4x4", "--image", "i:1")
    assert cloud("gke.sh", *run, *RUN) == (0, "", "")
    assert cloud.calls[-1] == [
        *("xpk", "workload", "create", *where, "--workload", "n"),
        *("--tpu-type=v5p-128", "--num-slices=1", "--docker-image=i:1"),
        "--command=launch/worker.sh o1jax run experiments/chain.gin "
        "--workdir /mnt/runs/chain",
        *("--env", "O1JAX_COORDINATOR=auto", "--max-restarts=100"),
        "--restart-on-exit-codes=75",
    ]
    for action, tool in (("logs", "kubectl"), ("status", "xpk"), ("delete", "xpk")):
        assert cloud("gke.sh", action, *where, "--name", "n")[0] == 0
        assert cloud.calls[-1][0] == tool


def test_a_group_of_machines(cloud):
    create = ("create", *HERE, "--topology", "v6e:4x4", "--file", "f.gin", "--spot")
    assert cloud("mig.sh", *create) == (0, "", "")
    template, policy, group = cloud.calls
    assert "--machine-type=ct6e-standard-4t" in template
    assert "--provisioning-model=SPOT" in template
    assert {"--region=us-west4", "--accelerator-topology=4x4"} < set(policy)
    assert {"--size=4", "--workload-policy=run-1", "--template=run-1"} < set(group)
    cloud.says(machines=["run-1-aaaa\t10.0.0.2", "run-1-bbbb\t10.0.0.3"])
    assert cloud("mig.sh", "run", *HERE, *RUN)[0] == 0
    started = [
        call[3] for call in cloud.calls if call[:3] == ["gcloud", "compute", "ssh"]
    ]
    assert started == ["run-1-aaaa", "run-1-bbbb"]
    assert cloud("mig.sh", "delete", *HERE)[0] == 0
    kinds = ["instance-groups", "resource-policies", "instance-templates"]
    assert [call[2] for call in cloud.calls[-3:]] == kinds


def test_a_host_learns_where_it_belongs(cloud):
    show = ("bash", "-c", "env | grep ^O1JAX_ | grep -v POLL | grep -v PYTHON | sort")
    ends = ",".join(f"unknown:unknown:10.0.0.{i}" for i in (2, 3, 4))
    cloud.says(endpoints=[ends], number=["1"])
    code, out, err = cloud("worker.sh", *show)
    assert code == 0, err
    assert out.split() == [
        "O1JAX_COORDINATOR=10.0.0.2:8476",
        "O1JAX_PREEMPTED_EXIT=75",
        "O1JAX_PROCESSES=3",
        "O1JAX_PROCESS_ID=1",
    ]


def test_a_host_without_a_metadata_server_leaves_it_to_jax(cloud):
    show = ("bash", "-c", "echo $O1JAX_COORDINATOR")
    assert cloud("worker.sh", *show) == (0, "auto\n", "")


def test_every_script_says_how_it_is_used(cloud):
    for script in ("tpu.sh", "gke.sh", "mig.sh", "worker.sh", "local.sh"):
        code, out, err = cloud(script)
        assert (code, out) == (2, "")
        assert f"launch/{script} " in err and "set -euo" not in err
        assert cloud(script, "--help") == cloud(script, "-h") == (0, err, "")
    assert cloud("tpu.sh", "keep", *HERE, "--help")[0] == 0
    code, _, err = cloud("tpu.sh", "begin", *HERE)
    assert (code, err) == (2, "tpu.sh: unknown action begin: see --help\n")
    assert cloud.calls == []


def test_shellcheck_has_nothing_to_say():
    tool = shutil.which("shellcheck", path=Path(sys.executable).parent)
    scripts = sorted(LAUNCH.glob("*.sh"))
    assert len(scripts) == 6
    done = subprocess.run(
        [tool or "shellcheck", "-x", "-P", LAUNCH.parent, *scripts],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_no_script_names_a_project_or_a_bucket():
    for script in LAUNCH.glob("*.sh"):
        assert not re.search(r"gs://\w|--project[= ][a-z]{4}", script.read_text())
