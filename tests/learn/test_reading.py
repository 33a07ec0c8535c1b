"""How far one policy is from another, against all sequences listed."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from o1jax.learn.reading import read_divergence, read_responses

VOCAB, PROMPT, NEW = 4, [1, 2], 2


def test_its_mean_over_the_policy_s_own_responses_is_their_divergence(make):
    """KL of sequences = E[sum_t KL of tokens]: the chain rule, by enumeration."""
    _, policy, params = make(vocab=VOCAB)
    rng = np.random.default_rng(0)
    other = jax.tree.map(lambda x: x + 0.1 * rng.standard_normal(x.shape), params)
    other = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), other)
    ends = list(itertools.product(range(VOCAB), repeat=NEW))
    # A token behind the response, which must not count.
    tokens = jnp.array([[*PROMPT, *end, 3] for end in ends], jnp.int32)
    size = jnp.full(len(ends), len(PROMPT)), jnp.full(len(ends), len(PROMPT) + NEW)

    @jax.jit
    def read(params, other):
        own, theirs = (
            read_responses(policy, p, tokens, *size).logprob.sum(axis=1)
            for p in (params, other)
        )
        return own, theirs, read_divergence(policy, params, other, tokens, *size)

    logp, logq, found = map(np.asarray, read(params, other))
    p = np.exp(logp)
    np.testing.assert_allclose(p.sum(), 1, rtol=1e-5)
    exact = (p * (logp - logq)).sum()
    assert exact > 0.01 and found.std() > 1e-4  # it differs from text to text
    np.testing.assert_allclose((p * found).sum(), exact, rtol=1e-4)
    assert (found >= 0).all()
    np.testing.assert_array_equal(read(params, params)[2], 0)
