"""Speculative sampling: the policy's own samples, whoever proposes them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from o1jax.rollout.decode import Draft, SamplerConfig, build_sampler
from o1jax.rollout.sampling import (
    SamplingConfig,
    sampling_logprobs,
    token_logprob,
)
from o1jax.rollout.speculative import build_speculative_sampler
from o1jax.rollout.verdict import verify
from o1jax.types import Prompts

STOP = 1
LENGTH = jnp.array([4, 1, 5, 2, 2, 3, 5, 1, 3])
PROMPTS = Prompts(
    tokens=jnp.where(
        jnp.arange(5)[None] < LENGTH[:, None],
        jnp.asarray(np.random.default_rng(2).integers(3, 12, (9, 5)), jnp.int32),
        0,
    ),
    length=LENGTH,
    prompt_id=jnp.array([0, 1, -1, 2, 3, 4, 5, 6, -1]),  # two rows of padding
)
REFILL = dict(rows=3, refill_rows=2)
SMALL = dict(layers=1, cache_chunk=64)  # fewer branches to compile
PLAIN = SamplingConfig()
GREEDY = SamplingConfig(temperature=0.0)


def two(make, **overrides):
    """A policy and another one that proposes, with what they need."""
    _, policy, params = make(**overrides)
    _, draft, other = make(**overrides | SMALL, width=24)
    return policy, draft, (params, other)


def spoken(pair, config, prompts=PROMPTS, *, tokens=3, **more):
    policy, draft, params = pair
    sampler = build_speculative_sampler(policy, draft, config, tokens=tokens, **more)
    return jax.jit(sampler)(params, jax.random.key(0), prompts)


def config(sampling=PLAIN, **shape):
    return SamplerConfig(
        **{"max_new_tokens": 8, "stop_ids": (STOP,)} | shape, sampling=sampling
    )


def test_greedy_it_writes_what_the_policy_writes_alone(make):
    pair = two(make, layers=1, cache_chunk=8)  # which responses cross
    plain = jax.jit(build_sampler(pair[0], config(GREEDY)))
    expected, alone = plain(pair[2][0], jax.random.key(0), PROMPTS)
    found, said = spoken(pair, config(GREEDY, **REFILL))
    np.testing.assert_array_equal(found.tokens, expected.tokens)
    np.testing.assert_array_equal(found.length, expected.length)
    np.testing.assert_array_equal(found.finished, expected.finished)
    np.testing.assert_allclose(found.logprob, expected.logprob, atol=2e-5)
    np.testing.assert_allclose(found.value, expected.value, atol=2e-5)
    assert found.finished.any() and not found.finished.all()
    assert said.useful == alone.useful
    # A prefill gives 7 tokens; each call the accepted ones and one more, up to an end.
    assert said.draft.calls < alone.useful - 7
    assert 0 < said.draft.acceptance < 1


NUCLEUS = SamplingConfig(0.7, top_p=0.8)


@pytest.fixture(scope="module")
def refilled(make):
    """(what was sampled, and its stats) through few rows."""
    pair = two(make, qk_norm=True, **SMALL)
    return pair, *spoken(pair, config(NUCLEUS, **REFILL))


def test_what_it_records_is_the_policys_not_the_drafts(refilled):
    sampling = NUCLEUS
    pair, found, _ = refilled
    output = jax.jit(pair[0].forward)(pair[2][0], found.tokens)
    logprob = token_logprob(sampling_logprobs(output.logits, sampling), found.tokens)
    mask = found.response_mask
    zeroed = lambda x: jnp.where(mask, x, 0)
    np.testing.assert_allclose(found.logprob, zeroed(logprob), rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(found.value, zeroed(output.value), rtol=2e-5, atol=2e-5)
    found, mask = jax.device_get((found, mask))
    for row, asked in enumerate(np.asarray(PROMPTS.prompt_id) >= 0):
        response = found.tokens[row][mask[row]]
        assert (len(response) > 0) == asked
        assert STOP not in response[:-1]
        if asked:
            assert found.finished[row] == (response[-1] == STOP)
            assert found.finished[row] or len(response) == 8
        assert (found.tokens[row, found.length[row] :] == 0).all()


def test_a_verdict_by_hand():
    p = jnp.log(jnp.array([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3], [0.2, 0.2, 0.6]]))
    q = jnp.log(jnp.array([[0.25, 0.5, 0.25], [0.5, 0.4, 0.1]]))

    def said(proposed, accept, last):
        found = verify(
            jnp.array([proposed]),
            q[None],
            p[None],
            accept=jnp.array([accept]),
            last=jnp.array([last]),
            sampling=SamplingConfig(),
        )
        return int(found.accepted[0]), int(found.last[0])

    # Token 0 has p > q; token 0 behind it passes with 0.1 / 0.5.
    assert said([0, 0], [0.99, 0.19], [0.0, 0.0, 0.19]) == (2, 0)
    assert said([0, 0], [0.99, 0.19], [0.0, 0.0, 0.21]) == (2, 1)
    # max(p - q, 0) of the second place is (0, 0.2, 0.2): halves.
    assert said([0, 0], [0.99, 0.21], [0.0, 0.49, 0.0]) == (1, 1)
    assert said([0, 0], [0.99, 0.21], [0.0, 0.51, 0.0]) == (1, 2)
    # Of the first place it is (0.25, 0, 0): token 0 for certain. What follows a token
    # that failed is not asked.
    assert said([1, 1], [0.61, 0.0], [0.99, 0.0, 0.0]) == (0, 0)


def test_a_draft_that_is_the_policy_is_always_right(make):
    _, policy, params = make(**SMALL)
    pair = policy, policy, (params, params)
    shape = dict(max_new_tokens=9, stop_ids=())
    _, said = spoken(pair, config(**shape), tokens=3)
    assert said.draft.acceptance == 1
    # Each of 7 answers: one token with the prompt, then 2 calls of 3 + 1.
    assert (said.steps, said.draft.calls, said.useful) == (2, 14, 63)
    # The second round's draft has not read the last token of the first yet.
    assert said.draft.steps == 3 + 1 + 3


def test_neighbours_change_no_sample_and_samples_share_their_prompt(refilled):
    (policy, draft, params), alone, said = refilled
    assert said.prefill == 5 * (3 + 2 * 3)  # 3 requests, then 2 and 2 and 2
    triple = jax.tree.map(lambda x: jnp.repeat(x, 3, axis=0), PROMPTS)
    keys = jax.vmap(lambda q: jax.random.fold_in(jax.random.key(0), q))(jnp.arange(9))
    keys = jnp.repeat(keys, 3)
    shape = dict(tokens=3, samples=3)
    sampler = build_speculative_sampler(policy, draft, config(NUCLEUS), **shape)
    shared, said = jax.jit(sampler)(params, keys, triple)
    for name in ("tokens", "length", "finished"):
        again = jnp.repeat(getattr(alone, name), 3, axis=0)
        np.testing.assert_array_equal(getattr(shared, name), again)
    assert said.prefill == 9 * 5


@pytest.mark.parametrize(
    "fields, culprit",
    [
        (dict(tokens=0, layers=1), "tokens"),
        (dict(layers=-1), "layers"),
        (dict(), "layers or workdir"),
        (dict(layers=1, workdir="runs/small"), "layers or workdir"),
    ],
)
def test_a_draft_says_who_it_is(fields, culprit):
    with pytest.raises(ValueError, match=culprit):
        Draft(**fields)
