"""The TPU kernel of attention, interpreted, against attention written out."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from o1jax.loop.flops import count_flops
from o1jax.parallel.mesh import MeshConfig, build_mesh, put_batch
from o1jax.policy.attention import attend
from o1jax.policy.flash import attend_flash

B, T, K, G, E = 4, 130, 2, 2, 8  # T: one block and two tokens of the next


@pytest.fixture(scope="module")
def rows():
    """q, k, v, segments of packed rows, and what each output counts."""
    rng = np.random.default_rng(3)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
    segment = np.repeat([[1] * 70 + [2] * 50 + [0] * 10], B, axis=0).astype(np.int32)
    q, k, v = draw(B, T, K, G, E), draw(B, T, K, E), draw(B, T, K, E)
    return q, k, v, segment, draw(B, T, K, G, E)


def graded(fn, **options):
    """(sum of weighted outputs, gradients of q, k, v)."""

    def total(q, k, v, segment, weight):
        return jnp.sum(weight * fn(q, k, v, segment=segment, **options))

    return jax.value_and_grad(total, argnums=(0, 1, 2))


def close(found, expected):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
    "options", [{}, {"window": 40, "cap": 5.0, "scale": 0.3}], ids=["plain", "gemma"]
)
def test_the_same_numbers_and_gradients_on_a_mesh_too(rows, options):
    expected = jax.jit(graded(attend, **options))(*rows)
    # Rows over data and fsdp, heads over tensor: each device has one row and one head.
    mesh = build_mesh(MeshConfig(2, 2, 2))
    kernel = jax.jit(graded(attend_flash, **options))
    close(kernel(*put_batch(mesh, rows)), expected)
    if not options:
        close(kernel(*rows), expected)


def test_inside_a_shard_map_of_rows_it_takes_what_is_left(rows):
    """A kernel must not meet an axis that the partitioner has, be it of one device."""
    mesh = build_mesh(MeshConfig(4, 2, 1))
    q, k, v = put_batch(mesh, tuple(np.concatenate([x, x]) for x in rows[:3]))
    cut = jax.P(("data", "fsdp"))
    manual = jax.shard_map(
        attend_flash,
        mesh=mesh,
        in_specs=(cut, cut, cut),
        out_specs=cut,
        axis_names={"data", "fsdp"},
        check_vma=False,
    )
    close(jax.jit(manual)(q, k, v)[:B], jax.jit(attend)(*rows[:3]))
    assert str(jax.make_jaxpr(manual)(q, k, v)).count("shard_map") == 2


def test_scores_are_written_nowhere(rows):
    """At 2,048 tokens they would be B K G T T numbers, the largest array by far."""
    long = lambda *heads: jax.ShapeDtypeStruct((B, 2048, *heads, 128), jnp.float32)
    shapes = long(K, G), long(K), long(K)

    def largest(fn):
        def of(jaxpr):
            for eqn in jaxpr.eqns:
                yield from (v.aval.size for v in eqn.outvars)
                for inner in jaxprs_in_params(eqn.params):
                    yield from of(inner)

        grad = jax.grad(lambda *x: jnp.sum(fn(*x)), argnums=(0, 1, 2))
        return max(of(jax.make_jaxpr(grad)(*shapes).jaxpr))

    assert largest(attend) == B * K * G * 2048 * 2048
    assert largest(attend_flash) == B * 2048 * K * G * 128


def test_flops_are_at_most_those_of_all_pairs(rows):
    """The kernel skips blocks, which its count does not know: it is a bound."""
    plain, kernel = (count_flops(fn, *rows[:3]) for fn in (attend, attend_flash))
    padded = (256 / T) ** 2  # rows of 130 tokens are read as 256
    assert kernel.matmul == pytest.approx(plain.matmul * padded, rel=0.01)
    assert plain.exact and not kernel.exact


def test_where_the_kernel_does_not_serve(rows):
    mesh = build_mesh(MeshConfig(8, 1, 1))
    whole = jax.NamedSharding(mesh, jax.P())
    of_mesh = [jax.device_put(x, whole) for x in rows[:3]]
    served = []

    def ask(*qkv):
        served.append(attend_flash(*qkv))
        served.append(attend_flash(*qkv, window=jnp.int32(4), windows=(0, 4)))

    jax.jit(ask).eval_shape(*of_mesh)
    assert served == [None, None]  # 4 rows for 8 devices


def test_layers_with_different_windows(rows):
    """In a scan over layers the window is a number that the program carries."""
    q, k, v, segment, _ = rows

    def layer(fn, q, window):
        return fn(q, k, v, segment=segment, window=window), None

    windows = jnp.array([0, 40], jnp.int32)
    flash = partial(attend_flash, windows=(0, 40))
    found, expected = (
        jax.jit(lambda q, fn=fn: jax.lax.scan(partial(layer, fn), q, windows)[0])(q)
        for fn in (flash, attend)
    )
    close(found, expected)


def test_a_policy_that_reads_by_the_kernel(make):
    """`flash` switches it on; nothing else of a policy changes."""
    _, plain, params = make(layers=1)
    _, kernel, _ = make(layers=1, flash=True)
    tokens = jnp.arange(B * T, dtype=jnp.int32).reshape(B, T) % 12
    expected = jax.jit(plain.forward)(params, tokens)
    found = jax.jit(kernel.forward)(params, tokens)
    np.testing.assert_allclose(found.logits, expected.logits, rtol=1e-4, atol=1e-4)
    assert "pallas_call" in str(jax.make_jaxpr(kernel.forward)(params, tokens))
    assert "pallas_call" not in str(jax.make_jaxpr(plain.forward)(params, tokens))
