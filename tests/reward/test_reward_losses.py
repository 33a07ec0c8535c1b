"""Losses of reward models, against numpy in f64, enumerations and other cuts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from o1jax.learn.objectives import Objective
from o1jax.learn.update import build_update
from o1jax.reward.losses import (
    bootstrap,
    check_labels,
    language_loss,
    outcome_logit,
    outcome_loss,
    pair_loss,
    reward_objective,
    step_loss,
)
from o1jax.reward.model import RewardModelConfig, build_reward_model
from o1jax.types import StepLabels, TrainState

T = 6
ENDS = [(0, 2), (0, 4), (1, 1), (1, 3), (1, 5), (2, 3)]


def by_end(values):
    """f32[3, T] with values at the step ends."""
    out = np.zeros((3, T), np.float32)
    out[tuple(zip(*ENDS))] = values
    return out


LABEL = by_end([1.0, 0.25, 1.0, 0.75, 0.0, 0.5])
WEIGHT = by_end([1.0, 2.0, 0.5, 1.0, 3.0, 1.0])
SCORES = by_end([2.0, -1.0, 0.5, 4.0, -3.0, 0.1])


def labels(**changes):
    rows = StepLabels(
        tokens=jnp.ones((3, T), jnp.int32),
        prompt_length=jnp.ones(3, jnp.int32),
        length=jnp.full(3, T, jnp.int32),
        step_end=jnp.asarray(by_end(1) > 0),
        label=jnp.asarray(LABEL),
        weight=jnp.asarray(WEIGHT),
    )
    return rows.replace(**changes)


# The same in numpy and f64: what the losses are compared with.


def np_cross_entropy(z, y, w):
    p = 1 / (1 + np.exp(-z))
    return np.sum(w * (-y * np.log(p) - (1 - y) * np.log(1 - p)))


def np_step_loss(scores):
    return np_cross_entropy(scores, LABEL, WEIGHT)


STEPS = [[(0, 2), (0, 4)], [(1, 1), (1, 3), (1, 5)], [(2, 3)]]  # of each row
LAST = tuple(zip(*(steps[-1] for steps in STEPS)))


def np_outcome_logit(scores):
    p = [np.prod([1 / (1 + np.exp(-scores[at])) for at in steps]) for steps in STEPS]
    return np.log(p) - np.log1p(-np.array(p))


def np_outcome_loss(scores):
    return np_cross_entropy(np_outcome_logit(scores), LABEL[LAST], WEIGHT[LAST])


def np_last_loss(scores):
    return np_cross_entropy(scores[LAST], LABEL[LAST], WEIGHT[LAST])


def np_pair_loss(pairs):
    chosen, rejected = pairs
    gap = chosen - rejected - np.array([0.0, 0.3, 0.0])
    return np.sum(np.array([1.0, 2.0, 0.5]) * np.log1p(np.exp(-gap)))


def np_language_loss(level, logprob):
    total = 0.0
    for row, steps in enumerate(STEPS):
        first = 0
        for step, end in enumerate(steps):
            right = LABEL[end] >= 0.5
            if level == "step" and right:
                total -= WEIGHT[end] * logprob[row, first : end[1] + 1].sum()
            first = end[1] + 1
            if level == "outcome" and right and step == len(steps) - 1:
                total -= WEIGHT[end] * logprob[row].sum()
    return total


def pairs_loss(pairs):
    weight, margin = jnp.float32([1, 2, 0.5]), jnp.float32([0, 0.3, 0])
    return pair_loss(pairs[0], pairs[1], weight, margin)[0]


PAIRS = np.array([[0.5, -1.0, 3.0], [0.2, 1.0, 1.0]])
LOGPROB = -np.arange(1.0, 19.0).reshape(3, T) / 7
CASES = {
    "step": (lambda s: step_loss(s, labels())[0], np_step_loss, SCORES),
    "outcome": (
        lambda s: outcome_loss(s, labels(), "logodds")[0],
        np_outcome_loss,
        SCORES,
    ),
    "last": (lambda s: outcome_loss(s, labels(), "head")[0], np_last_loss, SCORES),
    "pairs": (pairs_loss, np_pair_loss, PAIRS),
}
for level in ("step", "outcome"):
    CASES[f"language, {level}"] = (
        functools.partial(lambda level, p: language_loss(p, labels(), level), level),
        functools.partial(np_language_loss, level),
        LOGPROB,
    )


@pytest.mark.parametrize("case", CASES)
def test_a_loss_and_its_gradient_against_finite_differences(case):
    loss, reference, at = CASES[case]
    with jax.numpy_dtype_promotion("strict"):
        value, gradient = jax.jit(jax.value_and_grad(loss))(jnp.float32(at))
    np.testing.assert_allclose(value, reference(np.float64(at)), rtol=1e-5)
    differences = np.zeros(at.shape)
    for i in np.ndindex(at.shape):
        h = np.zeros(at.shape)
        h[i] = 1e-5
        differences[i] = (reference(at + h) - reference(at - h)) / 2e-5
    np.testing.assert_allclose(gradient, differences, rtol=1e-4, atol=1e-7)
    assert np.count_nonzero(gradient) >= 3


def test_metrics_are_sums_over_the_weight():
    # Log-odds 2, -1, .5, 4, -3, .1 for labels 1, .25, 1, .75, 0, .5: all agree.
    assert step_loss(jnp.asarray(SCORES), labels())[1]["accuracy"] == 8.5
    # The first of weight 1 and the fourth of weight 1 turned round.
    turned = jnp.asarray(by_end([-2.0, -1.0, 0.5, -4.0, -3.0, 0.1]))
    assert step_loss(turned, labels())[1]["accuracy"] == 6.5
    # Texts by their last score: all agree, weights 2, 3, 1.
    assert outcome_loss(jnp.asarray(SCORES), labels(), "head")[1]["accuracy"] == 6
    sums = pair_loss(jnp.float32([2, 1]), jnp.float32([1, 3]), jnp.float32([3, 1]))[1]
    assert (sums["pair_accuracy"], sums["score_gap"]) == (3, 3 * 1 + 1 * -2)


def test_the_outcome_of_two_steps_is_the_odds_of_their_product():
    odds = lambda p: np.log(p / (1 - p))
    scores = jnp.float32([[0, odds(0.9), 0, odds(0.8), 0, 7.0]])  # the 7 is no step's
    step_end = jnp.array([[False, True, False, True, False, False]])
    both = outcome_logit(scores, step_end, "logodds")
    np.testing.assert_allclose(both, [odds(0.72)], rtol=1e-5)
    for readout in ("head", "label"):
        last = outcome_logit(scores, step_end, readout)
        np.testing.assert_allclose(last, [odds(0.8)], rtol=1e-5)
    heads = outcome_logit(jnp.stack([scores, -scores]), step_end, "logodds")
    np.testing.assert_allclose(heads, [[odds(0.72)], [odds(0.02)]], rtol=1e-5)


def test_sure_steps_give_finite_gradients():
    scores = jnp.asarray(by_end(60.0))
    loss = jax.jit(jax.grad(lambda s: outcome_loss(s, labels(), "logodds")[0]))
    assert np.all(np.isfinite(loss(scores)))
    # Of row 1 (label 0, weight 3) the log-odds of three equal sure steps move by 1/3.
    np.testing.assert_allclose(loss(scores)[1, [1, 3, 5]], 1, rtol=1e-4)


def test_the_step_loss_is_least_at_the_mean_label():
    """Steps of two kinds, each seen three times with weights: enumerated."""
    kind = np.array([0, 0, 1, 1, 0, 1])
    label, weight = LABEL[tuple(zip(*ENDS))], WEIGHT[tuple(zip(*ENDS))]
    mean = [np.average(label[kind == k], weights=weight[kind == k]) for k in (0, 1)]

    def loss(logit):
        scores = jnp.zeros((3, T)).at[tuple(zip(*ENDS))].set(logit[kind])
        return step_loss(scores, labels())[0]

    # Convex in two numbers, so gradient descent finds the least.
    step = lambda _, logit: logit - 0.5 * jax.grad(loss)(logit)
    found = jax.jit(lambda x: jax.lax.fori_loop(0, 300, step, x))(jnp.zeros(2))
    np.testing.assert_allclose(jax.nn.sigmoid(found), mean, rtol=1e-5)


def test_pairs_recover_the_strengths_behind_them():
    """Three items, every ordered pair weighted by its exact chance."""
    strength = np.array([1.5, 0.2, -1.0])
    i, j = np.array([(a, b) for a in range(3) for b in range(3) if a != b]).T
    chance = jnp.float32(1 / (1 + np.exp(strength[j] - strength[i])))
    loss = lambda s: pair_loss(s[i], s[j], chance)[0]
    step = lambda _, s: s - 0.5 * jax.grad(loss)(s)
    found = jax.jit(lambda x: jax.lax.fori_loop(0, 300, step, x))(jnp.zeros(3))
    np.testing.assert_allclose(found - found[0], strength - 1.5, atol=1e-4)


@pytest.mark.parametrize("name", ["label", "weight"])
def test_whole_numbers_are_no_labels(make, name):
    model = build_reward_model(RewardModelConfig(), make()[0])
    whole = labels(**{name: jnp.ones((3, T), jnp.int32)})
    for refuse in (
        lambda: check_labels(whole),
        lambda: step_loss(jnp.asarray(SCORES), whole),
        lambda: outcome_loss(jnp.asarray(SCORES), whole, "logodds"),
        lambda: reward_objective(model).weight(whole),
    ):
        with pytest.raises(ValueError, match=f"StepLabels.{name} is int32"):
            refuse()


def test_each_head_has_its_own_bootstrap_of_the_rows():
    rng = np.random.default_rng(0)
    tokens = jnp.asarray(rng.integers(0, 12, (2000, 9)), jnp.int32)
    length = jnp.asarray(rng.integers(6, 10, 2000), jnp.int32)
    with jax.numpy_dtype_promotion("strict"):
        drawn = jax.jit(bootstrap, static_argnums=2)(tokens, length, 3)
    assert drawn.shape == (3, 2000) and drawn.dtype == jnp.float32
    # Poisson(1): mean 1, variance 1, unseen 1 / e; 5 standard errors of 6,000.
    np.testing.assert_allclose(drawn.mean(), 1, atol=5 / np.sqrt(6000))
    np.testing.assert_allclose(drawn.var(), 1, atol=5 * np.sqrt(3 / 6000))
    np.testing.assert_allclose((drawn == 0).mean(), np.exp(-1), atol=0.035)
    correlation = np.corrcoef(drawn)[np.triu_indices(3, 1)]
    np.testing.assert_allclose(correlation, 0, atol=5 / np.sqrt(2000))
    # The same rows in another batch: turned round, and with other padding.
    other = jnp.pad(tokens, ((0, 0), (0, 2)), constant_values=5)[::-1]
    np.testing.assert_array_equal(bootstrap(other, length[::-1], 3), drawn[:, ::-1])
    np.testing.assert_array_equal(bootstrap(tokens, length, 1), np.ones((1, 2000)))


# What is learned: config of the model, of the objective, microbatches to compare.
LEARNED = {
    "steps": ({}, {"language_weight": 0.1}, 4),
    "outcomes": ({}, {"level": "outcome", "language_weight": 0.1}, 2),
    "heads": ({"readout": "head", "heads": 3}, {}, 2),
}


def batch_of(rows, T):
    """StepLabels of `rows` rows, of which those from 8 on are junk of weight 0."""
    rng = np.random.default_rng(1)
    tokens = np.full((12, 12), 7)
    tokens[:8, :9] = rng.integers(1, 12, (8, 9))
    length = np.array([9, 8, 7, 9, 9, 8, 9, 6, 12, 3, 5, 7])
    step_end = rng.random((12, 12)) < 0.4
    step_end[np.arange(12), length - 1] = True
    t = np.arange(12)
    step_end &= (t >= 2) & (t < length[:, None])
    label = np.where(step_end, rng.random((12, 12)).round(1), 0)
    weight = np.where(step_end, rng.random((12, 12)), 0)
    weight[8:] = 0
    batch = StepLabels(
        tokens=tokens.astype(np.int32),
        prompt_length=np.full(12, 2, np.int32),
        length=length.astype(np.int32),
        step_end=step_end,
        label=label.astype(np.float32),
        weight=weight.astype(np.float32),
    )
    cut = lambda x: jnp.asarray(x[:rows, :T] if x.ndim == 2 else x[:rows])
    return jax.tree.map(cut, batch)


@pytest.mark.parametrize("case", LEARNED)
def test_microbatches_and_padding_change_no_update(make, case):
    model_config, config, microbatches = LEARNED[case]
    size, _, policy_params = make(layers=1)
    model = build_reward_model(RewardModelConfig(**model_config), size)
    objective = Objective(*reward_objective(model, **config))
    params = jax.jit(model.init)(jax.random.key(2), policy_params)
    optimizer = optax.sgd(0.5)
    state = TrainState(jnp.int32(0), params, optimizer.init(params), jax.random.key(0))

    def updated(batch, microbatches):
        update = build_update(objective, optimizer, microbatches=microbatches)
        return jax.jit(update)(state, batch)

    after, metrics = updated(batch_of(8, 9), 1)
    assert metrics["grad_norm"] > 0.01
    assert ("language_loss" in metrics) == ("language_weight" in config)
    close = functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-6)
    same, sums = updated(batch_of(12, 12), microbatches)
    jax.tree.map(close, sums, metrics)
    jax.tree.map(close, same.params, after.params)


def test_a_head_of_an_ensemble_learns_from_its_own_rows(make):
    """The mean over heads, each the loss of one head on its bootstrap."""
    size, _, policy_params = make(layers=1)
    config = RewardModelConfig(readout="head", heads=3)
    model = build_reward_model(config, size)
    objective = reward_objective(model)
    params = jax.jit(model.init)(jax.random.key(2), policy_params)
    batch = batch_of(8, 9)
    rows = batch.tokens, batch.prompt_length, batch.length, batch.step_end
    scores = jax.jit(model.score)(params, *rows)
    seen = np.asarray(bootstrap(batch.tokens, batch.length, 3))
    assert len({tuple(head) for head in seen}) == 3
    weight = seen[:, :, None] * np.asarray(batch.weight)
    label = np.broadcast_to(batch.label, weight.shape)
    expected = np_cross_entropy(np.float64(scores), label, weight) / 3
    loss, sums = jax.jit(objective.total)(params, batch)
    np.testing.assert_allclose([loss, sums["loss"]], expected, rtol=1e-5)
    np.testing.assert_allclose(objective.weight(batch), weight.sum() / 3, rtol=1e-5)


def test_the_weight_of_an_outcome_is_that_of_the_last_step(make):
    model = build_reward_model(RewardModelConfig(), make()[0])
    outcome = reward_objective(model, level="outcome")
    assert outcome.weight(labels()) == 2 + 3 + 1
    assert reward_objective(model).weight(labels()) == 8.5


def test_labels_are_learned_by_heart(make):
    """One response, right behind one prompt and wrong behind another, step by step."""
    size, _, policy_params = make(layers=1)
    model = build_reward_model(RewardModelConfig(), size)
    response = [5, 3, 8, 5, 4, 8]
    tokens = jnp.int32([[1, 2, *response], [1, 7, *response]])
    step_end = jnp.tile(jnp.arange(8) % 3 == 1, (2, 1)).at[:, :2].set(False)
    right = jnp.float32([[0, 0, 0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 1]])
    batch = StepLabels(
        tokens=tokens,
        prompt_length=jnp.int32([2, 2]),
        length=jnp.int32([8, 8]),
        step_end=step_end,
        label=right,
        weight=step_end.astype(jnp.float32),
    )
    optimizer = optax.adam(2e-2)
    update = jax.jit(build_update(Objective(*reward_objective(model)), optimizer))
    params = jax.jit(model.init)(jax.random.key(2), policy_params)
    state = TrainState(jnp.int32(0), params, optimizer.init(params), jax.random.key(0))
    for _ in range(60):
        state, metrics = update(state, batch)
    assert metrics["loss"] < 0.05 and metrics["accuracy"] == 1


def test_an_objective_that_makes_no_sense_is_refused(make):
    model = build_reward_model(RewardModelConfig(trunk="frozen"), make()[0])
    with pytest.raises(ValueError, match="level must be one of step, outcome"):
        reward_objective(model, level="token")
    with pytest.raises(ValueError, match="but the trunk is frozen"):
        reward_objective(model, language_weight=0.1)
