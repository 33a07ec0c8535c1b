"""The worth of a text from its steps: four rules, four winners."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from o1jax.loop.choosing import select
from o1jax.reward.aggregate import aggregate, at_last, log_odds, log_product

worth_of = jax.jit(aggregate, static_argnames=("how", "empty"))
HOWS = ("product", "min", "last", "mean")
# Step probabilities of four texts; each rule prefers another one.
TEXTS = [
    [0.9, 0.85],  # product .765; min .85, last .85, mean .875
    [0.86, 0.86, 0.86],  # min .86; product .636
    [0.1, 0.97],  # last .97
    [0.2, 0.99, 0.99, 0.99, 0.99, 0.99, 0.99, 0.96],  # mean .8875; product .181
]
WORTH = {
    "product": [0.765, 0.86**3, 0.097, 0.2 * 0.99**6 * 0.96],
    "min": [0.85, 0.86, 0.1, 0.2],
    "last": [0.85, 0.86, 0.97, 0.96],
    "mean": [0.875, 0.86, 0.535, 7.1 / 8],
}
WINNER = {"product": 0, "min": 1, "last": 2, "mean": 3}


def texts():
    """scores f32[4, 17], steps at every second place; elsewhere NaN-free nonsense."""
    scores = np.full((4, 17), 50.0, np.float32)
    step_end = np.zeros((4, 17), bool)
    for row, probability in enumerate(TEXTS):
        at = 1 + 2 * np.arange(len(probability))
        scores[row, at] = np.log(probability) - np.log1p(-np.array(probability))
        step_end[row, at] = True
    return jnp.asarray(scores), jnp.asarray(step_end)


@pytest.mark.parametrize("how", HOWS)
def test_each_rule_prefers_another_text(how):
    with jax.numpy_dtype_promotion("strict"):
        worth = worth_of(*texts(), how)
    assert worth.dtype == jnp.float32
    np.testing.assert_allclose(worth, WORTH[how], rtol=1e-5)
    assert np.argmax(worth) == WINNER[how]


@pytest.mark.parametrize("how", HOWS)
def test_a_text_with_no_closed_step_is_worth_what_is_said(how):
    scores, step_end = texts()
    step_end = step_end.at[1].set(False)
    assert aggregate(scores, step_end, how)[1] == 0
    worth = worth_of(scores, step_end, how, empty=0.25)
    np.testing.assert_allclose(worth[1], 0.25)
    np.testing.assert_allclose(np.delete(worth, 1), np.delete(WORTH[how], 1), rtol=1e-5)


@pytest.mark.parametrize("how", HOWS)
def test_heads_go_in_front(how):
    scores, step_end = texts()
    heads = worth_of(jnp.stack([scores, -scores]), step_end, how)
    np.testing.assert_allclose(heads[0], worth_of(scores, step_end, how), rtol=1e-6)
    np.testing.assert_allclose(heads[1], worth_of(-scores, step_end, how), rtol=1e-6)


def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match="one of product, min, last, mean"):
        aggregate(*texts(), "max")


def test_a_long_product_is_summed_in_logs():
    """200 steps of 0.01: a product that f32 does not hold, and its log-odds."""
    scores = jnp.full((1, 200), np.log(0.01 / 0.99), jnp.float32)
    log_p = log_product(scores, jnp.ones((1, 200), bool))
    np.testing.assert_allclose(log_p, 200 * np.log(0.01), rtol=1e-5)
    np.testing.assert_allclose(log_odds(log_p), 200 * np.log(0.01), rtol=1e-5)


def test_the_last_step_is_found_and_none_is_nothing():
    x = jnp.float32([[1, 2, 3, 4], [5, 6, 7, 8]])
    step_end = jnp.array([[True, False, True, False], [False] * 4])
    np.testing.assert_array_equal(at_last(x, step_end), [3, 0])


with_gradient = jax.jit(jax.value_and_grad(log_odds))


@pytest.mark.parametrize("p", [1e-30, 1e-3, 0.5, 0.999, 1 - 1e-9, 1 - 1e-15])
def test_log_odds_from_a_log_probability(p):
    value, gradient = with_gradient(jnp.float32(np.log(p)))
    np.testing.assert_allclose(value, np.log(p) - np.log1p(-p), rtol=1e-4)
    np.testing.assert_allclose(gradient, 1 / (1 - p), rtol=2e-3)  # d / d log p
    # As far as it goes: p = 1.
    value, gradient = with_gradient(jnp.float32(0))
    assert np.isfinite(value) and np.isfinite(gradient)


@pytest.mark.parametrize("how, best", [("max", 0), ("weighted", 1), ("majority", 3)])
def test_each_way_to_choose_among_answers_has_another_winner(how, best):
    votes = ["c", "a", "a", "b", "b", "b"]
    score = np.array([0.9, 0.8, 0.7, 0.4, 0.4, 0.4])  # a: 1.5, b: 1.2
    assert select(how, votes, score, np.ones(6)) == best
