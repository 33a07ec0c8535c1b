"""A checkpoint is all there or not used: kills, flipped bits, full disks, new meshes.

The file is also the program that the tests start and kill (`main` below).
"""

import os
import random
import resource
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from o1jax.inspect.checkpoint_report import inspect_checkpoint
from o1jax.loop import checkpoint
from o1jax.loop.checkpoint import Checkpoints
from o1jax.loop.checkpoint_read import CheckpointError, restore_params
from o1jax.parallel.mesh import MeshConfig, build_mesh, put_batch
from o1jax.parallel.sharding import shard, shardings
from o1jax.types import TrainState

# When one file fails, tensorstore's other answers find orbax's event loop closed.
late_answers = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)

RULES = ((r"kernel$", P("fsdp", "tensor")),)


def make_state(seed: int, width: int = 8) -> TrainState:
    """A state whose every number follows from the seed."""
    rng = np.random.default_rng(seed)
    params = {
        "layers": {"up": {"kernel": jnp.asarray(rng.normal(size=(width, 16)), "f4")}},
        "half": {"scale": jnp.asarray(rng.normal(size=5), jnp.bfloat16)},
    }
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    opt_state = optimizer.init(params)
    opt_state = jax.tree.map(lambda x: x + jnp.asarray(seed, x.dtype), opt_state)
    return TrainState(
        step=jnp.int32(seed),
        params=params,
        opt_state=opt_state,
        key=jax.random.key(seed),
    )


def assert_same(found: TrainState, expected: TrainState) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
        assert x.dtype == y.dtype
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def abstract(state: TrainState, shard_as: TrainState | None = None) -> TrainState:
    if shard_as is None:
        return jax.eval_shape(lambda: state)
    sds = lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s)
    return jax.tree.map(sds, state, shard_as)


def write(directory: Path, *seeds: int) -> None:
    with Checkpoints(directory) as checkpoints:
        for seed in seeds:
            checkpoints.save(seed, make_state(seed), {"epoch": seed}, {"flops": 0.1})


def big_file(step: Path) -> Path:
    """The file that holds the arrays."""
    return max(step.rglob("ocdbt.process_0/d/*"), key=lambda f: f.stat().st_size)


def test_round_trip_of_every_type(tmp_path):
    assert Checkpoints(tmp_path).restore(make_state(0)) is None
    write(tmp_path, 3)
    with Checkpoints(tmp_path) as checkpoints:
        found = checkpoints.restore(abstract(make_state(0)))
    assert_same(found.state, make_state(3))
    assert found[0] == 3 and found.position == {"epoch": 3}
    assert found.extra == {"flops": 0.1}
    # The key goes on as the saved one would have.
    expected = jax.random.bits(jax.random.fold_in(jax.random.key(3), 1))
    assert jax.random.bits(jax.random.fold_in(found.state.key, 1)) == expected


def test_a_large_array_lies_in_chunks_that_a_reader_can_hold(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "CHUNK", 64)
    write(tmp_path, 1)
    params = inspect_checkpoint(str(tmp_path)).checkpoint.params
    kernel = next(array for array in params if "kernel" in array.path)
    assert kernel.zarr.shape == (8, 16) and kernel.chunks >= 8 * 16 * 4 // 64
    assert np.prod(kernel.zarr.chunk_shape) * 4 <= 64
    with Checkpoints(tmp_path) as checkpoints:
        assert_same(checkpoints.restore(make_state(0)).state, make_state(1))


def test_keeps_the_newest_and_knows_what_is_due(tmp_path):
    with Checkpoints(tmp_path, keep=2, every=5) as checkpoints:
        assert [s for s in range(1, 11) if checkpoints.due(s)] == [5, 10]
        assert checkpoints.latest_step() is None
        for step in (5, 10, 15):
            checkpoints.save(step, make_state(step), {}, {})
        assert checkpoints.latest_step() == 15
        checkpoints.save(15, make_state(99), {}, {})  # already there: no second copy
        with pytest.raises(ValueError, match=r"step 12 is older than .* 15"):
            checkpoints.save(12, make_state(12), {}, {})
        assert_same(checkpoints.restore(make_state(0)).state, make_state(15))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000010", "000015"]


def test_what_is_not_json_is_refused_before_anything_is_written(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(ValueError, match=r"must be JSON: .*int64"):
            checkpoints.save(1, make_state(1), {"index": np.int64(3)}, {})
        assert checkpoints.latest_step() is None
    with pytest.raises(ValueError, match="keep=0"):
        Checkpoints(tmp_path, keep=0)


def test_the_next_step_may_donate_the_state_and_change_the_ledger(tmp_path):
    """Training goes on in place while the state is still being written."""

    @partial(jax.jit, donate_argnums=0)
    def train(state):
        return state._replace(params=jax.tree.map(lambda w: 2 * w + 1, state.params))

    def start():
        return train(make_state(7, width=2**16))  # 4 MiB: a write longer than a step

    state, ledger = start(), {"tokens": 1}
    other = start()
    train(other)
    assert other.params["layers"]["up"]["kernel"].is_deleted()  # it does donate
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(7, state, {}, ledger)
        ledger["tokens"] = 2
        for _ in range(20):
            state = train(state)
        found = checkpoints.restore(abstract(state))
    assert_same(found.state, start())
    assert found.extra == {"tokens": 1}


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0b100
    file.write_bytes(data)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [flip, truncate, Path.unlink])
@pytest.mark.parametrize("file", ["arrays", "state/_METADATA", "meta/metadata"])
def test_a_damaged_newest_step_is_named_and_the_previous_one_used(
    tmp_path, capfd, damage, file
):
    write(tmp_path, 1, 2)
    step = tmp_path / "000002"
    file = big_file(step) if file == "arrays" else step / file
    damage(file)
    with Checkpoints(tmp_path) as checkpoints:
        found = checkpoints.restore(make_state(0))
        assert_same(found.state, make_state(1))
        (line,) = capfd.readouterr().err.splitlines()
        assert line.startswith("checkpoint of step 2 is broken")
        assert str(file.relative_to(step)) in line
        assert line.endswith("broken-000002, going on from step 1")
        # The run comes by here again and writes the step anew.
        checkpoints.save(2, make_state(2), {}, {})
        assert_same(checkpoints.restore(make_state(0)).state, make_state(2))
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["000001", "000002", "broken-000002"]


@late_answers
def test_a_step_without_a_list_of_files_counts_if_it_can_be_read(tmp_path, capfd):
    write(tmp_path, 1, 2)
    (tmp_path / "000002" / "files.json").unlink()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(make_state(0)).step == 2
    assert capfd.readouterr().err == ""

    write(tmp_path, 3)
    (tmp_path / "000003" / "files.json").unlink()
    for file in (tmp_path / "000003" / "state").rglob("d/*"):
        os.truncate(file, file.stat().st_size // 2)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(make_state(0)).step == 2
    assert "checkpoint of step 3 is broken" in capfd.readouterr().err


def test_all_broken_is_an_error_and_nothing_is_moved(tmp_path):
    write(tmp_path, 1, 2)
    flip(big_file(tmp_path / "000001"))
    truncate(big_file(tmp_path / "000002"))
    for _ in range(2):  # asked again, it says so again, and never starts from nothing
        with Checkpoints(tmp_path) as checkpoints, pytest.raises(CheckpointError) as e:
            checkpoints.restore(make_state(0))
        assert "step 2: state/" in str(e.value) and "bytes instead of" in str(e.value)
        assert "step 1: state/" in str(e.value) and "wrong checksum" in str(e.value)
        assert "\n" not in str(e.value)


def test_another_model_is_named_by_its_first_parameter(tmp_path):
    write(tmp_path, 1)
    with Checkpoints(tmp_path) as checkpoints:
        message = (
            r"000001 is of another model or optimizer: params/layers/up/kernel is "
            r"float32\[8, 16\] in it and float32\[4, 16\] in this run"
        )
        with pytest.raises(CheckpointError, match=message):
            checkpoints.restore(make_state(0, width=4))
        other = make_state(0)
        other.params["new"] = jnp.ones(2)
        with pytest.raises(CheckpointError, match=r"params/new is absent in it and fl"):
            checkpoints.restore(other)
        sgd = make_state(0)._replace(opt_state=())
        with pytest.raises(
            CheckpointError, match=r"count is int32\[\] in it and absent"
        ):
            checkpoints.restore(sgd)
        rbg = make_state(0)._replace(key=jax.random.key(0, impl="rbg"))
        with pytest.raises(CheckpointError, match=r"key is key<fry>.* and key<rbg>"):
            checkpoints.restore(rbg)
        assert checkpoints.restore(make_state(0)).step == 1  # it was left in place


@late_answers
def test_a_full_disk_keeps_the_previous_step_and_is_told_by_the_next_call(tmp_path):
    """A limit on the size of a file stands for the full disk."""
    write(tmp_path, 1)
    with Checkpoints(tmp_path) as checkpoints:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        try:
            checkpoints.save(2, make_state(2, width=2**14), {}, {})
            with pytest.raises(CheckpointError) as error:
                checkpoints.wait()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert "checkpoint of step 2" in str(error.value)
        assert "(File too large); the newest is step 1" in str(error.value)
        assert_same(checkpoints.restore(make_state(0)).state, make_state(1))
        checkpoints.save(2, make_state(2), {}, {})  # space was made: it goes on
        assert_same(checkpoints.restore(make_state(0)).state, make_state(2))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000001", "000002"]


def test_saved_on_eight_devices_restored_on_one_and_on_another_mesh(tmp_path):
    expected = make_state(5)
    mesh = build_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(5, shard(expected, RULES, mesh), {}, {})

        one = checkpoints.restore(expected).state
        assert_same(one, expected)
        assert one.params["layers"]["up"]["kernel"].devices() == {jax.devices()[0]}

        other = build_mesh(MeshConfig(data=4, fsdp=2, tensor=1))
        target = abstract(expected, shardings(expected, RULES, other))
        eight = checkpoints.restore(target).state
    assert_same(eight, expected)
    for leaf, wanted in zip(jax.tree.leaves(eight), jax.tree.leaves(target)):
        assert leaf.sharding.is_equivalent_to(wanted.sharding, leaf.ndim)
    kernel = eight.opt_state[1][0].mu["layers"]["up"]["kernel"]
    assert {s.data.shape for s in kernel.addressable_shards} == {(4, 16)}  # fsdp=2


def test_parameters_alone_on_one_device(tmp_path, capfd):
    mesh = build_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2):
            state = shard(make_state(step), RULES, mesh)
            checkpoints.save(step, state, {"epoch": step}, {"flops": 2.0})
    found = restore_params(tmp_path)
    assert (found.step, found.position, found.extra) == (2, {"epoch": 2}, {"flops": 2})
    assert_same(found.params, make_state(2).params)
    assert found.params["half"]["scale"].devices() == {jax.devices()[0]}
    assert_same(restore_params(tmp_path, step=1).params, make_state(1).params)

    flip(big_file(tmp_path / "000002"))
    assert restore_params(tmp_path).step == 1
    assert "checkpoint of step 2 is broken" in capfd.readouterr().err
    assert (tmp_path / "000002").exists()  # a reader changes nothing
    with pytest.raises(CheckpointError, match=r"step 2: .* wrong checksum"):
        restore_params(tmp_path, step=2)
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 7 .* \[1, 2\]"):
        restore_params(tmp_path, step=7)
    with pytest.raises(CheckpointError, match=r"no checkpoint in .*nowhere"):
        restore_params(tmp_path / "nowhere")


def test_killed_at_any_moment_it_goes_on_from_a_complete_step(tmp_path):
    """Four kills in one directory; each restart checks what it finds, bit by bit."""
    rng = random.Random(0)
    last = 0
    for _ in range(4):
        command = [sys.executable, __file__, "save", str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
            assert program.stdout.readline().split() == ["restored", str(last)]
            for _ in range(rng.randrange(2, 6)):
                program.stdout.readline()
            try:
                program.wait(timeout=rng.uniform(0, 0.1))
            except subprocess.TimeoutExpired:
                program.kill()
        assert program.returncode == -9
        with Checkpoints(tmp_path) as checkpoints:
            found = checkpoints.restore(make_state(0, width=2**12))
        assert found.step > last
        last = found.step
        assert_same(found.state, make_state(last, width=2**12))
        assert found.position == {"epoch": last}


@pytest.mark.multihost
def test_two_processes_write_one_checkpoint(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    env = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    programs = [
        subprocess.Popen(
            [sys.executable, __file__, "pair", str(tmp_path), address, str(i)], env=env
        )
        for i in range(2)
    ]
    try:
        assert [program.wait(timeout=60) for program in programs] == [0, 0]
    finally:
        for program in programs:
            program.kill()
    assert (tmp_path / "broken-000002").exists()  # found by both, moved by one
    assert_same(restore_params(tmp_path).params, make_state(1).params)


def save_until_killed(directory: str) -> None:
    with Checkpoints(directory) as checkpoints:
        target = make_state(0, width=2**12)
        found = checkpoints.restore(target)
        step = 0 if found is None else found.step
        if found is not None:
            assert_same(found.state, make_state(step, width=2**12))
        print("restored", step, flush=True)
        while True:
            step += 1
            state = make_state(step, width=2**12)
            checkpoints.save(step, state, {"epoch": step}, {})
            print("saving", step, flush=True)


def save_as_a_pair(directory: str, address: str, index: str) -> None:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(address, num_processes=2, process_id=int(index))
    mesh = build_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    batch = put_batch(mesh, {"x": np.arange(8)[:, None]})
    assert batch["x"].shape == (8, 1)
    assert {s.index[0].start // 4 for s in batch["x"].addressable_shards} == {
        int(index)  # rows 0..3 here, 4..7 there
    }
    assert int(jax.jit(jnp.sum)(batch["x"])) == sum(range(8))

    state = shard(make_state(1), RULES, mesh)
    target = abstract(state, shardings(state, RULES, mesh))
    with Checkpoints(directory) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state, {}, {})
        checkpoints.wait()
        if index == "0":
            flip(big_file(Path(directory) / "000002"))
        found = checkpoints.restore(target)
        assert found.step == 1
        full = build_mesh(MeshConfig(), devices=jax.local_devices())
        local = jax.tree.map(lambda x: x.addressable_data(0), found.state.params)
        kernel = local["layers"]["up"]["kernel"]
        assert kernel.shape == (4, 8) and full.size == 4
    jax.distributed.shutdown()


if __name__ == "__main__":
    {"save": save_until_killed, "pair": save_as_a_pair}[sys.argv[1]](*sys.argv[2:])
