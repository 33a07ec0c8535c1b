"""Where a run samples and searches, if not where it trains.

In: the run; `Experiment.decode` is a mesh of the same devices. Out: that mesh, and what
brings parameters there, in memory: matrices in the type that the network computes in,
cut over the tensor axis only, so that no token that is drawn waits for parameters. The
numbers are those of the parameters in training, which the network casts at each use, or
the nearest in 8 bits (PolicyConfig.decode_weights).
"""

import functools
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from o1jax.parallel.mesh import AXES, MeshConfig
from o1jax.parallel.sharding import (
    DECODE_RULES,
    TRANSFORMER_RULES,
    Rules,
    path_name,
    shardings,
    spec_of,
)
from o1jax.policy.int8 import Int8, inputs_of, quantise, quantised
from o1jax.policy.policy import PolicyConfig, build_policy
from o1jax.types import Params

WIDE = re.compile(r"norm/scale$|(^|/)(value|process)/")  # computed in f32


class Layout(NamedTuple):
    """The mesh that decodes."""

    mesh: Mesh
    cut: bool  # matrices stay cut over its tensor axis while it decodes
    place: Callable[[Params], Params]

    @property
    def shards(self) -> int:
        """Into how many parts it cuts rows."""
        return self.mesh.size // self.mesh.shape["tensor"]


def decoding(run: Any) -> Layout:
    """The layout of a run: that of its training unless the experiment says another."""
    if run.experiment.decode is None:
        in_int8 = run.policy_config.decode_weights == "int8"
        return Layout(run.mesh, False, _in_int8 if in_int8 else lambda params: params)
    return _layout(run.mesh, run.experiment.decode, run.policy_config)


_in_int8 = jax.jit(quantised)


@functools.lru_cache(maxsize=8)
def _layout(train: Mesh, config: MeshConfig, policy: PolicyConfig) -> Layout:
    mesh = same_devices(train, config)

    @functools.cache
    def build(treedef: Any, shapes: tuple) -> Callable[[Params], Params]:
        return reshard(policy, treedef.unflatten(shapes), train, mesh)

    def place(params: Params) -> Params:
        leaves, treedef = jax.tree.flatten(params)
        shapes = (jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves)
        return build(treedef, tuple(shapes))(params)

    return Layout(mesh, True, place)


def same_devices(train: Mesh, config: MeshConfig) -> Mesh:
    """The devices of a mesh in the same order, as another mesh.

    ValueError, with the device count, where they do not fit.
    """
    sizes = [getattr(config, axis) for axis in AXES]
    fixed = math.prod(size for size in sizes if size != -1)
    if train.size % fixed or (-1 not in sizes and fixed != train.size):
        asked = " x ".join(f"{axis}={size}" for axis, size in zip(AXES, sizes))
        raise ValueError(f"decode mesh {asked} does not fit {train.size} devices")
    devices = train.devices.reshape(sizes)
    return Mesh(devices, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def reshard(
    policy: PolicyConfig, shapes: Params, train: Mesh, mesh: Mesh
) -> Callable[[Params], Params]:
    """params on `train` -> the same to decode with on `mesh`, one program.

    shapes: of the parameters.
    """
    dtype, between = _compute_dtype(policy), _between(train, mesh)
    in_int8 = policy.decode_weights == "int8"

    def move(path: jax.tree_util.KeyPath, x: jax.Array) -> Any:
        name = path_name(path)
        if x.ndim < 2 or WIDE.search(name):
            return x
        if in_int8 and (inputs := inputs_of(name)):
            x, scale = quantise(x, inputs)  # where it lies: half as much is sent
            return Int8(across(name, x), scale)
        return across(name, x.astype(dtype))

    def across(name: str, x: jax.Array) -> jax.Array:
        before = spec_of(name, x.shape, TRANSFORMER_RULES)
        after = spec_of(name, x.shape, DECODE_RULES)
        if between is None or "fsdp" not in before or "tensor" not in after:
            return x
        # In one step the partitioner would bring the whole array to every device.
        parts = ["high" if axis == "fsdp" else None for axis in before]
        parts[after.index("tensor")] = "low"
        return jax.lax.with_sharding_constraint(x, NamedSharding(between, P(*parts)))

    def to_decode(params: Params) -> Params:
        return jax.tree_util.tree_map_with_path(move, params)

    out = jax.eval_shape(to_decode, shapes)
    return jax.jit(to_decode, out_shardings=decode_shardings(out, mesh))


def decode_shardings(params: Params, mesh: Mesh, rules: Rules = DECODE_RULES) -> Any:
    """Where parameters to decode with lie, a scale beside its matrix."""
    is_int8 = lambda x: isinstance(x, Int8)
    values = jax.tree.map(lambda x: x[0] if is_int8(x) else x, params, is_leaf=is_int8)
    placed = shardings(values, rules, mesh)

    def both(x: Any, of: NamedSharding) -> Any:
        if not is_int8(x):
            return of
        spec = [axis if n > 1 else None for axis, n in zip(of.spec, x.scale.shape)]
        return Int8(of, NamedSharding(mesh, P(*spec)))

    return jax.tree.map(both, params, placed, is_leaf=is_int8)


def _between(train: Mesh, decode: Mesh) -> Mesh | None:
    """A mesh in whose axes both can be said, where fsdp holds the other's tensor axis.

    Devices of one place along `low` share the place along tensor.
    """
    low, fsdp = decode.shape["tensor"], train.shape["fsdp"]
    if train.shape["tensor"] > 1 or fsdp % low:
        return None
    devices = train.devices.reshape(train.shape["data"], fsdp // low, low)
    names = ("data", "high", "low")
    return Mesh(devices, names, axis_types=(AxisType.Auto,) * 3)


def _compute_dtype(config: PolicyConfig) -> jnp.dtype:
    """Of the keys that the network keeps."""
    policy = build_policy(config)
    row = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    length = jax.ShapeDtypeStruct((1,), jnp.int32)
    start = functools.partial(policy.start, capacity=1)
    params = jax.eval_shape(policy.init, jax.random.key(0))
    _, cache = jax.eval_shape(start, params, row, length)
    return cache.k[0][0].dtype
