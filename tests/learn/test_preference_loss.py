"""DPO and step-DPO: the published equation, its gradient, and where it rests."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tabular
from tabular import LENGTH, MASK, POLICY, RESPONSES, STATE, TOKENS

from o1jax.data.pairs import PairBatch
from o1jax.learn.preference import (
    PreferenceBatch,
    PreferenceConfig,
    pair_logprobs,
    preference_objective,
)

NOW, REFERENCE = tabular.table(0), tabular.table(1)
now, reference = map(tabular.Theory, (NOW, REFERENCE))
CHOSEN, REJECTED = np.array([13, 4, 0, 9]), np.array([2, 14, 7, 12])


def pairs_of(chosen, rejected, weight, margin=0.0):
    at = np.stack([chosen, rejected], 1)
    return PairBatch(
        tokens=TOKENS[at],
        prompt_length=np.ones(len(at), np.int32),
        length=(1 + LENGTH[at]).astype(np.int32),
        step_end=np.zeros((*at.shape, TOKENS.shape[1]), bool),
        weight=np.asarray(weight, np.float32),
        margin=np.full(len(at), margin, np.float32),
    )


@functools.cache
def programs(config):
    """pairs -> (loss, gradient, metrics), with the reference's log-probs read anew."""
    objective = preference_objective(POLICY, config)

    def of(params, pairs):
        ref = pair_logprobs(POLICY, REFERENCE, pairs)
        batch = PreferenceBatch(pairs=pairs, ref_logprob=ref)
        loss, metrics = objective.total(params, batch)
        return loss / objective.weight(batch), metrics

    return jax.jit(jax.value_and_grad(of, has_aux=True))


def loss_of(config, pairs, params=NOW):
    (loss, metrics), gradient = programs(config)(params, pairs)
    return loss, gradient["logits"], metrics


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def behind_shared(logprob):
    """f[4]: sums over the chosen side's tokens from the first that differs."""
    parted = np.cumsum(TOKENS[CHOSEN] != TOKENS[REJECTED], axis=1) > 0
    return (logprob[CHOSEN] * parted).sum(1), (parted & MASK[CHOSEN]).sum(1)


def gaps():
    gain = (now.logprob - reference.logprob).sum(1)
    return gain[CHOSEN] - gain[REJECTED]


def test_dpo_by_its_equation_and_its_gradient():
    """The gradient is -beta sigmoid(-x) (score of the chosen - of the rejected)."""
    weight = np.array([1.0, 2.0, 0.5, 0.5])
    loss, gradient, metrics = loss_of(
        PreferenceConfig(0.3), pairs_of(CHOSEN, REJECTED, weight, margin=0.2)
    )
    x = 0.3 * gaps() - 0.2
    np.testing.assert_allclose(loss, weight @ -np.log(sigmoid(x)) / 4, rtol=1e-5)
    score = now.score.sum(1)
    slope = np.einsum(
        "r,rsa->sa", -0.3 * weight * sigmoid(-x), score[CHOSEN] - score[REJECTED]
    )
    np.testing.assert_allclose(gradient, slope / 4, atol=2e-6)
    share = weight @ (gaps() > 0) / 4
    assert 0 < share < 1
    told = {name: m.total / m.count for name, m in metrics.items() if name != "loss"}
    np.testing.assert_allclose(told["pair_accuracy"], share, rtol=1e-6)
    np.testing.assert_allclose(told["reward_gap"], weight @ gaps() * 0.3 / 4, rtol=1e-4)
    gain, _ = behind_shared(now.logprob - reference.logprob)
    np.testing.assert_allclose(told["chosen_gain"], weight @ gain / 4, rtol=1e-4)


def test_smoothing_ipo_and_imitation_by_their_equations():
    pairs = pairs_of(CHOSEN, REJECTED, np.ones(4))
    total, tokens = behind_shared(now.logprob)
    assert (tokens < LENGTH[CHOSEN]).any()
    x, nats = 0.3 * gaps(), -total / tokens
    right, wrong = -np.log(sigmoid(x)), -np.log(sigmoid(-x))
    loss, *_ = loss_of(PreferenceConfig(0.3, smoothing=0.1, imitate=0.5), pairs)
    wanted = (0.9 * right + 0.1 * wrong + 0.5 * nats).mean()
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)
    loss, *_ = loss_of(PreferenceConfig(0.3, "ipo"), pairs)
    np.testing.assert_allclose(loss, ((gaps() - 1 / 0.6) ** 2).mean(), rtol=1e-5)


def test_it_rests_where_the_rewarded_policy_is():
    """Labels of a Bradley-Terry model of R: at p = r exp(R / beta) / Z, the best policy
    under a divergence of weight beta, the expected gradient is 0. (Rafailov et al.)
    """
    R = np.random.default_rng(2).normal(0, 0.5, len(RESPONSES))
    best = reference.P * np.exp(R / 0.5)
    best /= best.sum()
    mass = np.zeros((8, 3))  # of all responses that choose the token in the state
    for y, of in enumerate(best):
        mass[STATE[y, 1 : 1 + LENGTH[y]], TOKENS[y, 1 : 1 + LENGTH[y]]] += of
    logits = np.log(np.maximum(mass, 1e-9))
    params = NOW | {"logits": jnp.asarray(logits, jnp.float32)}
    np.testing.assert_allclose(tabular.Theory(params).P, best, rtol=1e-5)
    one, other = np.nonzero(~np.eye(len(RESPONSES), dtype=bool))
    likely = sigmoid(R[one] - R[other])
    pairs = pairs_of(one, other, likely)
    _, gradient, _ = loss_of(PreferenceConfig(0.5), pairs, params)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)
    _, gradient, _ = loss_of(PreferenceConfig(0.5), pairs)
    assert np.abs(gradient).max() > 0.01


def test_what_both_sides_begin_with_cancels():
    """Siblings of a tree share a text: only their steps are read."""
    one, other = RESPONSES.index((0, 1, 0)), RESPONSES.index((0, 1, 2))
    pairs = pairs_of([one], [other], [1.0])
    of = jax.jit(lambda p: pair_logprobs(POLICY, p, pairs))(NOW)[0]
    np.testing.assert_allclose(of[0], [0, 0, 0, now.logprob[one, 3]], rtol=1e-6)
    np.testing.assert_allclose(of[1], [0, 0, 0, now.logprob[other, 3]], rtol=1e-6)
    assert now.logprob[one, 1] == now.logprob[other, 1] != 0
    # One that goes on where the other ends differs from there.
    of = jax.jit(lambda p: pair_logprobs(POLICY, p, pairs_of([5], [1], [1.0])))(NOW)[0]
    assert RESPONSES[5][0] == RESPONSES[1][0] and not of[:, 1].any()
    assert (of[:, 2] < 0).all()


@pytest.mark.parametrize(
    "fields, culprit",
    [
        (dict(beta=0.0), "beta"),
        (dict(loss="slic"), "loss"),
        (dict(smoothing=0.5), "smoothing"),
        (dict(imitate=-1.0), "imitate"),
    ],
)
def test_an_impossible_field_is_named(fields, culprit):
    with pytest.raises(ValueError, match=culprit):
        PreferenceConfig(**fields)
