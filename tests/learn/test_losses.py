"""The loss of a token, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from o1jax.learn.losses import is_likeliest, next_token_loss


def test_next_token_loss_by_hand():
    probs = np.array([[0.7, 0.2, 0.1], [0.25, 0.25, 0.5]])
    logits = jnp.log(probs) + jnp.array([[2.0], [-1.0]])  # known up to a constant
    loss = next_token_loss(logits, jnp.array([1, 2]))
    np.testing.assert_allclose(loss, [np.log(5), np.log(2)], rtol=1e-5)
    # A uniform guess among 3 costs log 3, one that is sure and right nothing.
    logits = jnp.array([[[0.0, 0.0, 0.0], [90.0, 0.0, 0.0]]])
    loss = next_token_loss(logits, jnp.array([[2, 0]]))
    np.testing.assert_allclose(loss, [[np.log(3), 0]], atol=1e-6)


def test_its_gradient_is_the_surplus_of_probability():
    probs = np.array([[0.7, 0.2, 0.1]])
    total = lambda logits: jnp.sum(next_token_loss(logits, jnp.array([1])))
    gradient = jax.grad(total)(jnp.log(probs))
    np.testing.assert_allclose(gradient, [[0.7, 0.2 - 1, 0.1]], rtol=1e-5)


def test_logits_and_tokens_must_belong_together():
    with pytest.raises(AssertionError):
        next_token_loss(jnp.zeros((2, 4, 3)), jnp.zeros((2, 5), jnp.int32))


def test_is_likeliest_is_argmax_also_among_equals():
    logits = jnp.round(jax.random.normal(jax.random.key(0), (40, 7, 5)))  # many ties
    tokens = jax.random.randint(jax.random.key(1), (40, 7), 0, 5)
    expected = jnp.argmax(logits, axis=-1) == tokens
    assert 0.1 < jnp.mean(expected) < 0.5
    assert (is_likeliest(logits, tokens) == expected).all()
    uniform = jnp.zeros((1, 3, 4))
    assert is_likeliest(uniform, jnp.array([[0, 1, 3]])).tolist() == [
        [True, False, False]
    ]
