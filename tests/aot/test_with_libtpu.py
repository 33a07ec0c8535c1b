"""Compiled by libtpu itself; collected only where it is (conftest.py)."""

import gzip
import json
import os
import subprocess
import sys

import pytest

TINY = """
Experiment.stages = [@Imitate()]
PolicyConfig.vocab = 1024
PolicyConfig.width = 1024
PolicyConfig.layers = 2
PolicyConfig.heads = 8
PolicyConfig.ff = 2048
PolicyConfig.remat = 'full'
BatchConfig.rows = 64
BatchConfig.length = 256
MeshConfig.data = 4
MeshConfig.fsdp = 4
"""


@pytest.mark.libtpu
def test_a_step_that_fits_and_one_that_does_not(tmp_path):
    """About a minute of one core."""
    file, out = tmp_path / "tiny.gin", tmp_path / "out.json"
    file.write_text(TINY)
    command = [sys.executable, "-m", "o1jax", "aot", str(file)]
    command += ["--topology", "v5e:4x4", "--json", str(out)]
    environment = os.environ | {"O1JAX_AOT_CACHE": str(tmp_path), "XLA_FLAGS": ""}
    run = lambda *more: subprocess.run(
        [*command, *more], env=environment, capture_output=True, text=True
    )
    assert run().returncode == 0
    (report,) = json.loads(out.read_text())["experiments"][0]["reports"]
    assert report["fits"] and set(report["sent"]) >= {"data", "fsdp"}
    assert not report["from_cache"]
    (kept,) = tmp_path.glob("*.json.gz")
    text = json.loads(gzip.decompress(kept.read_bytes()))["text"]
    assert "splash_mha_fwd" in text and "splash_mha_dkv" in text  # policy/flash.py
    assert run().returncode == 0
    assert json.loads(out.read_text())["experiments"][0]["reports"][0]["from_cache"]
    large = run("--set", "PolicyConfig.vocab=50000000")
    assert large.returncode == 1 and "DOES NOT FIT" in large.stdout
    assert "does not fit v5e:4x4" in large.stderr
    odd = run("--set", "BatchConfig.rows=63")
    assert odd.returncode == 2 and "63 rows of a batch do not divide" in odd.stderr
    mesh = run("--set", "MeshConfig.data=3")
    assert mesh.returncode == 2 and mesh.stderr.count("\n") == 1
