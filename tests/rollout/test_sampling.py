"""Temperature, top-k and top-p by hand, and a draw that inverts what they leave."""

import jax.numpy as jnp
import numpy as np
import pytest

from o1jax.rollout.sampling import (
    SamplingConfig,
    draw,
    sampling_logprobs,
    token_logprob,
)

# Out of order on purpose: the borders are found by size, not by place.
PROBS = np.array([0.15, 0.5, 0.1, 0.25])


@pytest.mark.parametrize(
    "settings, kept",
    [
        (dict(), [0.15, 0.5, 0.1, 0.25]),
        (dict(temperature=0.5), [0.15**2, 0.5**2, 0.1**2, 0.25**2]),
        (dict(temperature=2.0), [0.15**0.5, 0.5**0.5, 0.1**0.5, 0.25**0.5]),
        (dict(temperature=0.0), [0.15, 0.5, 0.1, 0.25]),  # those of temperature 1
        (dict(top_k=2), [0, 0.5, 0, 0.25]),
        (dict(top_k=4), [0.15, 0.5, 0.1, 0.25]),
        (dict(top_k=9), [0.15, 0.5, 0.1, 0.25]),
        # The mass in front of a token must be below p: 0, .5, .75, .9 in order.
        (dict(top_p=0.8), [0.15, 0.5, 0, 0.25]),
        (dict(top_p=0.7), [0, 0.5, 0, 0.25]),
        (dict(top_p=0.3), [0, 0.5, 0, 0]),
        # Of the two that top-k leaves the first has 2/3.
        (dict(top_k=2, top_p=0.6), [0, 0.5, 0, 0]),
        # Squares .25, .0625, .0225, .01 of sum .345: in front of them 0, .72, .91, .97.
        (dict(temperature=0.5, top_p=0.8), [0, 0.25, 0, 0.0625]),
    ],
)
def test_the_distribution_by_hand(settings, kept):
    logits = jnp.log(PROBS) + 3.0  # logits are known up to a constant
    logprobs = sampling_logprobs(logits, SamplingConfig(**settings))
    np.testing.assert_allclose(jnp.exp(logprobs), np.array(kept) / sum(kept), rtol=1e-5)
    assert logprobs.dtype == jnp.float32


def test_ties_at_a_border_are_all_kept():
    logits = jnp.log(jnp.array([0.4, 0.2, 0.2, 0.2]))
    for settings in (dict(top_k=2), dict(top_p=0.5)):
        logprobs = sampling_logprobs(logits, SamplingConfig(**settings))
        np.testing.assert_allclose(jnp.exp(logprobs), [0.4, 0.2, 0.2, 0.2], rtol=1e-5)


def test_every_row_has_its_own_border():
    logits = jnp.log(jnp.array([PROBS, PROBS[::-1]]))
    logprobs = sampling_logprobs(logits, SamplingConfig(top_k=2))
    kept = np.array([[0, 2 / 3, 0, 1 / 3], [1 / 3, 0, 2 / 3, 0]])
    np.testing.assert_allclose(jnp.exp(logprobs), kept, rtol=1e-5)
    tokens = jnp.array([3, 2])
    np.testing.assert_allclose(
        token_logprob(logprobs, tokens), np.log([1 / 3, 2 / 3]), rtol=1e-5
    )


@pytest.mark.parametrize(
    "settings", [dict(), dict(temperature=0.7), dict(top_k=2), dict(top_p=0.8)]
)
def test_evenly_spread_draws_give_the_probabilities(settings):
    config, n = SamplingConfig(**settings), 1000
    logprobs = sampling_logprobs(jnp.log(PROBS), config)
    uniform = (jnp.arange(n) + 0.5) / n
    tokens = draw(uniform, jnp.tile(logprobs, (n, 1)), config)
    counts = np.bincount(tokens, minlength=4)
    # An interval of length p holds p n of the n points, give or take one.
    np.testing.assert_allclose(counts, n * jnp.exp(logprobs), atol=1.01)
    assert tokens.dtype == jnp.int32
    assert (counts[np.isneginf(logprobs)] == 0).all()


def test_the_ends_of_the_unit_interval_draw_nothing_that_is_left_out():
    config = SamplingConfig(top_k=1000)
    logits = jnp.linspace(2.0, 3.0, 3000).at[1200:2200].add(5.0)
    logprobs = jnp.tile(sampling_logprobs(logits, config), (2, 1))
    ends = jnp.array([0.0, 1 - 2.0**-24], jnp.float32)
    np.testing.assert_array_equal(draw(ends, logprobs, config), [1200, 2199])


def test_temperature_zero_takes_the_likeliest():
    config = SamplingConfig(temperature=0.0)
    logprobs = sampling_logprobs(jnp.log(jnp.array([PROBS, PROBS[::-1]])), config)
    for uniform in (0.0, 0.99):
        tokens = draw(jnp.full(2, uniform), logprobs, config)
        np.testing.assert_array_equal(tokens, [1, 2])


@pytest.mark.parametrize(
    "fields, culprit",
    [
        (dict(temperature=-0.1), "temperature"),
        (dict(top_k=-1), "top_k"),
        (dict(top_p=0.0), "top_p"),
        (dict(top_p=1.1), "top_p"),
    ],
)
def test_an_impossible_setting_is_named(fields, culprit):
    with pytest.raises(ValueError, match=culprit):
        SamplingConfig(**fields)
