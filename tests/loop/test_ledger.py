"""FLOPs against hand counts and against XLA; accounts that survive a restart."""

import json

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas as pl
from jax.sharding import AbstractMesh, AxisType
from jax.sharding import PartitionSpec as P

from o1jax.loop.ledger import FlopCount, Ledger, count_flops
from o1jax.types import Spent


def shape(*dims: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(dims, jnp.float32)


B, T, D, F, LAYERS = 2, 16, 32, 96, 3  # rows, tokens, width, hidden width


def layer(x, w):
    """One head of attention and a SwiGLU, enough like a transformer."""
    h = x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6)
    q, k, v = jnp.split(h @ w["qkv"], 3, -1)
    scores = jnp.einsum("btd,bsd->bts", q, k)
    causal = jnp.tril(jnp.ones((T, T), bool))
    weights = jax.nn.softmax(jnp.where(causal, scores, -1e9))
    x = x + jnp.einsum("bts,bsd->btd", weights, v) @ w["out"]
    return x + (jax.nn.silu(x @ w["gate"]) * (x @ w["up"])) @ w["down"]


WEIGHTS = {
    "qkv": shape(LAYERS, D, 3 * D),
    "out": shape(LAYERS, D, D),
    "gate": shape(LAYERS, D, F),
    "up": shape(LAYERS, D, F),
    "down": shape(LAYERS, F, D),
}
# A layer: 4 D x D and 3 D x F products on B T tokens, and T x T scores and mix.
LAYER_MATMUL = 2 * B * T * (4 * D * D + 3 * D * F) + 2 * 2 * B * T * T * D


def unrolled(x, w):
    for i in range(LAYERS):
        x = layer(x, jax.tree.map(lambda a, i=i: a[i], w))
    return x


def scanned(x, w):
    return jax.lax.scan(lambda x, w: (layer(x, w), None), x, w)[0]


def loss(x, w):
    return jnp.mean(unrolled(x, w) ** 2)


def xla_flops(fn, *args) -> float:
    return jax.jit(fn).lower(*args).compile().cost_analysis()["flops"]


def test_matrix_products_by_hand():
    def fn(a, b):
        return jnp.einsum("bij,bjk->bik", a, b)

    count = count_flops(fn, shape(5, 2, 3), shape(5, 3, 4))
    assert count == FlopCount(matmul=2 * 5 * 2 * 3 * 4)
    assert count.exact
    over_rows = count_flops(jax.vmap(fn), shape(7, 5, 2, 3), shape(7, 5, 3, 4))
    assert over_rows.matmul == 7 * count.matmul


def test_elementwise_reductions_and_moves_by_hand():
    assert count_flops(jnp.sin, shape(3, 4)).other == 12
    assert count_flops(lambda x: jnp.max(x, 0), shape(3, 4)).other == 12
    assert count_flops(lambda x: x.T.reshape(-1)[:5], shape(3, 4)).flops == 0
    assert count_flops(lambda x: jax.lax.sort(x), shape(3, 16)).other == 3 * 16 * 4


def test_convolution_by_hand():
    def fn(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (1,), "VALID", feature_group_count=2
        )

    # [batch, 4 channels, 10] with 6 kernels of width 3 in 2 groups: 8 places out, and
    # each output reads 3 x (4 / 2) inputs.
    count = count_flops(fn, shape(5, 4, 10), shape(6, 2, 3))
    assert count.matmul == 2 * (5 * 6 * 8) * (3 * 2)


def test_transformer_agrees_with_xla_and_scan_with_unrolled():
    args = (shape(B, T, D), WEIGHTS)
    count = count_flops(unrolled, *args)
    assert count.matmul == LAYERS * LAYER_MATMUL
    # The rest is 2 % of the whole here. XLA, which rewrites and fuses first, makes it
    # 1.3 times ours.
    assert count.flops == pytest.approx(xla_flops(unrolled, *args), rel=0.01)
    other = xla_flops(unrolled, *args) - count.matmul
    assert other / 1.5 < count.other < other * 1.5

    as_loop = count_flops(scanned, *args)
    assert as_loop.matmul == count.matmul
    assert as_loop.other == pytest.approx(count.other, rel=0.01)
    assert as_loop.exact and not as_loop.loops
    assert xla_flops(scanned, *args) < count.flops / 2  # why we count ourselves


def test_matrix_products_equal_those_of_xla():
    def products(a, b, c):
        return (a @ b) @ c

    args = shape(8, 16), shape(16, 32), shape(32, 4)
    assert count_flops(products, *args).flops == xla_flops(products, *args)


def test_gradient_of_a_product_is_three_products():
    x, w = shape(8, 16), shape(16, 4)

    def fn(x, w):
        return jnp.sum((x @ w) ** 2)

    forward = count_flops(fn, x, w).matmul
    assert forward == 2 * 8 * 16 * 4
    assert count_flops(jax.grad(fn, (0, 1)), x, w).matmul == 3 * forward
    # Of a linear loss the gradient needs no forward product: dead code isn't counted.
    linear = jax.grad(lambda x, w: jnp.sum(x @ w), (0, 1))
    assert count_flops(linear, x, w).matmul == 2 * forward


def test_rematerialization_is_counted():
    args = (shape(B, T, D), WEIGHTS)

    def rematerialized(x, w):
        for i in range(LAYERS):
            here = jax.tree.map(lambda a, i=i: a[i], w)
            x = jax.checkpoint(layer)(x, here)
        return jnp.mean(x**2)

    forward = LAYERS * LAYER_MATMUL
    assert count_flops(jax.grad(loss, (0, 1)), *args).matmul == 3 * forward
    # Once more forward, but for the last product of a layer: no gradient needs it.
    skipped = LAYERS * 2 * B * T * F * D
    again = count_flops(jax.grad(rematerialized, (0, 1)), *args)
    assert again.matmul == 4 * forward - skipped


def test_gradient_of_a_scan_equals_that_of_the_unrolled():
    args = (shape(B, T, D), WEIGHTS)
    looped = jax.grad(lambda x, w: jnp.mean(scanned(x, w) ** 2), (0, 1))
    count = count_flops(looped, *args)
    assert count.matmul == count_flops(jax.grad(loss, (0, 1)), *args).matmul


PRODUCT = 2 * 4**3  # of two 4 x 4 matrices


def counted(start, stop, step=1, condition=lambda c: True):
    """A while from start to stop, a product a trip."""

    def fn(x):
        def going(c):
            return (c[0] < stop) & condition(c)

        carry = (start, x)
        return jax.lax.while_loop(going, lambda c: (c[0] + step, c[1] @ x), carry)[1]

    return fn


@pytest.mark.parametrize(
    "start, stop, step, trips", [(0, 7, 1, 7), (2, 7, 2, 3), (9, 7, 1, 0)]
)
def test_while_with_a_counter_is_exact(start, stop, step, trips):
    def plain(x):
        carry = (start, x)
        body = lambda c: (c[0] + step, c[1] @ x)
        return jax.lax.while_loop(lambda c: c[0] < stop, body, carry)[1]

    count = count_flops(plain, shape(4, 4))
    assert count.matmul == trips * PRODUCT
    assert [loop.how for loop in count.loops] == ["exact"] and count.exact
    # The condition (1) is tested once more than the body (its counter: 1) runs.
    assert count.other == trips * 1 + (trips + 1) * 1


def test_while_counting_down_and_fori_loop():
    def down(x):
        carry = (jnp.int32(9), x)
        body = lambda c: (c[0] - 3, c[1] @ x)
        return jax.lax.while_loop(lambda c: c[0] >= 0, body, carry)[1]

    assert count_flops(down, shape(4, 4)).matmul == 4 * PRODUCT  # at 9, 6, 3, 0

    def fori(x, n):
        return jax.lax.fori_loop(0, n, lambda _, y: y @ x, x)

    five = count_flops(lambda x: fori(x, 5), shape(4, 4))  # becomes a scan
    hidden = count_flops(
        lambda x: jax.jit(fori)(x, jnp.int32(5)), shape(4, 4)
    )  # a while whose bound is an argument of the inner jit
    assert five.matmul == hidden.matmul == 5 * PRODUCT and hidden.exact
    vague = count_flops(fori, shape(4, 4), jax.ShapeDtypeStruct((), jnp.int32))
    assert vague.matmul == PRODUCT and not vague.exact
    assert [(loop.how, loop.bound) for loop in vague.loops] == [("unknown", None)]


def test_while_with_a_second_condition_is_a_bound_until_trips_are_given():
    decode = counted(0, 64, condition=lambda c: jnp.any(c[1] > 0))
    count = count_flops(decode, shape(4, 4))
    assert count.matmul == 64 * PRODUCT and not count.exact
    assert [(loop.how, loop.bound) for loop in count.loops] == [("bound", 64)]

    ran = count_flops(decode, shape(4, 4), while_trips=10)
    assert ran.matmul == 10 * PRODUCT and ran.exact
    assert count_flops(decode, shape(4, 4), while_trips=99).matmul == 64 * PRODUCT
    half = count_flops(decode, shape(4, 4), while_trips=lambda path, bound: bound / 2)
    assert half.matmul == 32 * PRODUCT and half.loops[0].path == "while.0"
    # Linear in the trips, so that a run may be charged from two counts.
    per_trip = ran.loops[0].flops_per_trip
    assert count.flops - ran.flops == 54 * per_trip


def test_nested_loops_multiply():
    def fn(x):
        inner = counted(0, 3)
        return jax.lax.scan(lambda y, _: (inner(y), None), x, length=5)[0]

    count = count_flops(fn, shape(4, 4), while_trips=2)
    assert count.matmul == 5 * 2 * PRODUCT
    assert [loop.path for loop in count.loops] == ["scan/while.0"]


def test_cond_costs_its_dearest_branch():
    def fn(x):
        return jax.lax.cond(x[0, 0] > 0, lambda y: y @ y @ y, lambda y: y, x)

    count = count_flops(fn, shape(4, 4))
    assert count.matmul == 2 * PRODUCT
    assert count.conds == ("cond",) and not count.exact  # the other costs nothing

    def alike(x):
        return jax.lax.cond(x[0, 0] > 0, lambda y: y @ x, lambda y: x @ y, x)

    assert count_flops(alike, shape(4, 4)).exact


def test_custom_rules_and_nested_jit_are_entered():
    @jax.custom_vjp
    def square(x):
        return x @ x

    square.defvjp(lambda x: (x @ x, x), lambda x, g: (g @ x.T + x.T @ g,))
    assert count_flops(jax.jit(square), shape(4, 4)).matmul == PRODUCT
    gradient = jax.grad(lambda x: jnp.sum(square(x) ** 2))
    assert count_flops(gradient, shape(4, 4)).matmul == 3 * PRODUCT
    assert count_flops(jax.nn.relu, shape(4, 4)).other == 16


def test_shard_map_is_paid_by_every_shard():
    mesh = AbstractMesh((4, 2), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)
    fn = jax.shard_map(
        lambda x, w: x @ w,
        mesh=mesh,
        in_specs=(P("data"), P()),
        out_specs=P("data"),
        axis_names={"data"},
    )
    count = count_flops(fn, shape(8, 16), shape(16, 4))
    assert count.matmul == 2 * 8 * 16 * 4  # 4 shards of 2 rows; "tensor" is not manual


def test_pallas_kernel_by_its_estimate_or_its_grid():
    def kernel(x_ref, y_ref):
        y_ref[...] = x_ref[...] @ x_ref[...]

    def call(x, **kwargs):
        return pl.pallas_call(
            kernel,
            grid=(3,),
            in_specs=[pl.BlockSpec((None, 4, 4), lambda i: (i, 0, 0))],
            out_specs=pl.BlockSpec((None, 4, 4), lambda i: (i, 0, 0)),
            out_shape=shape(3, 4, 4),
            interpret=True,
            **kwargs,
        )(x)

    assert count_flops(call, shape(3, 4, 4)).matmul == 3 * PRODUCT
    told = pl.CostEstimate(flops=1000, transcendentals=0, bytes_accessed=0)
    count = count_flops(lambda x: call(x, cost_estimate=told), shape(3, 4, 4))
    assert count.matmul == 1000


def test_a_primitive_without_a_rule_is_named():
    count = count_flops(lambda x: jnp.linalg.cholesky(x) @ x, shape(4, 4))
    assert count.unknown == ("cholesky",) and not count.exact
    assert count.matmul == PRODUCT


def test_ledger_books_by_kind_and_totals():
    ledger = Ledger()
    ledger.add("train", tokens=100, flops=2**60, seconds=1.5)
    ledger.add("train", tokens=20, flops=1)
    spent = Spent(generated_tokens=jnp.float32(30), reread_tokens=5, flops=7.5)
    ledger.add_spent("search", spent.plus(Spent(reward_tokens=2)), seconds=0.5)
    assert ledger.table() == [
        {"kind": "train", "tokens": 120, "flops": 2**60 + 1, "seconds": 1.5},
        {"kind": "search", "tokens": 37, "flops": 7.5, "seconds": 0.5},
        {"kind": "total", "tokens": 157, "flops": 2**60 + 8.5, "seconds": 2.0},
    ]


def test_resumed_ledger_equals_the_uninterrupted_one():
    def work(ledger, steps):
        for step in steps:
            ledger.add("train", tokens=step, flops=0.1 * step, seconds=step)
        return ledger

    whole = work(Ledger(), range(10))
    saved = json.loads(json.dumps(work(Ledger(), range(4)).state()))
    resumed = work(Ledger.from_state(saved), range(4, 10))
    assert resumed.state()["accounts"] == whole.state()["accounts"]


@pytest.mark.parametrize(
    "kind, amounts, message",
    [
        ("sleep", {}, "unknown kind 'sleep'"),
        ("train", {"tokens": -1}, "train: tokens must be at least 0, got -1"),
        ("train", {"seconds": float("nan")}, "train: seconds must be at least 0"),
    ],
)
def test_ledger_refuses(kind, amounts, message):
    with pytest.raises(ValueError, match=message):
        Ledger().add(kind, **amounts)
