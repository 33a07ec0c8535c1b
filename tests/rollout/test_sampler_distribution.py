"""Tokens and pairs of tokens come as often as the policy's probabilities say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from o1jax.rollout.decode import SamplerConfig, build_sampler
from o1jax.rollout.sampling import SamplingConfig, sampling_logprobs
from o1jax.types import Prompts

V, N = 12, 4000
PROMPT = [3, 8, 5]


def pair_probabilities(policy, params, sampling):
    """f64[V, V] of every continuation by two tokens, enumerated."""
    first, second = np.divmod(np.arange(V * V), V)
    rows = np.stack([np.full(V * V, token) for token in PROMPT] + [first, second], 1)
    logits = jax.jit(policy.forward)(params, jnp.asarray(rows, jnp.int32)).logits
    logprobs = np.asarray(sampling_logprobs(logits, sampling), np.float64)
    at = np.arange(V * V)
    return np.exp(logprobs[at, 3, first] + logprobs[at, 4, second]).reshape(V, V)


def draw_pairs(policy, params, sampling):
    """Counts [V, V] of the first two tokens in N samples."""
    sampler = jax.jit(
        build_sampler(policy, SamplerConfig(N, max_new_tokens=2, sampling=sampling))
    )
    prompts = Prompts(
        tokens=jnp.tile(jnp.array([PROMPT]), (N, 1)),
        length=jnp.full(N, 3),
        prompt_id=jnp.zeros(N, jnp.int32),
    )
    trajectory, _ = sampler(params, jax.random.key(5), prompts)
    np.testing.assert_array_equal(trajectory.length, 5)
    first, second = np.asarray(trajectory.tokens[:, 3:]).T
    return np.bincount(first * V + second, minlength=V * V).reshape(V, V)


def p_value(counts, probabilities):
    """Chi-square, with the cells that expect fewer than 5 thrown together."""
    expected = probabilities.ravel() / probabilities.sum() * counts.sum()
    rare = expected < 5
    together = lambda x: np.append(x[~rare], x[rare].sum())
    observed, expected = together(counts.ravel()), together(expected)
    return stats.chisquare(observed[expected > 0], expected[expected > 0]).pvalue


@pytest.mark.parametrize(
    "sampling, tokens",
    [
        (SamplingConfig(), 12),
        (SamplingConfig(top_k=3), 3),
        (SamplingConfig(temperature=0.7, top_p=0.8), None),
    ],
    ids=str,
)
def test_frequencies_are_the_enumerated_probabilities(make, sampling, tokens):
    _, policy, params = make()
    probabilities = pair_probabilities(policy, params, sampling)
    np.testing.assert_allclose(probabilities.sum(), 1, rtol=1e-5)
    counts = draw_pairs(policy, params, sampling)
    # A true sampler fails one in a thousand of seeds; this seed is fixed.
    assert p_value(counts.sum(1), probabilities.sum(1)) > 1e-3
    assert p_value(counts, probabilities) > 1e-3
    assert (counts[probabilities == 0] == 0).all()  # what is left out never comes
    possible = np.count_nonzero(probabilities.sum(1))
    assert possible == tokens if tokens else possible < 12
    # The test sees a small change of the distribution.
    other = SamplingConfig(sampling.temperature * 1.2, sampling.top_k, sampling.top_p)
    wrong = pair_probabilities(policy, params, other)
    assert p_value(counts, np.where(probabilities > 0, wrong, 0)) < 1e-3


def test_temperature_zero_is_the_likeliest_path(make):
    _, policy, params = make()
    counts = draw_pairs(policy, params, SamplingConfig(temperature=0.0))
    probabilities = pair_probabilities(policy, params, SamplingConfig())
    first = probabilities.sum(1).argmax()
    second = probabilities[first].argmax()
    assert counts[first, second] == N
