"""Where each parameter lives: one table of path regexes, for a whole train state.

In: a pytree (parameters, or a TrainState around them), the table, a mesh. Out: the same
pytree of NamedShardings. The first regex found in a leaf's path gives its spec, written
for the trailing dimensions, so a layer stack's leading L is never cut. An optimizer's
moments end with their parameter's path and so inherit its spec. After big_vision's
sharding rules (https://github.com/google-research/big_vision).
"""

import math
import re
from collections.abc import Sequence
from typing import TypeVar

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from o1jax.parallel.mesh import ROWS

Tree = TypeVar("Tree")
Rules = tuple[tuple[str, P], ...]

# D model width, K groups (key and value heads), G query heads a group, E head width,
# F feed-forward width, V vocabulary.
TRANSFORMER_RULES: Rules = (
    (r"(^|/)embed/embedding$", P("tensor", "fsdp")),  # [V, D]
    (r"attention/qkv$", P("fsdp", "tensor", None, None)),  # [D, K, G + 2, E]
    (r"attention/qkv_bias$", P("tensor", None, None)),  # [K, G + 2, E]
    (r"attention/o$", P("tensor", None, None, "fsdp")),  # [K, G, E, D]
    (r"attention/o_bias$", P(None)),  # [D]
    (r"mlp/gate_up$", P("fsdp", None, "tensor")),  # [D, 2, F]
    (r"mlp/down$", P("tensor", "fsdp")),  # [F, D]
    (r"unembed/kernel$", P("fsdp", "tensor")),  # [D, V]
    (r"norm/scale$", P()),  # [D] or [E], stacked by layer
    (r"(^|/)(value|process)/", P()),  # heads of width 1: too small to cut
)

# To decode and search with: every token that is drawn needs the logits of all words, so
# cut by vocabulary they would be gathered again and again.
DECODE_RULES: Rules = ((r"unembed/kernel$", P()), *TRANSFORMER_RULES)


def path_name(path: jax.tree_util.KeyPath) -> str:
    """A leaf's path as the rules, errors and checkpoints write it: params/embed/..."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def spec_of(path: str, shape: Sequence[int], rules: Rules) -> P:
    """The spec of one leaf, as long as its shape.

    Raises ValueError if no rule matches a leaf of rank 2 or more (smaller ones are
    replicated), or if the rule found is longer than the shape.
    """
    rule = next((rule for rule in rules if re.search(rule[0], path)), None)
    if rule is None and len(shape) > 1:
        raise ValueError(f"{path} {list(shape)}: no sharding rule matches it")
    pattern, spec = rule or ("", P())
    if len(spec) > len(shape):
        raise ValueError(
            f"{path} {list(shape)}: rule {pattern!r} wants at least {len(spec)} "
            "dimensions"
        )
    return P(*(None,) * (len(shape) - len(spec)), *spec)


def shardings(tree: Tree, rules: Rules, mesh: Mesh) -> Tree:
    """A NamedSharding for every leaf (array or ShapeDtypeStruct) of the tree.

    Raises ValueError, with parameter, dimension and mesh axis, for a dimension that
    does not divide.
    """

    def sharding(key_path: jax.tree_util.KeyPath, leaf: jax.Array) -> NamedSharding:
        path, shape = path_name(key_path), leaf.shape
        spec = spec_of(path, shape, rules)
        for dimension, (size, names) in enumerate(zip(shape, spec)):
            axes = (
                () if names is None else (names,) if isinstance(names, str) else names
            )
            if size % math.prod(mesh.shape[axis] for axis in axes):
                cut = " x ".join(f"{axis}={mesh.shape[axis]}" for axis in axes)
                raise ValueError(
                    f"{path} {list(shape)}: dimension {dimension} ({size}) does not "
                    f"divide by mesh axis {cut}"
                )
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(sharding, tree)


def on_rows(x: jax.Array) -> jax.Array:
    """x [B, ...] under jit, its rows cut over data and fsdp and nothing else.

    Told nothing, the partitioner may cut activations by width, as fsdp cuts the
    weights, and hold all rows on every device. Without a mesh, inside shard_map, and
    where the rows need no cut or do not divide, this is x.
    """
    mesh = jax.typeof(x).sharding.mesh
    if not set(ROWS) <= set(mesh.axis_names) - set(mesh.manual_axes):
        return x
    parts = math.prod(mesh.shape[axis] for axis in ROWS)
    if parts == 1 or x.shape[0] % parts:
        return x
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, P(ROWS)))


def free_axes(x: jax.Array) -> tuple[AbstractMesh, tuple[str, ...]]:
    """The mesh that x lies on under jit, and its axes that a shard_map may still take.

    On one device, without a mesh and inside shard_map over all axes there are none.
    """
    mesh = jax.typeof(x).sharding.mesh
    free = tuple(axis for axis in mesh.axis_names if axis not in mesh.manual_axes)
    return mesh, free if math.prod(mesh.shape.values()) > 1 else ()


def shard(tree: Tree, rules: Rules, mesh: Mesh) -> Tree:
    """The tree's arrays, placed as the rules say; every process gives the same."""

    def place(leaf: jax.Array, sharding: NamedSharding) -> jax.Array:
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            # device_put of a typed key knows only this process's devices.
            data = jax.device_put(jax.random.key_data(leaf), sharding)
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        return jax.device_put(leaf, sharding)

    return jax.tree.map(place, tree, shardings(tree, rules, mesh))
