"""The mesh fills its free axis, says what doesn't fit, and cuts batches by rows."""

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from o1jax.parallel.mesh import (
    MeshConfig,
    batch_sharding,
    build_mesh,
    put_batch,
    replicated,
)


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (MeshConfig(), (8, 1, 1)),
        (MeshConfig(tensor=2), (4, 1, 2)),
        (MeshConfig(data=2, fsdp=-1, tensor=2), (2, 2, 2)),
        (MeshConfig(data=1, fsdp=1, tensor=8), (1, 1, 8)),
    ],
)
def test_free_axis_takes_the_rest_of_eight_devices(config, shape):
    mesh = build_mesh(config)
    assert dict(mesh.shape) == dict(zip(("data", "fsdp", "tensor"), shape))
    assert set(mesh.axis_types) == {AxisType.Auto}


def test_mesh_over_chosen_devices():
    mesh = build_mesh(MeshConfig(), devices=jax.devices()[:1])
    assert mesh.devices.ravel().tolist() == jax.devices()[:1]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (MeshConfig(fsdp=3), "nothing fits data, since 8 devices do not divide by 3"),
        (MeshConfig(data=2, tensor=2), r"data=2 x fsdp=1 x tensor=2 needs 4 .* are 8"),
        (MeshConfig(data=16), "needs 16 devices; there are 8"),
        (MeshConfig(tensor=16), "nothing fits data"),
    ],
)
def test_what_does_not_fit_is_named(config, message):
    with pytest.raises(ValueError, match=message):
        build_mesh(config)


def test_config_refuses_two_free_axes_and_empty_ones():
    with pytest.raises(ValueError, match=r"only one axis may be -1.*data.*tensor"):
        MeshConfig(data=-1, tensor=-1)
    with pytest.raises(ValueError, match=r"MeshConfig\.fsdp=0"):
        MeshConfig(fsdp=0)


def test_rows_go_over_data_and_fsdp_and_are_copied_over_tensor():
    mesh = build_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    tokens = np.arange(12).reshape(4, 3)
    batch = put_batch(mesh, {"tokens": tokens, "length": np.array([3, 2, 1, 3])})

    assert batch["tokens"].sharding == batch_sharding(mesh)
    np.testing.assert_array_equal(batch["tokens"], tokens)
    for data, fsdp, tensor in np.ndindex(2, 2, 2):
        device = mesh.devices[data, fsdp, tensor]
        (shard,) = [s for s in batch["tokens"].addressable_shards if s.device == device]
        row = 2 * data + fsdp  # one row each
        np.testing.assert_array_equal(shard.data, tokens[row : row + 1])
    # The same program serves every mesh: the sum over rows needs no other code.
    np.testing.assert_array_equal(
        jax.jit(lambda b: b["tokens"].sum(0))(batch), tokens.sum(0)
    )


def test_rows_that_do_not_divide_are_named():
    mesh = build_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    rows = {"tokens": np.zeros((8, 3)), "length": np.zeros(6)}
    with pytest.raises(
        ValueError, match=r"batch length \[6\].*by 4, .*data=2 x fsdp=2"
    ):
        put_batch(mesh, rows)
    with pytest.raises(ValueError, match=r"batch scale \[\]"):
        put_batch(mesh, {"scale": np.float32(1.0)})


def test_replicated_is_whole_on_every_device():
    mesh = build_mesh(MeshConfig())
    assert replicated(mesh).spec == PartitionSpec()
    placed = jax.device_put(np.arange(3), replicated(mesh))
    assert [s.data.shape for s in placed.addressable_shards] == [(3,)] * 8
