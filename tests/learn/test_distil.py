"""Distilling a search: the loss by hand, and that it does not lower the return."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tabular
from tabular import POLICY

from o1jax.learn.distil import DistilConfig, distil_batch, distillation
from o1jax.policy.policy import Policy
from o1jax.search.gumbel import Gumbel
from o1jax.search.harvest import StepText
from o1jax.search.mcts import Mcts, mcts
from o1jax.search.nodes import nodes_of
from o1jax.search.targets import policy_targets
from o1jax.types import NodeEval, PolicyOutput

NOW = tabular.table(0)
now = tabular.Theory(NOW)


@functools.cache
def programs(config, policy=POLICY):
    objective = distillation(policy, config)

    def of(params, batch):
        loss, metrics = objective.total(params, batch)
        return loss / objective.weight(batch), metrics

    return jax.jit(jax.value_and_grad(of, has_aux=True))


def loss_of(config, batch, params=NOW):
    (loss, metrics), gradient = programs(config)(params, batch)
    told = {name: m.total / m.count for name, m in metrics.items() if name != "loss"}
    return loss, gradient, told


# Behind the prompt: a, or b and END. Behind the prompt and a: END.
BATCH = distil_batch(
    [[1], [1, 0]],
    [[[0], [1, 2]], [[2]]],
    np.array([[0.6, 0.3], [0.8, 0.0]]),
    np.array([0.1, 0.2]),
    value=np.array([0.5, -1.0]),
    weight=np.array([1.0, 3.0]),
)
P0 = np.array([now.p[1, 0], now.p[1, 1] * now.p[3, 2]])  # of the first node's children
P1 = now.p[2, 2]


def test_the_loss_by_hand():
    loss, _, told = loss_of(DistilConfig(), BATCH)
    first = -0.6 * np.log(P0[0]) - 0.3 * np.log(P0[1]) - 0.1 * np.log(1 - P0.sum())
    second = -0.8 * np.log(P1) - 0.2 * np.log(1 - P1)
    np.testing.assert_allclose(loss, (first + 3 * second) / 4, rtol=1e-5)
    entropy = -sum(w * np.log(w) for w in (0.6, 0.3, 0.1)), 0.5004024
    wanted = (first - entropy[0] + 3 * (second - entropy[1])) / 4
    np.testing.assert_allclose(told["target_kl"], wanted, rtol=1e-4)
    np.testing.assert_allclose(told["covered"], (P0.sum() + 3 * P1) / 4, rtol=1e-5)


def test_over_the_children_alone_by_hand():
    loss, gradient, _ = loss_of(DistilConfig("children"), BATCH)
    first = -2 / 3 * np.log(P0[0] / P0.sum()) - 1 / 3 * np.log(P0[1] / P0.sum())
    np.testing.assert_allclose(loss, first / 4, rtol=1e-5)
    assert np.abs(gradient["logits"][2]).max() < 1e-6  # an only child: nothing to say


def test_the_value_head_learns_the_node_in_front_of_its_children():
    config = DistilConfig(value_coef=0.5)
    _, gradient, told = loss_of(config, BATCH)
    error = np.asarray(NOW["value"])[[1, 2]] - [0.5, -1.0]
    wanted = np.zeros(8)
    wanted[[1, 2]] = 0.5 * error * [1, 3] / 4
    np.testing.assert_allclose(gradient["value"], wanted, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(
        told["value_error"], [1 / 4, 3 / 4] @ error**2, rtol=1e-5
    )


def test_it_rests_where_the_policy_is_the_target():
    batch = BATCH.replace(
        target=np.float32([P0, [P1, 0]]), rest=np.float32([1 - P0.sum(), 1 - P1])
    )
    _, gradient, told = loss_of(DistilConfig(), batch)
    np.testing.assert_allclose(gradient["logits"], 0, atol=1e-6)
    np.testing.assert_allclose(told["target_kl"], 0, atol=1e-6)


# Bandits: the prompt says which, a response is one token, the arm.

ARMS, TREES = 8, 64


def bandit_forward(params, tokens, **_):
    logits = jnp.broadcast_to(params[tokens[:, :1]], (*tokens.shape, ARMS))
    zero = jnp.zeros(tokens.shape)
    return PolicyOutput(logits=logits, value=zero, process=zero)


BANDIT = Policy(None, None, bandit_forward, None, None)


def page(arm):
    one = jnp.ones_like(arm)
    return StepText(arm[..., None], 0.0 * arm[..., None], one, one > 0)


@jax.jit
def search(logits, reward, key):
    """Trees of one bandit, whose root's value is exact; they differ in their noise."""

    def expand(reward, key, store, path, action):
        paid = reward[jnp.maximum(action, 0)]
        zero = jnp.zeros_like(paid)
        prior = jnp.zeros((*action.shape, ARMS))
        return NodeEval(prior, paid, paid, zero), page(action)

    rows = lambda x: jnp.broadcast_to(x, (TREES, *jnp.shape(x)))
    value = jnp.sum(jax.nn.softmax(logits) * reward)
    root = NodeEval(*map(rows, (logits, value, 0.0, 1.0)))
    config = Mcts(simulations=4, rule="gumbel", gumbel=Gumbel(considered=4))
    result = mcts(reward, key, root, page(jnp.zeros(TREES, jnp.int32)), expand, config)
    return result.weights, nodes_of(result.tree)


def test_distilling_gumbel_search_does_not_lower_the_return():
    """Four simulations of eight arms, twelve bandits; the returns are exact."""
    rng = np.random.default_rng(0)
    config = DistilConfig()
    for bandit in range(12):
        logits = rng.normal(0, 1.5, (ARMS, ARMS)).astype(np.float32)
        reward = rng.normal(0, 1, ARMS).astype(np.float32)
        improved, nodes = search(logits[bandit % 8], reward, jax.random.key(bandit))
        found = policy_targets(nodes, rule="improved", min_visits=1)
        root = found.node == 0
        arms = np.asarray(nodes.action)[found.tree[root, None], found.child[root]]
        children = found.child[root] >= 0
        batch = distil_batch(
            [[bandit % 8]] * TREES,
            [[[arm] for arm in row[:n]] for row, n in zip(arms, children.sum(1))],
            found.weight[root],
            found.rest[root],
        )
        returns = []
        params = jnp.asarray(logits)
        for step in range(30):
            (_, _), gradient = programs(config, BANDIT)(params, batch)
            p = np.exp(params[bandit % 8] - jax.nn.logsumexp(params[bandit % 8]))
            returns.append(p @ reward)
            if step == 0:  # the gradient is that towards the search's whole policy
                slope = p - np.mean(improved, axis=0)
                np.testing.assert_allclose(gradient[bandit % 8], slope, atol=2e-5)
            params = params - 1.0 * gradient
        assert returns[-1] > returns[0] + 0.05, returns
        assert (np.diff(returns) > -1e-6).all()


def test_a_batch_that_can_not_be_is_refused():
    one = np.ones((1, 1))
    with pytest.raises(ValueError, match="node 0 has 2 children, not 1 to 1"):
        distil_batch([[1]], [[[0], [1]]], one, np.zeros(1))
    with pytest.raises(ValueError, match="node 0 takes 3 tokens of 2"):
        distil_batch([[1]], [[[0, 2]]], one, np.zeros(1), length=2)
    with pytest.raises(ValueError, match="node 0 has a child without a token"):
        distil_batch([[1]], [[[]]], one, np.zeros(1))
    with pytest.raises(ValueError, match="over must be"):
        DistilConfig(over="all")
    with pytest.raises(ValueError, match="value_coef"):
        DistilConfig(value_coef=-1.0)
