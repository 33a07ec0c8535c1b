"""A tiny experiment, the command that runs it, and one finished run of it."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest

from o1jax.loop.checkpoint_read import restore_params

EXPERIMENT = """
Experiment.title = 'Tiny'
Experiment.task = @Chain()
Experiment.stages = [
    @before/Evaluate(), @one/Imitate(), @two/Imitate(), @after/Evaluate()]
before/Evaluate.name = 'before'
one/Imitate.name = 'one'
two/Imitate.name = 'two'
after/Evaluate.name = 'after'

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
BatchConfig.rows = 8
BatchConfig.length = 12
SamplerConfig.max_new_tokens = 6
SamplerConfig.rows = 8
Evaluate.problems = 8
Evaluate.samples = 3
Imitate.microbatches = 2
Imitate.checkpoint_every = 3
Imitate.steps = 8
two/Imitate.steps = 10
Probe.every = 4
Probe.problems = 8
"""

# Runs the command, and kills its own process where FUNCTION is called the COUNTth time.
KILLED_AT = """
import importlib, os, signal, sys
from o1jax.cli import main

place, count, *arguments = sys.argv[1:]
module, name = place.split(":")
*path, name = name.split(".")
owner = importlib.import_module(module)
for part in path:
    owner = getattr(owner, part)
original, left = getattr(owner, name), int(count)

def counted(*args, **kwargs):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*args, **kwargs)

setattr(owner, name, counted)
sys.exit(main(arguments))
"""


class Command:
    """`o1jax` in processes of its own, on one device unless told."""

    def __init__(self, folder):
        # A job in the background of a script ignores Ctrl-C, and so would its children.
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        # Programs are the same in all these processes: each is compiled once a session.
        self._env = os.environ | {
            "JAX_ENABLE_COMPILATION_CACHE": "true",
            "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
        }
        self._folder = folder
        self._killed = folder / "killed.py"
        self._killed.write_text(KILLED_AT)

    def start(self, *args, script=("-m", "o1jax"), devices=1, cwd=None, **env):
        # The last of two equal flags counts: not the 8 devices of the tests.
        flags = os.environ["XLA_FLAGS"]
        flags += f" --xla_force_host_platform_device_count={devices}"
        return subprocess.Popen(
            [sys.executable, *map(str, (*script, *args))],
            cwd=cwd or self._folder,
            env=self._env | {"XLA_FLAGS": flags} | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *args, **options):
        """Runs it to its end; (exit code, stdout, stderr)."""
        process = self.start(*args, **options)
        out, err = process.communicate()
        return process.returncode, out, err

    def killed_at(self, place, count, *args, **options):
        """Runs it until the `count`th call of `place`, module:function: kill -9."""
        code, _, err = self(*args, script=(self._killed, place, count), **options)
        assert code == -9, err


class Finished(NamedTuple):
    workdir: Path
    stdout: str
    stderr: str


def contents(workdir):
    """All that a finished run leaves behind, without times."""

    def untimed(value):
        if isinstance(value, dict):
            return {k: untimed(v) for k, v in value.items() if k != "seconds"}
        return [untimed(v) for v in value] if isinstance(value, list) else value

    parts = {}
    for folder in sorted((workdir / "checkpoints").iterdir()):
        restored = restore_params(folder)
        parts[folder.name] = restored.step
        for path, leaf in jax.tree_util.tree_leaves_with_path(restored.params):
            name = f"{folder.name}{jax.tree_util.keystr(path)}"
            parts[name] = np.asarray(leaf).tobytes()
    for pattern in ("metrics.jsonl", "predictions/*", "tokenizer.model"):
        for file in workdir.glob(pattern):
            parts[file.name] = file.read_bytes()
    for file in [*workdir.glob("stages/*"), workdir / "results.json"]:
        content = json.loads(file.read_text())
        # A table in the report shows times by their column.
        content.pop("sections")
        parts[file.name] = untimed(content)
    return parts


@pytest.fixture(scope="session")
def o1jax(tmp_path_factory):
    return Command(tmp_path_factory.mktemp("o1jax"))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """The file of the tiny experiment."""
    file = tmp_path_factory.mktemp("experiment") / "tiny.gin"
    file.write_text(EXPERIMENT)
    return file


@pytest.fixture(scope="session")
def finished(o1jax, tiny, tmp_path_factory):
    """An uninterrupted run, whose stderr tells what was compiled too. Read only."""
    workdir = tmp_path_factory.mktemp("runs") / "finished"
    options = {"script": ("-W", "always", "-m", "o1jax"), "JAX_LOG_COMPILES": "1"}
    code, out, err = o1jax("run", tiny, "--workdir", workdir, **options)
    assert code == 0, err
    return Finished(workdir, out, err)


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the finished run, to do damage to."""
    return shutil.copytree(finished.workdir, tmp_path / "copy")


@pytest.fixture(scope="session")
def differences():
    """A function of two workdirs: names of what is not bit for bit the same."""

    def differences(a, b):
        a, b = contents(a), contents(b)
        return sorted(name for name in a | b if a.get(name) != b.get(name))

    return differences
