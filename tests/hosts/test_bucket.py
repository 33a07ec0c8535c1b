"""Checkpoints in a bucket: an emulator of one on this machine; where gcsfs is."""

import os
import subprocess
import sys

import pytest
from bucket import Bucket

RUN = """
import sys
import jax.numpy as jnp
from o1jax.loop.checkpoint import Checkpoints
from o1jax.loop.checkpoint_read import CheckpointError
from o1jax.types import TrainState

def state(step):
    return TrainState(
        jnp.int32(step), {"w": jnp.full(5000, float(step))}, (), jnp.int32(0)
    )

url, *steps = sys.argv[1:]
try:
    with Checkpoints(url, keep=2) as saved:
        for step in map(int, steps):
            saved.save(step, state(step), {"row": step}, {})
except CheckpointError as error:
    print(error)
with Checkpoints(url, keep=2) as saved:
    found = saved.restore(state(0))
print(found.step, float(found.state.params["w"][4999]), found.position)
"""


@pytest.fixture(scope="module")
def bucket():
    with Bucket() as made:
        yield made
        made.shutdown()


def run(bucket, *steps):
    env = os.environ | bucket.environment | {"XLA_FLAGS": ""}
    command = [sys.executable, "-W", "ignore", "-c", RUN, "gs://bucket/run/ck", *steps]
    return subprocess.run(command, env=env, capture_output=True, text=True)


def test_saved_and_restored(bucket):
    done = run(bucket, "1", "2", "3")
    assert done.stdout == "3 3.0 {'row': 3}\n", done.stderr[-3000:]
    steps = {name.split("/")[2] for name in bucket.objects}
    assert steps == {"000002", "000003"}  # two are kept
    assert {f"run/ck/{step}/commit_success.txt" for step in steps} < set(bucket.objects)


def test_a_bucket_that_fails_keeps_the_last_good_step(bucket):
    kept = dict(bucket.objects)
    bucket.broken = True
    done = run(bucket, "4")
    said, went_on = done.stdout.splitlines()
    assert said.startswith("checkpoint of step 4 in gs://bucket/run/ck was not written")
    assert "the newest is step 3" in said, done.stderr[-3000:]
    assert went_on == "3 3.0 {'row': 3}"
    assert bucket.objects == kept
