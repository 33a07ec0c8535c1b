"""The schedule, the weight decay and the clipping, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from o1jax.learn.optimizer import OptimizerConfig, build_optimizer, learning_rate

PEAK, WARMUP, STEPS = 1e-2, 4, 20


@pytest.mark.parametrize(
    "schedule, halfway, last",
    [
        ("constant", PEAK, PEAK),
        ("linear", 0.55 * PEAK, 0.1 * PEAK),
        ("cosine", 0.55 * PEAK, 0.1 * PEAK),  # cos(pi / 2) = 0, the middle as well
    ],
)
def test_the_learning_rate_by_hand(schedule, halfway, last):
    rate = learning_rate(
        OptimizerConfig(learning_rate=PEAK, warmup_steps=WARMUP, schedule=schedule),
        STEPS,
    )
    steps = [0, 1, 2, 4, 12, 20, 100]
    expected = [0, PEAK / 4, PEAK / 2, PEAK, halfway, last, last]
    np.testing.assert_allclose([rate(s) for s in steps], expected, rtol=1e-5)


def test_the_first_update_counts_where_the_schedule_begins_at_step_1():
    config = OptimizerConfig(PEAK, 4, "linear")
    rate = learning_rate(config, 6, first=1)
    # Up by a quarter each, at the peak in the 4th; a tenth of it is left in the last.
    expected = PEAK * np.array([0.25, 0.5, 0.75, 1, 0.55, 0.1])
    np.testing.assert_allclose([rate(s) for s in range(6)], expected, rtol=1e-5)

    params = {"kernel": jnp.ones(2)}
    for first, moved in ((0, 0.0), (1, -0.25 * PEAK)):
        plain = OptimizerConfig(PEAK, 4, "constant", weight_decay=0.0)
        optimizer = build_optimizer(plain, 6, first=first)
        grad = {"kernel": jnp.array([0.3, -0.4])}
        updates, _ = optimizer.update(grad, optimizer.init(params), params)
        # Adam's first update is the rate times the sign of the gradient.
        signs = np.array([1.0, -1.0])
        np.testing.assert_allclose(updates["kernel"], moved * signs, rtol=1e-5)


def test_cosine_and_linear_differ_between():
    rate = {
        name: learning_rate(OptimizerConfig(PEAK, WARMUP, name), STEPS)
        for name in ("linear", "cosine")
    }
    # A quarter down, at step 8: linear 1 - 0.9 / 4; cosine has (1 + cos(pi / 4)) / 2.
    np.testing.assert_allclose(rate["linear"](8), 0.775 * PEAK, rtol=1e-5)
    cosine = 0.1 + 0.9 * (1 + np.sqrt(0.5)) / 2
    np.testing.assert_allclose(rate["cosine"](8), cosine * PEAK, rtol=1e-5)


def test_without_warm_up_it_starts_at_the_peak():
    rate = learning_rate(OptimizerConfig(PEAK, 0, "linear"), STEPS)
    np.testing.assert_allclose([rate(0), rate(20)], [PEAK, 0.1 * PEAK], rtol=1e-5)


def test_weight_decay_touches_matrices_only(make):
    _, _, params = make(qk_norm=True)
    config = OptimizerConfig(0.5, 0, "constant", weight_decay=0.1)
    optimizer = build_optimizer(config, 10)
    # Without a gradient Adam does nothing, so what is left is -rate * decay * param.
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = jax.jit(optimizer.update)(zeros, optimizer.init(params), params)
    pairs = zip(jax.tree_util.tree_leaves_with_path(updates), jax.tree.leaves(params))
    seen = set()
    for (path, update), param in pairs:
        name = path[-1].key
        decay = 0.0 if name in ("scale", "bias") else 0.05
        np.testing.assert_allclose(update, -decay * param, rtol=1e-5, err_msg=str(path))
        seen.add(name)
    assert seen == {
        *("scale", "bias", "embedding", "kernel"),
        *("qkv", "o", "gate_up", "down"),
    }


def test_long_gradients_are_cut_to_the_norm_and_short_ones_left():
    config = OptimizerConfig(clip_norm=1.0, b1=0.9)
    optimizer = build_optimizer(config, 10)
    params = {"kernel": jnp.ones(2)}
    # Adam's first moment after one step is 0.1 of the gradient that reached it.
    for grad, reached in (([30.0, 40.0], [0.6, 0.8]), ([0.3, 0.4], [0.3, 0.4])):
        _, state = optimizer.update(
            {"kernel": jnp.array(grad)}, optimizer.init(params), params
        )
        moment = optax.tree.get(state, "mu")["kernel"]
        np.testing.assert_allclose(moment, 0.1 * np.array(reached), rtol=1e-5)


@pytest.mark.parametrize(
    "fields, culprit",
    [
        (dict(learning_rate=0.0), "learning_rate"),
        (dict(eps=0.0), "eps"),
        (dict(clip_norm=-1.0), "clip_norm"),
        (dict(warmup_steps=-1), "warmup_steps"),
        (dict(final_fraction=-0.1), "final_fraction"),
        (dict(weight_decay=-0.1), "weight_decay"),
        (dict(b1=1.0), "b1"),
        (dict(b2=-0.1), "b2"),
    ],
)
def test_an_impossible_field_is_named(fields, culprit):
    with pytest.raises(ValueError, match=culprit):
        OptimizerConfig(**fields)


def test_what_is_not_trainable_does_not_decay():
    params = {
        "net": {"kernel": jnp.ones((2, 2))},
        "readout": {"kernel": jnp.ones((2, 2))},
    }
    config = OptimizerConfig(0.1, 0, "constant", weight_decay=0.5)
    trainable = lambda _: {"net": {"kernel": False}, "readout": {"kernel": True}}
    optimizer = build_optimizer(config, 10, trainable)
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zero, optimizer.init(params), params)
    # Decoupled decay: -0.1 * 0.5 * 1 where it applies.
    np.testing.assert_allclose(updates["readout"]["kernel"], -0.05, rtol=1e-6)
    np.testing.assert_array_equal(updates["net"]["kernel"], 0)
