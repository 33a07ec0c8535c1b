"""The device mesh: which devices share the batch, the parameters and each matrix.

In: how many devices each of the three axes gets. Out: a `jax.sharding.Mesh`, and the
batch placed on it. `data` replicates the parameters, `fsdp` cuts them along the model
width (ZeRO-3, https://arxiv.org/abs/1910.02054), `tensor` along heads, feed-forward and
vocabulary (https://arxiv.org/abs/1909.08053). Rows of a batch are cut over data and
fsdp together. The same code serves one CPU and a pod.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from o1jax.config import configurable

AXES = ("data", "fsdp", "tensor")
ROWS = ("data", "fsdp")  # the axes that a batch is cut over

Tree = TypeVar("Tree")


@configurable
@dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis. One axis may be -1: all the devices that are left."""

    # Where a run is, not what it computes: it can be resumed on another mesh.
    data: int = field(default=-1, metadata={"movable": True})
    fsdp: int = field(default=1, metadata={"movable": True})
    tensor: int = field(default=1, metadata={"movable": True})

    def __post_init__(self) -> None:
        for axis in AXES:
            size = getattr(self, axis)
            if size != -1 and size < 1:
                raise ValueError(f"MeshConfig.{axis}={size}: give -1 or at least 1")
        free = [axis for axis in AXES if getattr(self, axis) == -1]
        if len(free) > 1:
            raise ValueError(f"MeshConfig: only one axis may be -1, not {free}")


def build_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh over `devices` (default: all), every one of them used.

    Raises ValueError, with the axis and the device count, where they don't fit.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = {axis: getattr(config, axis) for axis in AXES}
    count, fixed = len(devices), math.prod(n for n in sizes.values() if n != -1)
    asked = " x ".join(f"{axis}={size}" for axis, size in sizes.items())
    for axis, size in sizes.items():
        if size == -1:
            if count % fixed:
                raise ValueError(
                    f"mesh {asked}: nothing fits {axis}, since {count} devices do not "
                    f"divide by {fixed}"
                )
            sizes[axis] = count // fixed
    if math.prod(sizes.values()) != count:
        raise ValueError(f"mesh {asked} needs {fixed} devices; there are {count}")
    return jax.make_mesh(
        tuple(sizes.values()),
        AXES,
        axis_types=(AxisType.Auto,) * len(AXES),  # linen fails on Explicit axes
        devices=devices,
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows (the first dimension) over data and fsdp, everything else whole."""
    return NamedSharding(mesh, PartitionSpec(ROWS))


def replicated(mesh: Mesh) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def put_batch(mesh: Mesh, batch: Tree) -> Tree:
    """Global arrays from a pytree of numpy arrays, rows over data and fsdp.

    Every process gives the whole batch, and puts on its devices what belongs there: so
    a row lies where it would lie with one process, in whichever order a mesh takes the
    devices of a slice. Raises ValueError for a leaf whose rows don't divide.
    """
    sharding = batch_sharding(mesh)
    shards = mesh.size // mesh.shape["tensor"]

    def put(path: jax.tree_util.KeyPath, rows: np.ndarray) -> jax.Array:
        rows = np.asarray(rows)
        if rows.ndim == 0 or rows.shape[0] % shards:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            axes = " x ".join(f"{axis}={mesh.shape[axis]}" for axis in ROWS)
            raise ValueError(
                f"batch {name} {list(rows.shape)}: the first dimension does not divide "
                f"by {shards}, the row shards of mesh {axes}"
            )
        return jax.make_array_from_callback(rows.shape, sharding, rows.__getitem__)

    return jax.tree_util.tree_map_with_path(put, batch)
