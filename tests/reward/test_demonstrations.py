"""The discriminator on five texts whose probabilities are known: its best score is the
expert's log-probability, and its gradient the enumerated expectation.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from o1jax.learn.objectives import Objective
from o1jax.learn.update import build_update
from o1jax.reward.demonstrations import (
    Demonstrations,
    demonstration_objective,
    demonstrations,
    discriminator_loss,
    reward,
)
from o1jax.reward.losses import bootstrap
from o1jax.reward.model import RewardModel, RewardModelConfig, build_reward_model
from o1jax.types import StepLabels, TrainState

EXPERT = np.array([0.5, 0.25, 0.15, 0.09, 0.01], np.float32)
POLICY = np.array([0.1, 0.1, 0.2, 0.2, 0.4], np.float32)


@pytest.fixture(autouse=True)
def strict():
    """An integer among the rewards raises."""
    with jax.numpy_dtype_promotion("strict"):
        yield


def table_model() -> RewardModel:
    """params[i] is the score of every step that token i closes."""

    def score(params, tokens, prompt_length, length, step_end):
        return jnp.where(step_end, params[tokens], 0.0)

    return RewardModel(lambda key, policy_params=None: jnp.zeros(5), score)


def rows(last: np.ndarray, width: int = 4, **fields) -> StepLabels:
    """Text i is: a prompt of 1, a step closed by token 0, a step closed by token i."""
    B = len(last)
    tokens = np.zeros((B, width), np.int32)
    tokens[:, 2] = last
    t = np.arange(width)[None]
    given = dict(
        tokens=tokens,
        prompt_length=np.ones(B, np.int32),
        length=np.full(B, 3, np.int32),
        step_end=np.repeat((t == 1) | (t == 2), B, axis=0),
        label=np.zeros((B, width), np.float32),
        weight=np.zeros((B, width), np.float32),
    )
    return StepLabels(**given | fields)


def enumerated() -> Demonstrations:
    """Each text twice, once the expert's and once the policy's, weighing its chance."""
    text = np.tile(np.arange(5), 2)
    batch = rows(text)
    batch.label[:5, 2] = 1
    batch.weight[:, 2] = np.concatenate([EXPERT, POLICY])
    return Demonstrations(labels=batch, logprob=np.log(POLICY)[text])


def test_the_gradient_is_the_enumerated_expectation():
    # dL/df = pi D - p_expert (1 - D), text by text
    objective = demonstration_objective(table_model())
    gradient = jax.jit(jax.grad(objective.total, has_aux=True))
    f = np.random.default_rng(0).normal(0, 2, 5).astype(np.float32)
    found, sums = gradient(jnp.asarray(f), enumerated())
    D = 1 / (1 + POLICY * np.exp(-f))
    np.testing.assert_allclose(found, POLICY * D - EXPERT * (1 - D), rtol=1e-5)
    loss = -np.sum(EXPERT * np.log(D)) - np.sum(POLICY * np.log(1 - D))
    np.testing.assert_allclose(sums["loss"], loss, rtol=1e-6)
    right = EXPERT * (D > 0.5) + POLICY * (D <= 0.5)
    np.testing.assert_allclose(sums["accuracy"], right.sum(), rtol=1e-6)
    np.testing.assert_allclose(objective.weight(enumerated()), 2, rtol=1e-6)


def test_the_best_score_is_the_experts_log_probability():
    objective = demonstration_objective(table_model())
    batch = enumerated()
    gradient = jax.grad(objective.total, has_aux=True)
    # By hand: D* = p_expert / (p_expert + pi), where the gradient vanishes.
    np.testing.assert_allclose(
        jax.jit(gradient)(jnp.log(EXPERT), batch)[0], np.zeros(5), atol=1e-7
    )

    # Found from anywhere: Newton's curvature D (1 - D) (p_expert + pi) is at most 1/4.
    def descend(_, f):
        return f - 4 * gradient(f, batch)[0]

    start = jnp.array([3.0, -2.0, 0.0, 1.0, -4.0])
    best = jax.jit(lambda f: jax.lax.fori_loop(0, 3000, descend, f))(start)
    np.testing.assert_allclose(best, np.log(EXPERT), atol=1e-3)


def test_the_reward_is_the_log_odds_of_the_discriminator():
    f = np.random.default_rng(1).normal(0, 2, 5).astype(np.float32)
    D = np.exp(f) / (np.exp(f) + POLICY)
    paid = reward(jnp.asarray(f), jnp.log(POLICY))
    np.testing.assert_allclose(paid, np.log(D) - np.log(1 - D), atol=1e-5)
    entropy = -np.sum(POLICY * np.log(POLICY))
    np.testing.assert_allclose(
        np.sum(POLICY * np.asarray(paid)), np.sum(POLICY * f) + entropy, rtol=1e-5
    )
    # At the best f the policy that imitates exactly is paid nothing anywhere.
    np.testing.assert_allclose(reward(jnp.log(EXPERT), jnp.log(EXPERT)), np.zeros(5))


def test_the_loss_against_finite_differences():
    rng = np.random.default_rng(2)
    f, logprob = rng.normal(0, 3, (2, 4, 3))
    y, weight = rng.integers(0, 2, (4, 3)).astype(float), rng.uniform(0, 2, (4, 3))

    def loss(f):  # in float64
        D = np.exp(f) / (np.exp(f) + np.exp(logprob))
        return -np.sum(weight * (y * np.log(D) + (1 - y) * np.log(1 - D)))

    single = [jnp.asarray(x, jnp.float32) for x in (f, logprob, y, weight)]
    value, sums = discriminator_loss(*single)
    np.testing.assert_allclose(value, loss(f), rtol=1e-5)
    np.testing.assert_allclose(sums["loss"], value)
    found = jax.grad(lambda *x: discriminator_loss(*x)[0], argnums=(0, 1))(*single)
    for i in np.ndindex(4, 3):
        step = np.zeros((4, 3))
        step[i] = 1e-5
        slope = (loss(f + step) - loss(f - step)) / 2e-5
        np.testing.assert_allclose(found[0][i], slope, rtol=1e-4, atol=1e-6)
    assert not np.any(found[1])  # the policy's log-prob is data


def test_certain_discriminators_have_finite_losses():
    far = jnp.array([200.0, -200.0])

    def total(f: jax.Array, y: jax.Array) -> jax.Array:
        return discriminator_loss(f, jnp.zeros(2), y, jnp.ones(2))[0]

    for y in (0.0, 1.0):
        loss, slope = jax.value_and_grad(total)(far, jnp.full(2, y))
        np.testing.assert_allclose(loss, 200)  # of the one that is wrong
        np.testing.assert_allclose(slope, [1 - y, -y], atol=1e-6)


def test_integers_are_refused():
    ones = jnp.ones(2)
    for i in range(4):
        row = [ones] * 4
        row[i] = jnp.ones(2, jnp.int32)
        with pytest.raises(AssertionError, match="int32"):
            discriminator_loss(*row)


def test_each_side_weighs_half():
    # One row of the expert against three: without the balance f would be off by log 3.
    expert, sampled = rows(np.array([1])), rows(np.array([2, 3, 4]))
    expert.step_end[0, 2] = False  # it ends early
    logprob = np.log(np.array([0.1, 0.2, 0.2, 0.4]))
    batch = demonstrations(expert, logprob[:1], sampled, logprob[1:])
    np.testing.assert_array_equal(batch.tokens[:, 2], [1, 2, 3, 4])
    share = 4 / 6
    np.testing.assert_allclose(
        batch.labels.weight,
        [[0, 2, 0, 0], [0, 0, share, 0], [0, 0, share, 0], [0, 0, share, 0]],
        rtol=1e-6,
    )
    np.testing.assert_array_equal(batch.labels.label[:, 1:3], [[1, 0]] + [[0, 0]] * 3)
    np.testing.assert_allclose(batch.logprob, logprob, rtol=1e-6)
    assert batch.logprob.dtype == batch.labels.weight.dtype == np.float32
    assert expert.weight.sum() == 0  # what came in is left as it was


def test_balanced_rows_find_the_experts_distribution():
    # 20 expert texts in proportion to p, 100 of the policy's in proportion to pi.
    p, pi = np.array([10, 5, 3, 1, 1]) / 20, np.array([10, 10, 20, 20, 40]) / 100
    expert = np.repeat(np.arange(5), [10, 5, 3, 1, 1])
    sampled = np.repeat(np.arange(5), [10, 10, 20, 20, 40])
    batch = demonstrations(
        rows(expert), np.log(pi)[expert], rows(sampled), np.log(pi)[sampled]
    )
    objective = demonstration_objective(table_model())
    gradient = jax.jit(jax.grad(objective.total, has_aux=True))
    at_best, _ = gradient(jnp.log(p.astype(np.float32)), batch)
    np.testing.assert_allclose(at_best, np.zeros(5), atol=1e-5)


def test_rows_that_demonstrate_nothing_are_refused():
    good = rows(np.array([1, 2]))
    bad = rows(np.array([3]), step_end=np.zeros((1, 4), bool))
    with pytest.raises(ValueError, match="row 2 of the demonstrations has no step end"):
        demonstrations(good, np.zeros(2), bad, np.zeros(1))
    with pytest.raises(ValueError, match="0 rows of the expert and 2 of the policy"):
        demonstrations(rows(np.zeros(0, int)), np.zeros(0), good, np.zeros(2))


@pytest.fixture(scope="module")
def learned(make):
    """(model of 3 heads, params, width -> Demonstrations padded to it)."""
    config, _, policy_params = make(layers=1)
    model = build_reward_model(RewardModelConfig(readout="head", heads=3), config)
    params = jax.jit(model.init)(jax.random.key(0), policy_params)
    rng = np.random.default_rng(3)
    tokens = rng.integers(4, 12, (4, 6))

    def batch(width: int) -> Demonstrations:
        padded = np.zeros((4, width), np.int32)
        padded[:, :6] = tokens
        end = np.zeros((4, width), bool)
        end[:, 3] = end[[0, 1], 5] = True
        one, other = (
            StepLabels(
                tokens=padded[i],
                prompt_length=np.full(2, 2, np.int32),
                length=np.full(2, 6, np.int32),
                step_end=end[i],
                label=np.zeros((2, width), np.float32),
                weight=np.zeros((2, width), np.float32),
            )
            for i in (slice(0, 2), slice(2, 4))
        )
        return demonstrations(one, np.full(2, -2.0), other, np.full(2, -1.0))

    return model, params, batch


@pytest.fixture
def lenient(any_rank):
    """The policy's own arithmetic mixes types."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def test_heads_share_the_mean_of_their_losses(learned, lenient):
    model, params, batch = learned
    labels = batch(6).labels
    objective = demonstration_objective(model, "sum")
    total = jax.jit(objective.total)
    scores = jax.jit(model.score)(
        params, labels.tokens, labels.prompt_length, labels.length, labels.step_end
    )
    f = np.asarray(scores).sum(-1)
    assert f.shape == (3, 4) and np.ptp(f, axis=0).min() > 1e-3  # the heads differ
    y, logit = np.array([1, 1, 0, 0]), f - np.array([-2, -2, -1, -1])
    seen = np.asarray(bootstrap(labels.tokens, labels.length, 3))
    assert len({tuple(head) for head in seen}) == 3  # and so does what they learn from
    loss = seen * (np.log1p(np.exp(logit)) - y * logit)
    expected = np.mean(np.sum(loss, axis=1))
    np.testing.assert_allclose(objective.weight(batch(6)), seen.sum() / 3, rtol=1e-6)
    np.testing.assert_allclose(total(params, batch(6))[0], expected, rtol=1e-5)
    np.testing.assert_allclose(total(params, batch(9))[0], expected, rtol=1e-5)


def test_microbatches_change_nothing():
    objective = Objective(*demonstration_objective(table_model()))
    optimizer = optax.sgd(0.1)
    params, key = jnp.array([0.5, -1.0, 2.0, 0.0, 1.0]), jax.random.key(1)
    state = TrainState(jnp.int32(0), params, optimizer.init(params), key)
    one, two, five = (
        jax.jit(build_update(objective, optimizer, microbatches=cut))(
            state, enumerated()
        )
        for cut in (1, 2, 5)
    )
    for after, metrics in (two, five):
        np.testing.assert_allclose(after.params, one[0].params, rtol=1e-5)
        for name, value in metrics.items():
            np.testing.assert_allclose(value, one[1][name], rtol=1e-5)
    assert np.all(one[0].params != params)
