"""Signals by hand: groups, steps, a critic; and equal groups that must be exactly 0."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from o1jax.learn.advantage import (
    EPS,
    SIGNALS,
    SignalInput,
    centred,
    gae,
    leave_one_out,
    returns,
    standardised,
    whitened,
)

ROOT2 = np.sqrt(2)


@functools.cache
def program(name, numbers):
    return jax.jit(lambda *given: SIGNALS[name](SignalInput(*given, *numbers)))


def signal(name, reward, mask=None, value=None, step_end=None, gamma=1.0, lam=1.0):
    """Of one question; rows are responses."""
    reward = np.asarray(reward, np.float32)
    mask = np.ones(reward.shape) if mask is None else mask
    value = 0 * reward if value is None else value
    step_end = np.zeros(reward.shape) if step_end is None else step_end
    types = (np.float32, np.float32, bool, bool)
    given = (reward, value, mask, step_end)
    given = [np.asarray(x, dtype)[None] for x, dtype in zip(given, types)]
    return np.asarray(program(name, (gamma, lam))(*given))[0]


def test_groups_by_hand():
    reward = jnp.array([[1.0, 0.0, 2.0]])
    of = jax.jit(lambda r: (centred(r), leave_one_out(r), standardised(r)))(reward)
    np.testing.assert_allclose(of[0], [[0, -1, 1]])
    np.testing.assert_allclose(of[1], [[0, -1.5, 1.5]])
    # The squares sum to 2, over G - 1 = 2: the deviation is 1.
    np.testing.assert_allclose(of[2], [[0, -1, 1]], rtol=2 * EPS)


@pytest.mark.parametrize("name", ["batch_mean", "leave_one_out", "group", "centred"])
def test_equal_rewards_teach_exactly_nothing(name):
    """A mean of equal floats may be off by an ulp, which 1 / std would blow up."""
    for same in (0.1, -0.7, 1 / 3, 3e7):
        assert not signal(name, np.full((7, 3), same)).any()
        # Nor may the order of a sum: 0.1 + 0.2 + 0.3 is not 0.3 + 0.2 + 0.1.
        rows = np.array([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1]] * 4)[:7] * same
        assert not signal(name, rows).any()


def test_small_differences_beside_large_ones_count():
    found = signal("group", [[100.0], [100.01]])
    assert found[0, 0] < -0.5 < 0.5 < found[1, 0]


def test_what_is_paid_behind_the_response_does_not_count():
    mask = [[1, 1, 0], [1, 0, 0]]
    found = signal("leave_one_out", [[1, 2, 9], [1, 9, 9]], mask)
    np.testing.assert_allclose(found, [[2, 2, 0], [-2, 0, 0]])
    # Nor does a row of padding: the group has two responses.
    found = signal("centred", [[1, 2, 9], [1, 9, 9], [7, 7, 7]], [*mask, [0, 0, 0]])
    np.testing.assert_allclose(found, [[1, 1, 0], [-1, 0, 0], [0, 0, 0]])
    alone = signal("leave_one_out", [[1, 2, 9], [7, 7, 7]], [mask[0], [0, 0, 0]])
    assert not alone.any()


def test_the_mean_of_the_batch_is_over_all_questions():
    reward = np.array([[[1.0], [0.0]], [[0.0], [3.0]]], np.float32)
    there = np.ones(reward.shape, bool)
    found = program("batch_mean", ())(reward, 0 * reward, there, there)
    np.testing.assert_allclose(found[..., 0], [[0, -1], [-1, 2]], atol=1e-6)


def test_returns_are_discounted_from_the_first_token_of_the_response():
    reward = jnp.array([5.0, 1.0, 2.0, 4.0, 5.0])
    mask = jnp.array([0, 1, 1, 1, 0], bool)
    assert returns(reward, mask, 0.5) == 1 + 1 + 1
    assert returns(reward, mask) == 7


def test_process_rewards_by_hand():
    """Steps of -1 and 1; 1 and -1: the deviation of the four is 2 / sqrt(3)."""
    reward = [[0, -1, 1, 0], [1, 0, -1, 0]]
    end = [[0, 1, 1, 0], [1, 0, 1, 0]]
    mask = [[1, 1, 1, 1], [1, 1, 1, 0]]  # the first row's last token is the text's end
    a = np.sqrt(3) / 2
    found = signal("process", reward, mask, step_end=end)
    wanted = [[0, 0, a, a], [0, -a, -a, 0]]
    np.testing.assert_allclose(found, wanted, atol=2e-4)
    # What is paid for the end of the text is the last step's; a response without a
    # marked step is one.
    found = signal("process", [[1, 0, 2], [0, 0, 0]], None, step_end=[[1, 0, 0]] * 2)
    np.testing.assert_allclose(found, [[1 / ROOT2] * 3, [-1 / ROOT2] * 3], rtol=1e-3)
    found = signal("process", [[1, 0, 2], [0, 0, 0]])
    np.testing.assert_allclose(found, [[1 / ROOT2] * 3, [-1 / ROOT2] * 3], rtol=1e-3)


def test_a_step_of_nothing_is_a_step():
    """Three steps of 3, 0 and 0: mean 1, squares 4 + 1 + 1 over 2, deviation sqrt 3."""
    found = signal("process", [[3, 0], [0, 0]], [[1, 1], [1, 0]], step_end=[[1, 1]] * 2)
    s = np.sqrt(3)
    np.testing.assert_allclose(found, [[1 / s, -1 / s], [-1 / s, 0]], rtol=1e-3)


def test_gae_by_hand():
    """d_1 = 1 + 0.5 * 4 - 2 = 1 and d_2 = 3 - 4 = -1, so A_1 = 1 + 0.5 * 0.8 * -1."""
    reward, value = jnp.array([9.0, 1.0, 3.0, 9.0]), jnp.array([9.0, 2.0, 4.0, 9.0])
    mask = jnp.array([0, 1, 1, 0], bool)
    found = gae(reward, value, mask, 0.5, 0.8)
    np.testing.assert_allclose(found, [0, 0.6, -1, 0], rtol=1e-6)
    # lam 1 and no critic: the discounted reward to come.
    found = gae(reward, 0 * value, mask, 0.5, 1.0)
    np.testing.assert_allclose(found, [0, 2.5, 3, 0])


def test_gae_is_the_sum_of_discounted_errors():
    rng = np.random.default_rng(0)
    reward, value = rng.normal(size=(2, 3, 9)).astype(np.float32)
    mask = np.arange(9) < np.array([[9], [5], [1]])
    found = signal("gae", reward, mask, value, gamma=0.9, lam=0.7)
    after = np.pad(np.where(mask, value, 0)[:, 1:], ((0, 0), (0, 1)))
    d = np.where(mask, reward + 0.9 * after - value, 0)
    for t in range(9):
        wanted = sum(0.63**k * d[:, t + k] for k in range(9 - t)) * mask[:, t]
        np.testing.assert_allclose(found[:, t], wanted, rtol=1e-4, atol=1e-6)


def test_whitening_by_hand():
    found = whitened(jnp.array([[3.0, 5.0, 9.0]]), jnp.array([[1, 1, 0]], bool))
    np.testing.assert_allclose(found, [[-1, 1, 0]], rtol=1e-6)
    assert not whitened(jnp.ones((1, 2)), jnp.zeros((1, 2), bool)).any()


def test_one_response_has_no_others():
    for name in ("leave_one_out", "group", "centred"):
        with pytest.raises(ValueError, match="needs two responses a question"):
            signal(name, [[1.0]])
    assert signal("reward", [[1.0]]) == 1
