"""Reward models that learn of all goals at once: against numpy, and by what is read."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from o1jax.learn.objectives import Objective
from o1jax.learn.update import build_update
from o1jax.reward.goals import GoalLabels, goal_objective, pack_goals, unpack_goals
from o1jax.reward.model import RewardModelConfig, build_reward_model
from o1jax.types import StepLabels, TrainState

T, J, V = 8, 2, 12
GOALS = (5, 9, 11, 4, 6, 7, 8, 10, 3)  # nine: two bytes
ENDS = [(0, 4), (0, 7), (1, 5)]  # row 1 has one step, row 2 none
STEP = (0, 1, 0)  # the number of each of them in its row
PROMPT, LENGTH = np.array([3, 3, 2]), np.array([8, 7, 5])


def batch():
    rng = np.random.default_rng(3)
    tokens = rng.integers(3, V, (3, T))
    tokens = np.where(np.arange(T) < LENGTH[:, None], tokens, 0)
    step_end, label, weight = np.zeros((3, 3, T), np.float32)
    for (b, t), y, w in zip(ENDS, (1.0, 0.25, 0.0), (1.0, 2.0, 0.5)):
        step_end[b, t], label[b, t], weight[b, t] = 1, y, w
    labels = StepLabels(
        tokens=jnp.asarray(tokens, jnp.int32),
        prompt_length=jnp.asarray(PROMPT, jnp.int32),
        length=jnp.asarray(LENGTH, jnp.int32),
        step_end=jnp.asarray(step_end > 0),
        label=jnp.asarray(label),
        weight=jnp.asarray(weight),
    )
    reach = rng.random((3, J, len(GOALS))) < 0.4
    return GoalLabels(labels=labels, reach=jnp.asarray(pack_goals(reach))), reach


@pytest.fixture(scope="module")
def model(make):
    config = RewardModelConfig(readout="goal", goal=2)
    return build_reward_model(config, make()[0])


@pytest.fixture(scope="module")
def table(model):
    """A model that looks up its answer by the place and the question's goal."""

    def goals(params, tokens, prompt_length, at):
        every = params[jnp.arange(3)[:, None], at]
        goal = jnp.take_along_axis(tokens, prompt_length[:, None] - 2, axis=1)
        return jnp.take_along_axis(every, goal[:, None], axis=-1)[..., 0], every

    values = np.random.default_rng(1).normal(0, 2, (3, T, V))
    return model._replace(goals=goals), jnp.asarray(values, jnp.float32)


def cross_entropy(z, y):
    p = 1 / (1 + np.exp(-np.asarray(z, np.float64)))
    return -(y * np.log(p) + (1 - y) * np.log(1 - p))


def test_goals_survive_their_packing():
    reach = np.random.default_rng(0).random((4, 3, 41)) < 0.5
    back = unpack_goals(jnp.asarray(pack_goals(reach)), 41)
    np.testing.assert_array_equal(back, reach.astype(np.float32))
    assert back.dtype == jnp.float32


def test_a_score_is_the_logit_of_the_goal_behind_the_step(model, make):
    """Row by row: the policy's own logits for one token more, whatever it is."""
    _, policy, net = make()
    params = {"net": net, "readout": {"scale": jnp.float32(0.7), "bias": -0.3}}
    labels = batch()[0].labels
    rows = labels.tokens, labels.prompt_length, labels.length, labels.step_end
    scores = jax.jit(model.score)(params, *rows)
    at = jnp.array([[4, 7], [5, 5], [4, 4]])
    own, every = jax.jit(model.goals)(params, labels.tokens, labels.prompt_length, at)
    forward = jax.jit(policy.forward)
    for (b, t), j in zip(ENDS, STEP):
        text = jnp.where(jnp.arange(T + 1) <= t, jnp.pad(labels.tokens[b], (0, 1)), 9)
        expected = 0.7 * forward(net, text[None]).logits[0, t + 1] - 0.3
        goal = int(labels.tokens[b, PROMPT[b] - 2])
        np.testing.assert_allclose(scores[b, t], expected[goal], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(own[b, j], scores[b, t], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(every[b, j], expected, rtol=1e-4, atol=1e-5)
    assert np.count_nonzero(scores) == len(ENDS)


def test_the_loss_is_that_of_the_own_goal_and_of_all_goals(table):
    (model, values), (data, reach) = table, batch()
    objective = goal_objective(model, GOALS, goal_weight=3.0)
    with jax.numpy_dtype_promotion("strict"):
        loss, sums = jax.jit(objective.total)(values, data)
    labels, own, every = data.labels, 0.0, 0.0
    for (b, t), j in zip(ENDS, STEP):
        w, y = float(labels.weight[b, t]), float(labels.label[b, t])
        goal = int(labels.tokens[b, PROMPT[b] - 2])
        own += w * cross_entropy(values[b, t, goal], y)
        every += w * np.mean(cross_entropy(values[b, t, np.array(GOALS)], reach[b, j]))
    np.testing.assert_allclose(sums["loss"], own, rtol=1e-5)
    np.testing.assert_allclose(sums["goal_loss"], every, rtol=1e-5)
    np.testing.assert_allclose(loss, own + 3.0 * every, rtol=1e-5)
    np.testing.assert_allclose(objective.weight(data), 3.5)


def test_learns_what_is_within_reach(table):
    """Every goal's log-odds go to the side of its label; steps that are none stay."""
    (model, values), (data, reach) = table, batch()
    optimizer = optax.sgd(1.0)
    objective = Objective(*goal_objective(model, GOALS))
    update = jax.jit(build_update(objective, optimizer))
    state = TrainState(jnp.int32(0), values, optimizer.init(values), jax.random.key(0))
    for _ in range(100):
        state, _ = update(state, data)
    for (b, t), j in zip(ENDS, STEP):
        own = int(data.labels.tokens[b, PROMPT[b] - 2])
        other = [i for i, goal in enumerate(GOALS) if goal != own]
        found = np.asarray(state.params[b, t, np.array(GOALS)] > 0)
        np.testing.assert_array_equal(found[other], reach[b, j][other])
    moved = np.asarray(jnp.any(state.params != values, axis=-1))
    assert sorted(zip(*np.nonzero(moved))) == ENDS


def test_a_model_without_goals_is_refused(make):
    model = build_reward_model(RewardModelConfig(readout="head"), make()[0])
    with pytest.raises(ValueError, match="read-out goal"):
        goal_objective(model, GOALS)
    with pytest.raises(ValueError, match="goal must be at least 1"):
        RewardModelConfig(readout="goal", goal=0)
