"""Implicit rewards on a tree of nine texts, where the optimal policy is known exactly.

Texts are two of three tokens behind a prompt of one. The reference draws them with
known chances, each has a reward r, and the best policy under a KL penalty is
reference * exp(r / beta) / Z.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from o1jax.policy.policy import Policy
from o1jax.reward.implicit import (
    implicit_reward,
    implicit_reward_model,
    response_logprob,
)
from o1jax.types import PolicyOutput

BETA = 0.3
RNG = np.random.default_rng(0)
REFERENCE = RNG.dirichlet(np.ones(9)).reshape(3, 3)  # of texts [first, second]
REWARD = RNG.normal(0, 1, (3, 3))
TILTED = REFERENCE * np.exp(REWARD / BETA)
Z = TILTED.sum()
OPTIMAL = TILTED / Z
TEXTS = np.array([[0, a, b] for a in range(3) for b in range(3)], np.int32)
ROWS = (TEXTS, np.ones(9, np.int32), np.full(9, 3, np.int32))
ENDS = np.tile([False, True, True], (9, 1))


@pytest.fixture(autouse=True)
def strict():
    """An integer among the rewards raises."""
    with jax.numpy_dtype_promotion("strict"):
        yield


def table(joint: np.ndarray) -> dict[str, jax.Array]:
    """The parameters of `POLICY` that draw texts with these chances."""
    first = joint.sum(1)
    second = np.log(joint / first[:, None])
    return {
        "first": jnp.asarray(np.log(first), jnp.float32),
        "second": jnp.asarray(second, jnp.float32),
    }


def forward(params, tokens) -> PolicyOutput:
    """Logits about token t from a table; what is behind two tokens is uniform."""
    B, T = tokens.shape
    logits = jnp.zeros((B, T, 3)).at[:, 1].set(params["first"][None])
    logits = logits.at[:, 2].set(params["second"][tokens[:, 1]])
    return PolicyOutput(logits=logits, value=None, process=None)


POLICY = Policy(lambda key: table(REFERENCE), None, forward, None, None)


def logprobs(joint: np.ndarray) -> jax.Array:
    read = jax.jit(functools.partial(response_logprob, POLICY))
    return read(table(joint), *ROWS)


def test_log_probabilities_of_responses_only():
    found = np.asarray(logprobs(REFERENCE))
    np.testing.assert_allclose(found.sum(1), np.log(REFERENCE).reshape(9), rtol=1e-5)
    assert not found[:, 0].any()
    short = response_logprob(
        POLICY,
        table(REFERENCE),
        TEXTS,
        np.full(9, 2, np.int32),
        np.full(9, 2, np.int32),
    )
    assert not np.asarray(short).any()  # a prompt of two, and nothing behind it


def test_the_best_policy_gives_the_reward_back():
    # 2305.18290, eq. 5: beta log(pi* / pi_ref) = r - beta log Z, for every text; and
    # before its end what the reference makes of it: 2412.01981, prop. 3.1.
    found = implicit_reward(logprobs(OPTIMAL), logprobs(REFERENCE), ENDS, ROWS[1], BETA)
    first = REFERENCE.sum(1)
    expected = TILTED.sum(1) / first  # E_ref[exp(r / beta) | first]
    np.testing.assert_allclose(
        np.asarray(found)[:, 1].reshape(3, 3),
        np.repeat(BETA * np.log(expected / Z)[:, None], 3, axis=1),
        atol=1e-6,
    )
    np.testing.assert_allclose(
        np.asarray(found)[:, 2].reshape(3, 3), REWARD - BETA * np.log(Z), atol=1e-6
    )


def test_shares_of_steps_add_up_to_the_outcome():
    rng = np.random.default_rng(1)
    one, other = (jnp.asarray(-rng.exponential(1, (4, 12)), jnp.float32) for _ in "ab")
    end = rng.random((4, 12)) < 0.4
    end[0] = False
    prompt_length = np.array([1, 3, 12, 5], np.int32)
    end &= np.arange(12) >= prompt_length[:, None]
    given = (one, other, end, prompt_length, 0.5)
    whole = np.asarray(implicit_reward(*given))
    share = np.asarray(implicit_reward(*given, per_step=True))
    assert not whole[~end].any() and not share[~end].any()
    for b in range(4):  # by hand: a sum over the tokens of each step
        start, total = prompt_length[b], 0.0
        for t in np.flatnonzero(end[b]):
            step = 0.5 * np.sum(one[b, start : t + 1] - other[b, start : t + 1])
            total += step
            np.testing.assert_allclose(share[b, t], step, atol=1e-5)
            np.testing.assert_allclose(whole[b, t], total, atol=1e-5)
            start = t + 1
    np.testing.assert_allclose(share[3].sum(), whole[3][end[3]][-1], atol=1e-5)


def test_only_the_response_is_read():
    rng = np.random.default_rng(2)
    one, other = rng.normal(0, 1, (2, 1, 6)).astype(np.float32)
    end = np.array([[False, False, True, False, True, False]])
    at = lambda x: np.asarray(implicit_reward(x, other, end, np.array([2]), 1.0))
    spoiled = one.copy()
    spoiled[0, [0, 1, 5]] = np.nan
    np.testing.assert_array_equal(at(spoiled), at(one))
    assert np.isfinite(at(spoiled)).all() and at(one)[0, 4] != 0


def test_integer_log_probabilities_are_refused():
    zeros = np.zeros((1, 3), np.float32)
    for pair in ((zeros.astype(int), zeros), (zeros, zeros.astype(int))):
        with pytest.raises(AssertionError, match="int"):
            implicit_reward(*pair, zeros > 0, np.array([1]), 1.0)
    with pytest.raises(ValueError, match="beta must be above 0, not 0"):
        implicit_reward_model(POLICY, 0)


def test_the_model_learns_the_policy_and_keeps_the_reference(make, any_rank):
    tokens = np.array([[1, 5, 6, 4, 7, 4], [1, 8, 4, 9, 4, 0]], np.int32)
    prompt_length, length = np.array([2, 1], np.int32), np.array([6, 5], np.int32)
    row = (tokens, prompt_length, length, tokens == 4)
    with jax.numpy_dtype_promotion("standard"):  # the policy's own business
        _, policy, policy_params = make()
        model = implicit_reward_model(policy, BETA)
        params = model.init(jax.random.key(0), policy_params)
        rng = np.random.default_rng(3)
        add = lambda x: x + rng.normal(0, 0.1, x.shape).astype(np.float32)
        moved = params | {"net": jax.tree.map(add, params["net"])}

        def look(params):
            """Scores, log-probs, the gradient, and all log-probs of both networks."""
            total = lambda params: jnp.sum(model.score(params, *row))
            whole = [
                jax.nn.log_softmax(policy.forward(params[name], tokens).logits)
                for name in ("net", "reference")
            ]
            return *model.read(params, *row), jax.grad(total)(params), whole

        look = jax.jit(look)
        at_first = look(params)[0]
        found, logprob, slope, whole = look(moved)
    assert not np.asarray(at_first).any()  # they begin as equals
    of_tokens = (np.arange(2)[:, None], np.arange(6)[None], tokens)
    by_token = [np.asarray(x)[of_tokens] for x in whole]
    expected = np.zeros((2, 6))
    for b, t in ((0, 3), (0, 5), (1, 2), (1, 4)):
        inside = slice(prompt_length[b], t + 1)
        expected[b, t] = BETA * np.sum(by_token[0][b, inside] - by_token[1][b, inside])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(logprob[0, 2:], by_token[0][0, 2:], atol=1e-5)
    assert not any(np.any(x) for x in jax.tree.leaves(slope["reference"]))
    assert np.any(slope["net"]["embed"]["embedding"])
    trainable = model.trainable(params)
    assert all(jax.tree.leaves(trainable["net"]))
    assert not any(jax.tree.leaves(trainable["reference"]))
