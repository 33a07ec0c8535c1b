"""Policy gradient against the gradient of the enumerated expectation."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from o1jax.learn.advantage import leave_one_out
from o1jax.learn.objectives import Responses, policy_gradient

VOCAB, PROMPT, NEW = 4, [1, 2], 2


def every_response():
    """All 16 responses of two tokens to one prompt."""
    ends = list(itertools.product(range(VOCAB), repeat=NEW))
    return jnp.array([[*PROMPT, *end] for end in ends], jnp.int32)


def log_probability(policy, params, tokens):
    logp = jax.nn.log_softmax(policy.forward(params, tokens).logits)
    chosen = jnp.take_along_axis(logp, tokens[..., None], axis=-1)[..., 0]
    return jnp.sum(chosen[:, len(PROMPT) :], axis=1)


def batch_of(tokens, advantage):
    rows = len(tokens)
    return Responses(
        tokens=tokens,
        prompt_length=jnp.full(rows, len(PROMPT)),
        length=jnp.full(rows, tokens.shape[1]),
        advantage=advantage,
    )


def close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-6), a, b)


def test_its_gradient_is_that_of_the_expected_reward(make):
    _, policy, params = make(vocab=VOCAB)
    tokens = every_response()
    reward = jax.random.normal(jax.random.key(0), (len(tokens),))
    expected = lambda params: jnp.sum(
        reward * jnp.exp(log_probability(policy, params, tokens))
    )
    exact = jax.jit(jax.grad(expected))(params)
    # A sample of every response, weighted by how often it would be drawn.
    probability = jnp.exp(log_probability(policy, params, tokens))
    np.testing.assert_allclose(probability.sum(), 1, rtol=1e-5)
    batch = batch_of(tokens, probability * reward * len(tokens))
    objective = policy_gradient(policy)
    gradient = jax.jit(jax.grad(lambda p: objective.total(p, batch)[0]))(params)
    gradient = jax.tree.map(lambda g: -g / objective.weight(batch), gradient)
    close(gradient, exact)


def test_what_follows_the_response_and_the_prompt_itself_do_not_count(make):
    _, policy, params = make(vocab=VOCAB)
    tokens = every_response()[:3]
    advantage = jnp.array([1.0, -2.0, 0.5])
    batch = batch_of(tokens, advantage)
    longer = batch.replace(tokens=jnp.pad(tokens, ((0, 0), (0, 2)), constant_values=3))
    objective = policy_gradient(policy)
    gradient = jax.jit(jax.grad(lambda p, b: objective.total(p, b)[0]))
    close(gradient(params, batch), gradient(params, longer))
    own = -advantage * log_probability(policy, params, tokens)
    np.testing.assert_allclose(objective.total(params, batch)[0], own.sum(), rtol=1e-5)


def test_the_leave_one_out_baseline_by_hand():
    # Others of 1 are 0 and 2: 1 - 1. Others of 0: 1.5. Others of 2: 0.5.
    found = leave_one_out(jnp.array([[1.0, 0.0, 2.0], [3.0, 3.0, 3.0]]))
    np.testing.assert_allclose(found, [[0, -1.5, 1.5], [0, 0, 0]])
    with pytest.raises(ValueError, match="needs two responses"):
        leave_one_out(jnp.ones((3, 1)))
    with pytest.raises(AssertionError):  # whole numbers would be cut
        leave_one_out(jnp.array([[1, 0]]))


def test_the_leave_one_out_baseline_is_unbiased():
    """Over all pairs of draws, its gradient is that without a baseline."""
    p, reward = np.array([0.2, 0.5, 0.3]), np.array([1.0, -1.0, 4.0], np.float32)
    score = np.eye(3) - p  # gradient of log p(i) with respect to the logits
    exact = (p * reward) @ score
    mean = 0.0
    for i, j in itertools.product(range(3), repeat=2):
        a = np.asarray(leave_one_out(jnp.array([[reward[i], reward[j]]])))[0]
        mean += p[i] * p[j] * (a[0] * score[i] + a[1] * score[j]) / 2
    np.testing.assert_allclose(mean, exact, atol=1e-6)
