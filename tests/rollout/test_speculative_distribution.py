"""Speculative sampling: paths come as often as the policy's probabilities say."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from wrong_verdict import without_residual

from o1jax.rollout import speculative
from o1jax.rollout.decode import SamplerConfig
from o1jax.rollout.sampling import (
    SamplingConfig,
    sampling_logprobs,
    token_logprob,
)
from o1jax.rollout.speculative import build_speculative_sampler
from o1jax.types import Prompts

SMALL = dict(layers=1, cache_chunk=64)  # fewer branches to compile
PLAIN = SamplingConfig()


def two(make, **overrides):
    """A policy and another one that proposes, with what they need."""
    _, policy, params = make(**overrides)
    _, draft, other = make(**overrides | SMALL, width=24)
    return policy, draft, (params, other)


# All paths of 4 tokens over 4: the first is drawn behind the prompt, then two proposed
# ones and one more in a round, or what is left of them in the next.
V, STEPS, N = 4, 4, 6000


def path_probabilities(policy, params, sampling):
    """f64[V ** STEPS], enumerated."""
    paths = np.array(list(itertools.product(range(V), repeat=STEPS)))
    rows = np.concatenate([np.full((len(paths), 1), 2), paths], axis=1)
    logits = jax.jit(policy.forward)(params, jnp.asarray(rows, jnp.int32)).logits
    logprobs = sampling_logprobs(logits, sampling)[:, 1:]
    at = jnp.asarray(paths)
    return np.exp(np.asarray(token_logprob(logprobs, at), np.float64).sum(1))


def p_value(found, probabilities):
    """Chi-square of counted paths; cells that expect fewer than 5 thrown together."""
    number = np.asarray(found.tokens[:, 1:]) @ (V ** np.arange(STEPS)[::-1])
    counts = np.bincount(number, minlength=V**STEPS)
    expected = probabilities / probabilities.sum() * N
    rare = expected < 5
    together = lambda x: np.append(x[~rare], x[rare].sum())
    assert (counts[probabilities == 0] == 0).all()  # what is left out never comes
    counts, expected = together(counts), together(expected)
    return stats.chisquare(counts[expected > 0], expected[expected > 0]).pvalue


def many(sampling, rows):
    """A sampler's config, and as many prompts as there are to be paths."""
    prompts = Prompts(
        tokens=jnp.full((N, 1), 2),
        length=jnp.ones(N, jnp.int32),
        prompt_id=jnp.zeros(N, jnp.int32),
    )
    shape = dict(rows=rows, refill_rows=rows // 2, max_new_tokens=STEPS)
    return SamplerConfig(**shape, sampling=sampling), prompts


def spoken(pair, config, prompts):
    policy, draft, params = pair
    sampler = build_speculative_sampler(policy, draft, config, tokens=2)
    return jax.jit(sampler)(params, jax.random.key(0), prompts)


@pytest.mark.parametrize(
    "sampling, rows",
    [
        (SamplingConfig(), N // 4),  # refill
        (SamplingConfig(0.7, top_p=0.9), N),
        (SamplingConfig(1.3, top_k=3), N),
    ],
    ids=str,
)
def test_paths_come_as_often_as_the_policy_says(make, sampling, rows):
    pair = two(make, vocab=V, **SMALL)
    config, prompts = many(sampling, rows)
    found, said = spoken(pair, config, prompts)
    probabilities = path_probabilities(pair[0], pair[2][0], sampling)
    # A true sampler fails one in a thousand of seeds; this seed is fixed.
    assert p_value(found, probabilities) > 1e-3
    assert 0.2 < said.draft.acceptance < 0.95  # both branches were taken many times
    drafts = path_probabilities(pair[1], pair[2][1], sampling)
    assert p_value(found, drafts + 1e-9) < 1e-9


def test_drawing_from_the_policy_where_a_token_failed_would_be_seen(make, monkeypatch):
    """The residual is what makes it exact."""

    monkeypatch.setattr(speculative, "verify", without_residual)
    pair = two(make, vocab=V, **SMALL)
    config, prompts = many(PLAIN, N)
    found, _ = spoken(pair, config, prompts)
    probabilities = path_probabilities(pair[0], pair[2][0], SamplingConfig())
    assert p_value(found, probabilities) < 1e-9
