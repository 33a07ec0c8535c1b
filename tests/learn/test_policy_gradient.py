"""Policy gradient against the gradient of the enumerated expectation."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from o1jax.learn.advantage import leave_one_out
from o1jax.learn.policy_objective import (
    PolicyGradient,
    build_experience,
    policy_gradient_objective,
)
from o1jax.types import Trajectory

VOCAB, PROMPT, NEW = 4, [1, 2], 2


def every_response():
    """All 16 responses of two tokens to one prompt."""
    ends = list(itertools.product(range(VOCAB), repeat=NEW))
    return jnp.array([[*PROMPT, *end] for end in ends], jnp.int32)


def log_probability(policy, params, tokens):
    logp = jax.nn.log_softmax(policy.forward(params, tokens).logits)
    chosen = jnp.take_along_axis(logp, tokens[..., None], axis=-1)[..., 0]
    return jnp.sum(chosen[:, len(PROMPT) :], axis=1)


def test_its_gradient_is_that_of_the_expected_reward(make):
    _, policy, params = make(vocab=VOCAB)
    tokens = every_response()
    rows, T = tokens.shape
    reward = jax.random.normal(jax.random.key(0), (rows,))
    expected = lambda params: jnp.sum(
        reward * jnp.exp(log_probability(policy, params, tokens))
    )
    exact = jax.jit(jax.grad(expected))(params)
    # A sample of every response, paid at its end by how often it would be drawn.
    logprob = log_probability(policy, params, tokens)
    np.testing.assert_allclose(jnp.exp(logprob).sum(), 1, rtol=1e-5)
    paid = jnp.exp(logprob) * reward * rows
    none = jnp.zeros((rows, T))
    sampled = Trajectory(
        tokens=tokens,
        prompt_length=jnp.full(rows, len(PROMPT)),
        length=jnp.full(rows, T),
        logprob=none,
        value=none,
        finished=jnp.ones(rows, bool),
        prompt_id=jnp.arange(rows),
    )
    config = PolicyGradient("reward", reduction="sum")
    batch = build_experience(
        config, sampled, none.at[:, -1].set(paid), samples=rows, max_tokens=NEW
    )
    objective = policy_gradient_objective(policy, config)
    gradient = jax.jit(jax.grad(lambda p: objective.total(p, batch)[0]))(params)
    gradient = jax.tree.map(lambda g: -g / objective.weight(batch), gradient)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, atol=2e-6), gradient, exact
    )


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
