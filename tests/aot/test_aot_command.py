"""`o1jax aot` on the command line: a mistake is one line and exit code 2."""

import importlib.util

import pytest

from o1jax.aot import environment
from o1jax.cli import main

FILE = "experiments/quickstart.gin"


@pytest.mark.parametrize(
    "arguments, reason",
    [
        ([FILE], "required: --topology"),
        ([FILE, "--topology", "v5e:4by4"], "write it like v5e:16x16"),
        ([FILE, "--topology", "v9:4x4"], "unknown chip 'v9'"),
        ([FILE, "--topology", "v5e:4x4", "--layers", "0"], "not a count of 1 or more"),
        ([FILE, "--topology", "v5e:4x4", "--json", "/no/such/x"], "no file can be"),
        ([FILE, "--topology", "v5e:4x4"], "libtpu is not installed"),
    ],
)
def test_one_line(arguments, reason, capsys, monkeypatch):
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["aot", *arguments]) == 2
    error = capsys.readouterr().err
    assert reason in error and error.count("\n") == 1


def test_how_to_get_libtpu(monkeypatch, tmp_path):
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(environment.ConfigError, match=r"pip install 'o1jax\[tpu\]'"):
        environment.library()
    monkeypatch.setenv("TPU_LIBRARY_PATH", str(tmp_path / "libtpu.so"))
    with pytest.raises(environment.ConfigError, match="no such file"):
        environment.library()
    (tmp_path / "libtpu.so").touch()
    assert environment.library() == tmp_path / "libtpu.so"
