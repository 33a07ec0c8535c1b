"""The gradient of imitation: right, and the same however the tokens are laid out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from o1jax.learn.objectives import imitation
from o1jax.learn.update import build_update
from o1jax.types import TrainState

# An optimizer that changes nothing and keeps the gradient as its state.
KEEP = optax.GradientTransformation(
    lambda params: jax.tree.map(jnp.zeros_like, params),
    lambda grads, state, params: (jax.tree.map(jnp.zeros_like, grads), grads),
)


@pytest.fixture(scope="module")
def gradient(make):
    """(batch, microbatches) -> (gradient, metrics)."""
    _, policy, params = make()
    state = TrainState(jnp.int32(0), params, KEEP.init(params), jax.random.key(0))

    @functools.cache
    def update(microbatches):
        return jax.jit(build_update(imitation(policy), KEEP, microbatches=microbatches))

    def of(batch, microbatches=1):
        new, metrics = update(microbatches)(state, batch)
        return new.opt_state, metrics

    return of


@pytest.fixture(scope="module")
def expected(gradient, batch_of):
    return gradient(batch_of())


def same(a, b):
    """Sums in another order: f32 rounding of numbers up to about 1."""
    close = lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-6)
    jax.tree.map(close, a, b)


def test_the_metrics_by_hand(make, batch_of, expected):
    _, policy, params = make()
    losses, right = [], []
    forward = jax.jit(policy.forward)
    batch = batch_of()
    logits = np.asarray(forward(params, batch.tokens).logits, np.float64)
    for row, t in np.argwhere(batch.weight):
        token, z = batch.tokens[row, t], logits[row, t]
        losses.append(np.log(np.sum(np.exp(z))) - z[token])
        right.append(np.argmax(z) == token)
    assert len(losses) == 4 + 2 + 2 + 3
    grads, metrics = expected
    np.testing.assert_allclose(metrics["loss"], np.mean(losses), rtol=1e-5)
    np.testing.assert_allclose(metrics["token_accuracy"], np.mean(right), rtol=1e-6)
    norm = np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(grads)))
    np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-5)


@pytest.mark.parametrize("microbatches", [2, 4])
def test_microbatches_change_nothing(gradient, batch_of, expected, microbatches):
    same(gradient(batch_of(), microbatches), expected)


def test_the_order_of_rows_changes_nothing(gradient, batch_of, expected):
    same(gradient(batch_of(((2,), (0,), (3,), (1,)))), expected)


def test_padding_changes_nothing(gradient, batch_of, expected):
    """Of columns and of rows; here the last microbatch has not a single weight."""
    wider = batch_of(((0,), (1,), (), (2,), (3,), ()), length=9)
    assert not wider.weight[2::3].any()
    same(gradient(wider, 3), expected)


@pytest.mark.parametrize("layout", [((0, 1), (3, 2)), ((2, 1, 3, 0), ())])
def test_packing_changes_nothing(gradient, batch_of, expected, layout):
    same(gradient(batch_of(layout, length=20)), expected)


def test_only_the_ratio_of_weights_matters(gradient, batch_of, expected):
    batch = batch_of()
    same(gradient(batch.replace(weight=3 * batch.weight)), expected)
    grads, metrics = gradient(batch.replace(weight=0 * batch.weight))
    assert metrics["loss"] == metrics["grad_norm"] == 0
    assert all(not leaf.any() for leaf in jax.tree.leaves(grads))


def test_every_token_weighs_the_same_not_every_row(gradient, batch_of, expected):
    """4, 2, 2, 3 tokens: the mean over tokens is not the mean of means over rows."""
    rows = [gradient(batch_of(((d,),)))[1]["loss"] for d in range(4)]
    np.testing.assert_allclose(
        expected[1]["loss"], np.dot(rows, [4, 2, 2, 3]) / 11, rtol=1e-5
    )
    assert abs(np.mean(rows) - expected[1]["loss"]) > 1e-3


def test_the_gradient_is_the_slope_of_the_loss(make, batch_of, expected):
    """Central differences at the steepest coordinate of every parameter."""
    _, policy, params = make()
    objective, batch = imitation(policy), batch_of()
    loss = jax.jit(lambda p: objective.total(p, batch)[0] / objective.weight(batch))
    leaves, tree = jax.tree.flatten(params)
    # The loss is about 3 with an f32 error near 3e-7, so slopes are off by 2e-5 and,
    # from the cubic term, by about eps^2: 1e-4.
    eps = 1e-2
    grads = jax.tree_util.tree_leaves_with_path(expected[0])
    for i, (path, grad) in enumerate(grads):
        where = np.unravel_index(np.argmax(np.abs(grad)), grad.shape)

        def at(step, i=i, where=where):
            moved = [
                x.at[where].add(step) if j == i else x for j, x in enumerate(leaves)
            ]
            return float(loss(jax.tree.unflatten(tree, moved)))

        slope = (at(eps) - at(-eps)) / (2 * eps)
        np.testing.assert_allclose(
            slope, grad[where], rtol=0.01, atol=2e-4, err_msg=str(path)
        )
        read = path[0].key not in ("value", "process")  # imitation reads the logits
        assert (np.abs(grad[where]) > 1e-3) == read


def test_microbatches_must_divide_the_rows(make, batch_of):
    _, policy, params = make()
    update = build_update(imitation(policy), KEEP, microbatches=3)
    state = TrainState(jnp.int32(0), params, KEEP.init(params), jax.random.key(0))
    with pytest.raises(ValueError, match=r"microbatches \(3\) must divide rows \(4\)"):
        jax.eval_shape(update, state, batch_of())
