"""A tiny experiment, and runs of it in one process or several."""

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

# etils reads buckets by gcsfs: the extra `buckets`.
HERE = importlib.util.find_spec("gcsfs")
collect_ignore = [] if HERE else ["test_bucket.py", "test_bucket_run.py"]

LOCAL = Path(__file__).parents[2] / "launch" / "local.sh"

EXPERIMENT = """
Experiment.title = 'Several hosts'
Experiment.task = @Chain()
Experiment.stages = [@Imitate(), @Compare(), @Evaluate()]

Chain.min_steps = 2
Chain.max_steps = 2
Chain.modulus = 5
PolicyConfig.vocab = 16
PolicyConfig.width = 16
PolicyConfig.layers = 1
PolicyConfig.heads = 2
PolicyConfig.ff = 16
OptimizerConfig.learning_rate = 0.02
OptimizerConfig.warmup_steps = 1
BatchConfig.rows = 16
BatchConfig.length = 12
SamplerConfig.max_new_tokens = 6
SamplerConfig.rows = 16
Imitate.microbatches = 2
Imitate.steps = 30
Imitate.checkpoint_every = 10
Probe.problems = 8
Compare.methods = [@Search()]
Compare.problems = 8
Compare.budgets = (4,)
Search.method = 'mcts'
Evaluate.problems = 8
Evaluate.samples = 2
"""

# The same, with two rounds of learning from its own answers behind the cloning.
LEARNS = (
    EXPERIMENT.replace("[@Imitate(), ", "[@Imitate(), @Improve(), ")
    + """
Improve.rounds = 2
Improve.questions = 4
Improve.samples = 4
Improve.checkpoint_every = 1
HeldOut.problems = 4
HeldOut.samples = 2
"""
)


def pytest_collection_modifyitems(config, items):
    """Slow tests run when they are asked for: -m slow."""
    if "slow" not in config.option.markexpr:
        slow = [item for item in items if item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]


class Job:
    """`o1jax run` in `count` processes that share 8 devices (or `devices`)."""

    def __init__(self, folder, file, workdir, count, *more, devices=0, **env):
        self.logs = folder / f"logs-{time.time_ns()}"
        self.workdir, self._count, self._began = workdir, count, time.time()
        command = [LOCAL, "-d", str(devices or 8 // count), str(count)]
        command += [sys.executable, "-m", "o1jax", "run", file, "--workdir", workdir]
        self._process = subprocess.Popen(
            [str(x) for x in (*command, *more)],
            # For runs of one process: several do without (hosts.py).
            env=os.environ
            | {
                "LOGS": str(self.logs),
                "JAX_ENABLE_COMPILATION_CACHE": "true",
                "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
            }
            | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def kill(self, index, number=signal.SIGKILL):
        """Sends a signal to one of its processes."""
        os.kill(int((self.logs / f"{index}.pid").read_text()), number)

    def wait(self, seconds):
        """Lets it run so long, or to its end."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)

    def until(self, there):
        """Waits for there() while it runs; whether it came to that."""
        while self._process.poll() is None and not there():
            time.sleep(0.01)
        return self._process.poll() is None

    def started(self):
        """Whether all its processes are there."""
        return (self.logs / f"{self._count - 1}.pid").exists()

    def steps(self):
        """Lines of the metrics, once it has taken up the file."""
        file = self.workdir / "metrics.jsonl"
        if not file.exists() or file.stat().st_mtime < self._began:
            return 0
        return len(file.read_text().splitlines())

    def close(self):
        """Ends what a failed test has left."""
        if self._process.poll() is None:
            self._process.terminate()
            self._process.communicate()

    def end(self):
        """(exit code, stdout, stderr), without what gloo and the bar say."""
        both = self._process.communicate()
        quiet = [
            [x for x in said.splitlines() if not x.startswith(("[Gloo]", "imitate "))]
            for said in both
        ]
        return self._process.returncode, *map("\n".join, quiet)


@pytest.fixture(scope="session")
def start(tmp_path_factory):
    """start(workdir, count, ...) -> Job of the tiny experiment."""
    folder = tmp_path_factory.mktemp("hosts")
    file, learns = folder / "several.gin", folder / "learns.gin"
    file.write_text(EXPERIMENT)
    learns.write_text(LEARNS)
    jobs = []

    def start(workdir, count, *more, file=file, **options):
        jobs.append(Job(folder, file, workdir, count, *more, **options))
        return jobs[-1]

    start.learns = learns
    yield start
    for job in jobs:
        job.close()
