"""Products and their gradients are those of jnp.matmul, in another order of factors."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from o1jax.policy.products import matmul, product


def draw(*shape, dtype=jnp.float32):
    return jax.random.normal(jax.random.key(len(shape)), shape).astype(dtype)


@pytest.mark.parametrize(
    ("a", "b"),
    [((6, 5), (5, 3)), ((6, 3), (3, 5)), ((2, 4, 6, 5), (2, 4, 5, 3))],
    ids=["tall", "wide", "batched"],
)
def test_gradients_are_those_of_matmul(a, b):
    a, b = draw(*a), draw(*b)
    weight = draw(*a.shape[:-1], b.shape[-1])
    loss = lambda of, a, b: jnp.sum(of(a, b) * weight)
    np.testing.assert_array_equal(matmul(a, b), jnp.matmul(a, b))
    ours = jax.grad(loss, argnums=(1, 2))(matmul, a, b)
    theirs = jax.grad(loss, argnums=(1, 2))(jnp.matmul, a, b)
    for one, other in zip(ours, theirs):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kernel", [(5, 3), (3, 5)])
def test_sums_in_f32_leave_gradients_in_the_dtype_of_their_operand(kernel):
    x, w = draw(2, 6, kernel[0], dtype=jnp.bfloat16), draw(*kernel, dtype=jnp.bfloat16)
    assert product(x, w, jnp.float32).dtype == jnp.float32
    loss = lambda x, w: jnp.sum(product(x, w, jnp.float32) ** 2)
    of_x, of_w = jax.grad(loss, argnums=(0, 1))(x, w)
    assert (of_x.dtype, of_w.dtype) == (jnp.bfloat16, jnp.bfloat16)
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), (x, w))
    exact = jax.grad(lambda x, w: jnp.sum(product(x, w) ** 2), argnums=(0, 1))(*wide)
    for one, other in zip((of_x, of_w), exact):
        np.testing.assert_allclose(one.astype(jnp.float32), other, rtol=0.02, atol=0.05)


def test_a_tall_kernels_gradient_is_not_turned_back():
    """Its short side comes first in what is compiled: f32[16, 64] for f32[64, 16]."""
    a, b = draw(32, 64), draw(64, 16)

    def shapes(of):
        grad = jax.grad(lambda b: jnp.sum(of(a, b) ** 2))
        text = jax.jit(grad).lower(b).compile().as_text()
        return re.findall(r"= (f32\[\d+,\d+\])\S* dot\(", text)

    assert "f32[16,64]" in shapes(matmul)
    assert "f32[16,64]" not in shapes(jnp.matmul)
