"""SIGTERM: saved at the end of the step, or over at once; never lost."""

import os
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import pytest

from o1jax.loop.checkpoint import Checkpoints
from o1jax.parallel.preemption import Preempted, agreed, watching
from o1jax.types import TrainState


def sigterm():
    os.kill(os.getpid(), signal.SIGTERM)


def state_of(step):
    return TrainState(jnp.int32(step), {"w": jnp.arange(4.0) + step}, (), jnp.int32(0))


def test_the_step_under_way_is_saved_and_the_run_ends(tmp_path):
    done = []
    with (
        watching(),
        pytest.raises(Preempted) as ended,
        Checkpoints(tmp_path, every=100) as saved,
    ):
        for step in range(1, 100):
            done.append(step)
            if step == 3:
                sigterm()
                assert agreed()
            if saved.due(step):
                saved.save(step, state_of(step), {}, {})
    assert done == [1, 2, 3]
    assert ended.value.together
    assert str(ended.value) == f"step 3 is saved in {tmp_path}"
    with Checkpoints(tmp_path) as again:
        found = again.restore(state_of(0))
    assert found.step == 3
    assert found.state.params["w"].tolist() == [3, 4, 5, 6]


def test_where_nothing_could_be_saved_it_ends_at_once():
    with watching(), pytest.raises(Preempted, match="nothing had to be saved"):
        sigterm()
        time.sleep(10)
    assert not agreed()  # the next run starts afresh
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


STUCK = """
import os, signal, time
from o1jax.parallel.preemption import saving, watching

with watching(), saving():
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
"""


def test_a_step_longer_than_the_grace_period_is_given_up():
    env = os.environ | {"O1JAX_GRACE": "0.2", "O1JAX_PREEMPTED_EXIT": "75"}
    done = subprocess.run(
        [sys.executable, "-c", STUCK], env=env, capture_output=True, text=True
    )
    assert done.returncode == 75
    assert done.stderr == (
        "o1jax: SIGTERM: no step ended within 0.2 s; the newest checkpoint stands, run "
        "again to go on\n"
    )


def test_a_checkpoint_of_8_devices_goes_to_1_4_and_16(tmp_path):
    """The 16 are in a process of their own."""
    mesh = jax.make_mesh((8,), ("all",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("all"))
    eight = TrainState(
        jnp.int32(7),
        {"w": jax.device_put(jnp.arange(32.0), rows)},
        (),
        jnp.int32(0),
    )
    with Checkpoints(tmp_path) as saved:
        saved.save(7, eight, {}, {})
    for count in (1, 4):
        assert restored_on(tmp_path, count) == [32 // count] * count
    env = os.environ | {
        "XLA_FLAGS": os.environ["XLA_FLAGS"].replace("count=8", "count=16")
    }
    command = [sys.executable, __file__, str(tmp_path), "16"]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.stdout == f"{[2] * 16}\n", done.stderr


def restored_on(directory, count):
    """Numbers that each of so many devices holds; they are checked too."""
    mesh = jax.make_mesh(
        (count,),
        ("all",),
        axis_types=(jax.sharding.AxisType.Auto,),
        devices=jax.devices()[:count],
    )
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("all"))
    blank = state_of(0)._replace(
        params={"w": jax.ShapeDtypeStruct((32,), jnp.float32, sharding=rows)}
    )
    with Checkpoints(directory) as saved:
        found = saved.restore(blank)
    assert found.step == 7
    w = found.state.params["w"]
    assert w.tolist() == list(range(32))
    return [shard.data.size for shard in w.addressable_shards]


if __name__ == "__main__":
    print(restored_on(sys.argv[1], int(sys.argv[2])))
