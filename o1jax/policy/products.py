"""Matrix products, in the form in which XLA computes them and their gradients well.

In: rows and a kernel, or batches of both. Out: what jnp.matmul gives, and so are the
gradients but for the order of their sums.
"""

from functools import partial

import jax
import jax.numpy as jnp


def product(
    x: jax.Array, kernel: jax.Array, dtype: jnp.dtype | None = None
) -> jax.Array:
    """x [..., M] times kernel [M, N], over one axis of rows, summed in `dtype`.

    With two axes of rows XLA's gradient on CPU copies a transpose first.
    """
    flat = matmul(x.reshape(-1, x.shape[-1]), kernel, dtype)
    return flat.reshape(*x.shape[:-1], kernel.shape[-1])


def matmul(a: jax.Array, b: jax.Array, dtype: jnp.dtype | None = None) -> jax.Array:
    """a [..., N, M] times b [..., M, F] of the same leading axes, summed in `dtype`.

    On CPU the gradient for b is taken as (g^T a)^T where M is above F. XLA would take
    a^T g, which runs at half speed if the rows of `a` are a large power of two apart.
    """
    if jax.default_backend() != "cpu":
        return jnp.matmul(a, b, preferred_element_type=dtype)
    return _matmul(_vary(a, b), _vary(b, a), dtype)


def _vary(x: jax.Array, other: jax.Array) -> jax.Array:
    """x as a shard of what `other` is one of; shard_map asks that of a rule."""
    varying = lambda x: jax.typeof(x).manual_axis_type.varying
    axes = varying(other) - varying(x)
    return jax.lax.pcast(x, tuple(axes), to="varying") if axes else x


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _matmul(a: jax.Array, b: jax.Array, dtype: jnp.dtype | None) -> jax.Array:
    return jnp.matmul(a, b, preferred_element_type=dtype)


def _forward(a: jax.Array, b: jax.Array, dtype: jnp.dtype | None) -> tuple:
    return _matmul(a, b, dtype), (a, b)


def _backward(dtype: jnp.dtype | None, kept: tuple, g: jax.Array) -> tuple:
    a, b = kept
    turned = partial(jnp.swapaxes, axis1=-1, axis2=-2)
    # Without the barrier XLA exchanges the factors to be rid of the transpose.
    if b.shape[-2] > b.shape[-1]:
        of_b = turned(jax.lax.optimization_barrier(turned(g) @ a))
    else:
        of_b = jax.lax.optimization_barrier(turned(a) @ g)
    return (g @ turned(b)).astype(a.dtype), of_b.astype(b.dtype)


_matmul.defvjp(_forward, _backward)
