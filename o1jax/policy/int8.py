"""Matrices in 8 bits while a policy decodes: half the bytes that each token reads.

In: the parameters. Out: the same tree, its large matrices as `Int8`: whole numbers and
a scale for each output channel, the absolute maximum over 127, as LLM.int8 has it for
weights (Dettmers et al. 2022, arXiv 2208.07339; simplified: activations stay as they
are). A policy makes matrices of them again where it uses them. Libraries do not serve:
qwix 0.1.8 flattens kernels of several axes, which are cut over devices by them, leaves
those out that meet `@`, and cannot cast what it made.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from o1jax.parallel.sharding import path_name
from o1jax.types import Params

INPUTS = {  # the axes that a product sums over
    "attention/qkv": (-4,),  # [D, K, G + 2, E]
    "attention/o": (-4, -3, -2),  # [K, G, E, D]
    "mlp/gate_up": (-3,),  # [D, 2, F]
    "mlp/down": (-2,),  # [F, D]
    "unembed/kernel": (-2,),  # [D, V]
}


class Int8(NamedTuple):
    """A matrix is value * scale."""

    value: jax.Array  # i8[...]
    scale: jax.Array  # f32[...]  1 along the axes of inputs


def inputs_of(path: str) -> tuple[int, ...]:
    """The axes of inputs of a matrix that is worth 8 bits; () for all else."""
    return next((axes for name, axes in INPUTS.items() if path.endswith(name)), ())


def quantise(x: jax.Array, inputs: tuple[int, ...]) -> Int8:
    """The nearest multiples of a scale for each output; |error| <= scale / 2."""
    x = x.astype(jnp.float32)
    scale = jnp.max(jnp.abs(x), axis=inputs, keepdims=True) / 127
    scale = jnp.where(scale > 0, scale, 1.0)
    return Int8(jnp.round(x / scale).astype(jnp.int8), scale)


def quantised(params: Params) -> Params:
    """Parameters whose matrices are Int8."""

    def leaf(path: jax.tree_util.KeyPath, x: jax.Array) -> Any:
        inputs = inputs_of(path_name(path))
        return quantise(x, inputs) if inputs else x

    return jax.tree_util.tree_map_with_path(leaf, params)


def restored(params: Params, dtype: jnp.dtype, *, now: jax.Array) -> Params:
    """Matrices of Int8 in `dtype`; anything else as it is.

    now: changes from step to step of a decoding loop. Otherwise the compiler would make
    the matrices once, in front of the loop, and read 16 bits in every step.
    """
    is_int8: Callable[[Any], bool] = lambda x: isinstance(x, Int8)
    leaves, treedef = jax.tree.flatten(params, is_leaf=is_int8)
    if not any(map(is_int8, leaves)):
        return params

    def matrix(x: Any) -> Any:
        if not is_int8(x):
            return x
        value, _ = jax.lax.optimization_barrier((x.value, now))
        return (value.astype(jnp.float32) * x.scale).astype(dtype)

    return treedef.unflatten([matrix(x) for x in leaves])
