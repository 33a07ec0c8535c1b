"""Bradley-Terry on items of known strength, Borda counts by hand, and DPO as both."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from o1jax.data.pairs import PairBatch
from o1jax.learn.objectives import Objective
from o1jax.learn.update import build_update
from o1jax.policy.policy import Policy
from o1jax.reward.implicit import implicit_reward_model
from o1jax.reward.losses import bootstrap
from o1jax.reward.model import RewardModel, RewardModelConfig, build_reward_model
from o1jax.reward.preference import (
    borda,
    preference_objective,
    text_score,
    win_probability,
)
from o1jax.types import PolicyOutput, TrainState


@pytest.fixture(autouse=True)
def strict():
    """An integer among the rewards raises."""
    with jax.numpy_dtype_promotion("strict"):
        yield


def pairs_of(chosen, rejected, weight, margin=0.0, width: int = 3) -> PairBatch:
    """Texts of one step: a prompt of 1, then the item's own token."""
    R = len(chosen)
    tokens = np.zeros((R, 2, width), np.int32)
    tokens[:, 0, 1], tokens[:, 1, 1] = chosen, rejected
    end = np.zeros((R, 2, width), bool)
    end[:, :, 1] = True
    return PairBatch(
        tokens=tokens,
        prompt_length=np.ones(R, np.int32),
        length=np.full((R, 2), 2, np.int32),
        step_end=end,
        weight=np.asarray(weight, np.float32),
        margin=np.full(R, margin, np.float32),
    )


def table_score(params, tokens, prompt_length, length, step_end):
    """params[i] is the score of every step that token i closes."""
    return jnp.where(step_end, params[tokens], 0.0)


TABLE = RewardModel(lambda key, policy_params=None: jnp.zeros(3), table_score)


def test_known_strengths_are_recovered():
    # Strengths 1, 2, 5: i beats j with probability s_i / (s_i + s_j). The likelihood's
    # maximum has the scores log s_i, up to a common shift.
    strength = np.array([1.0, 2.0, 5.0])
    i, j = np.array(list(itertools.permutations(range(3), 2))).T
    batch = pairs_of(i, j, strength[i] / (strength[i] + strength[j]))
    objective = preference_objective(TABLE)
    gradient = jax.grad(objective.total, has_aux=True)
    at_best, _ = jax.jit(gradient)(jnp.asarray(np.log(strength), jnp.float32), batch)
    np.testing.assert_allclose(at_best, np.zeros(3), atol=1e-6)

    descend = lambda _, s: s - gradient(s, batch)[0]
    start = jnp.array([2.0, 0.0, -1.0])
    best = np.asarray(jax.jit(lambda s: jax.lax.fori_loop(0, 300, descend, s))(start))
    np.testing.assert_allclose(best - best[0], np.log(strength), atol=1e-4)
    np.testing.assert_allclose(objective.weight(batch), 3)  # of each pair, both ways


def test_the_loss_and_its_gradient_by_hand():
    scores = np.array([0.5, -1.0, 2.0])
    i, j, weight = np.array([0, 1, 2]), np.array([1, 2, 0]), np.array([1.0, 2.0, 0.5])
    batch = pairs_of(i, j, weight, margin=0.25)

    def loss(s):  # in float64
        return np.sum(weight * -np.log(1 / (1 + np.exp(-(s[i] - s[j] - 0.25)))))

    total = jax.jit(jax.grad(preference_objective(TABLE).total, has_aux=True))
    found, sums = total(jnp.asarray(scores, jnp.float32), batch)
    np.testing.assert_allclose(sums["loss"], loss(scores), rtol=1e-6)
    np.testing.assert_allclose(sums["pair_accuracy"], 1.0 + 0.5)
    gap = 1.0 * 1.5 + 2.0 * -3.0 + 0.5 * 1.5
    np.testing.assert_allclose(sums["score_gap"], gap, rtol=1e-6)
    for k in range(3):
        step = np.eye(3)[k] * 1e-5
        slope = (loss(scores + step) - loss(scores - step)) / 2e-5
        np.testing.assert_allclose(found[k], slope, rtol=1e-5)


def test_the_score_of_a_text_by_hand():
    # Row 0 has steps of log-odds 0, log 3: probabilities 1/2, 3/4. Row 1 has none.
    scores = jnp.array([[9.0, 0.0, 9.0, np.log(3.0), 9.0], [9.0] * 5])
    end = jnp.array([[False, True, False, True, False], [False] * 5])
    for how, expected in (
        ("last", np.log(3)),
        ("sum", np.log(3)),
        ("product", np.log(3 / 8)),
    ):
        np.testing.assert_allclose(
            text_score(scores, end, how), [expected, 0], rtol=1e-6
        )
    shifted = jnp.stack([scores, scores - 1])  # two heads
    np.testing.assert_allclose(
        text_score(shifted, end, "sum")[1], [np.log(3) - 2, 0], rtol=1e-6
    )
    np.testing.assert_allclose(
        text_score(shifted, end, "last")[1], [np.log(3) - 1, 0], rtol=1e-6
    )
    with pytest.raises(ValueError, match="must be last, sum, product"):
        text_score(scores, end, "mean")
    with pytest.raises(AssertionError, match="int32"):
        text_score(scores.astype(jnp.int32), end, "sum")


@pytest.fixture(scope="module")
def learned(make):
    """(model of 3 heads, params, width -> PairBatch of texts of several lengths)."""
    config, _, policy_params = make(layers=1)
    model = build_reward_model(RewardModelConfig(readout="head", heads=3), config)
    params = jax.jit(model.init)(jax.random.key(0), policy_params)
    tokens = np.random.default_rng(3).integers(4, 12, (4, 2, 6))
    length = np.array([[6, 4], [5, 6], [6, 6], [4, 4]], np.int32)

    def batch(width: int) -> PairBatch:
        place = np.arange(width)
        padded = np.zeros((4, 2, width), np.int32)
        padded[..., :6] = tokens
        padded[place >= length[..., None]] = 0
        return PairBatch(
            tokens=padded,
            prompt_length=np.array([2, 1, 2, 2], np.int32),
            length=length,
            # Place 1 is in the prompt of all rows but one, where it ends nothing.
            step_end=(place == 1) | (place == 3) | (place == length[..., None] - 1),
            weight=np.array([1.0, 2.0, 0.5, 1.0], np.float32),
            margin=np.array([0.0, 0.5, 0.0, 1.0], np.float32),
        )

    return model, params, batch


@pytest.fixture
def lenient(any_rank):
    """The policy's own arithmetic mixes types."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def test_one_forward_reads_both_sides_of_every_head(learned, lenient):
    model, params, batch = learned
    pairs = batch(6)
    objective = preference_objective(model, "sum")
    total = jax.jit(objective.total)
    score = jax.jit(model.score)
    sides = [
        np.asarray(
            score(
                params,
                pairs.tokens[:, side],
                pairs.prompt_length,
                pairs.length[:, side],
                pairs.step_end[:, side],
            )
        ).sum(-1)
        for side in (0, 1)
    ]
    gap = sides[0] - sides[1] - pairs.margin
    assert gap.shape == (3, 4) and np.ptp(gap, axis=0).min() > 1e-3  # heads differ
    seen = np.asarray(bootstrap(pairs.tokens[:, 0], pairs.length[:, 0], 3))
    assert len({tuple(head) for head in seen}) == 3  # and so does what they learn from
    weight = seen * pairs.weight
    expected = np.mean(np.sum(weight * np.log1p(np.exp(-gap)), axis=1))
    np.testing.assert_allclose(objective.weight(pairs), np.sum(weight) / 3, rtol=1e-6)
    np.testing.assert_allclose(total(params, pairs)[0], expected, rtol=1e-5)
    np.testing.assert_allclose(total(params, batch(8))[0], expected, rtol=1e-5)


def test_microbatches_change_nothing():
    objective = Objective(*preference_objective(TABLE))
    optimizer = optax.sgd(0.1)
    params, key = jnp.array([0.5, -1.0, 2.0]), jax.random.key(1)
    state = TrainState(jnp.int32(0), params, optimizer.init(params), key)
    batch = pairs_of([0, 1, 2, 1], [1, 2, 0, 0], [1.0, 2.0, 0.5, 1.0], margin=0.5)
    one, two, four = (
        jax.jit(build_update(objective, optimizer, microbatches=cut))(state, batch)
        for cut in (1, 2, 4)
    )
    for after, metrics in (two, four):
        np.testing.assert_allclose(after.params, one[0].params, rtol=1e-5)
        for name, value in metrics.items():
            np.testing.assert_allclose(value, one[1][name], rtol=1e-5)
    assert np.all(one[0].params != params)


def test_borda_by_hand_with_a_condorcet_cycle():
    # 0 beats 1 with .9, 1 beats 2 with .8, 2 beats 0 with .6.
    wins = np.array([[0.5, 0.9, 0.4], [0.1, 0.5, 0.8], [0.6, 0.2, 0.5]], np.float32)
    mean = [(0.9 + 0.4) / 2, (0.1 + 0.8) / 2, (0.6 + 0.2) / 2]
    np.testing.assert_allclose(borda(wins), mean, rtol=1e-6)
    # In the closure everyone beats everyone: two each, ordered by the mean.
    expected = [(2 + m) / 3 for m in mean]
    np.testing.assert_allclose(borda(wins, transitive=True), expected, rtol=1e-6)


def test_the_closure_changes_the_winner():
    # 0 just beats 1 and is even with the rest, all of whom 1 beats clearly.
    wins = np.full((4, 4), 0.5, np.float32)
    wins[0, 1], wins[1, 0] = 0.51, 0.49
    wins[1, 2:], wins[2:, 1] = 0.99, 0.01
    plain, closed = borda(wins), borda(wins, transitive=True)
    assert int(jnp.argmax(plain)) == 1 and int(jnp.argmax(closed)) == 0
    mean = [(0.51 + 0.5 + 0.5) / 3, (0.49 + 0.99 * 2) / 3, *[(0.5 * 2 + 0.01) / 3] * 2]
    beaten = [3, 2, 0, 0]
    np.testing.assert_allclose(plain, mean, rtol=1e-6)
    np.testing.assert_allclose(
        closed, [(b + m) / 4 for b, m in zip(beaten, mean)], rtol=1e-6
    )
    # A tie is seen as one, and the first of equals is taken.
    assert closed[2] == closed[3]


def reachable(beats: np.ndarray, start: int) -> set[int]:
    """Whom `start` reaches, by walking."""
    found, front = set(), [start]
    while front:
        for j in np.flatnonzero(beats[front.pop()]):
            if int(j) not in found:
                found.add(int(j))
                front.append(int(j))
    return found - {start}


def test_the_closure_is_who_can_be_reached():
    rng = np.random.default_rng(4)
    wins = np.full((20, 6, 6), 0.5, np.float32)
    i, j = np.triu_indices(6, 1)
    wins[:, i, j] = rng.choice([0.2, 0.5, 0.7], (20, 15), p=[0.3, 0.5, 0.2])
    wins[:, j, i] = 1 - wins[:, i, j]
    valid = rng.random((20, 6)) < 0.8
    valid[:, 0] = True
    found = np.asarray(
        jax.jit(lambda w, v: borda(w, valid=v, transitive=True))(wins, valid)
    )
    for b in range(20):
        there = np.flatnonzero(valid[b])
        others = max(len(there) - 1, 1)
        beats = (wins[b] > 0.5) & valid[b][:, None] & valid[b][None]
        for c in range(6):
            if not valid[b, c]:
                assert found[b, c] == -np.inf
                continue
            mean = sum(wins[b, c, k] for k in there if k != c) / others
            expected = (len(reachable(beats, c)) + mean) / (others + 1)
            np.testing.assert_allclose(found[b, c], expected, rtol=1e-5)


def test_borda_of_one_scale_is_the_order_of_the_scores():
    scores = jnp.asarray(np.random.default_rng(5).normal(0, 2, (8, 7)), jnp.float32)
    wins = win_probability(scores)
    np.testing.assert_allclose(
        wins + jnp.swapaxes(wins, 1, 2), np.ones((8, 7, 7)), rtol=1e-6
    )
    order = np.argsort(scores, axis=1)
    for transitive in (False, True):
        by_borda = np.argsort(borda(wins, transitive=transitive), axis=1)
        np.testing.assert_array_equal(by_borda, order)
    np.testing.assert_allclose(
        win_probability(jnp.array([0.0, np.log(3.0)])), [[0.5, 0.25], [0.75, 0.5]]
    )


def test_heads_may_disagree_in_a_circle():
    # Three heads, each with one order of three candidates: no scores explain their mean
    # opinion, and the Borda counts are equal.
    scores = jnp.array([[2.0, 1.0, 0.0], [0.0, 2.0, 1.0], [1.0, 0.0, 2.0]])
    wins = jnp.mean(win_probability(scores), axis=0)
    assert wins[0, 1] > 0.5 and wins[1, 2] > 0.5 and wins[2, 0] > 0.5
    np.testing.assert_allclose(borda(wins), [0.5] * 3, rtol=1e-6)


def test_a_lone_candidate_and_integers():
    wins = np.full((2, 2), 0.5, np.float32)
    alone = borda(wins, valid=np.array([False, True]))
    np.testing.assert_array_equal(alone, [-np.inf, 0])
    with pytest.raises(AssertionError, match="int"):
        borda(np.ones((2, 2), int))
    with pytest.raises(AssertionError, match="int"):
        win_probability(jnp.arange(3))


def test_dpo_ends_at_the_optimal_policy():
    """Its loss is that of pairs judged by a reward r, scored by the implicit reward:
    smallest where the policy is reference * exp(r / beta) / Z (2305.18290)."""
    beta, rng = 0.5, np.random.default_rng(6)
    reference, r = rng.dirichlet(np.ones(3) * 4), rng.normal(0, 0.5, 3)
    tilted = reference * np.exp(r / beta)
    optimal = tilted / tilted.sum()

    def forward(params, tokens):  # texts of one token, drawn from a table of logits
        logits = jnp.zeros((*tokens.shape, 3)).at[:, 1].set(params[None])
        return PolicyOutput(logits=logits, value=None, process=None)

    as_params = lambda p: jnp.asarray(np.log(p), jnp.float32)
    policy = Policy(lambda key: as_params(reference), None, forward, None, None)
    model = implicit_reward_model(policy, beta)
    i, j = np.array(list(itertools.permutations(range(3), 2))).T
    batch = pairs_of(i, j, 1 / (1 + np.exp(r[j] - r[i])))
    total = preference_objective(model, "last").total
    params = model.init(jax.random.key(0))

    # The loss is that of the paper, written out.
    other = rng.dirichlet(np.ones(3))
    ratio = np.log(other) - np.log(reference)
    expected = np.sum(batch.weight * np.log1p(np.exp(-beta * (ratio[i] - ratio[j]))))
    loss, _ = total(params | {"net": as_params(other)}, batch)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)

    gradient = jax.grad(total, has_aux=True)

    def descend(_, net):
        return net - 4 * gradient(params | {"net": net}, batch)[0]["net"]

    net = jax.jit(lambda net: jax.lax.fori_loop(0, 400, descend, net))(params["net"])
    np.testing.assert_allclose(jax.nn.softmax(net), optimal, atol=1e-4)
    assert np.abs(optimal - reference).max() > 0.05
