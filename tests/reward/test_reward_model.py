"""Reward models on tiny networks, against numpy in f64 and one forward a step."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from o1jax.parallel.mesh import MeshConfig, build_mesh
from o1jax.parallel.sharding import TRANSFORMER_RULES, shardings
from o1jax.policy.policy import PolicyConfig
from o1jax.reward.model import RewardModelConfig, build_reward_model
from o1jax.reward.readout import step_log_odds, token_log_odds

READOUTS = ("logodds", "head", "label")
PROMPT = np.array([2, 1, 3])
LENGTH = np.array([8, 6, 4])
# Row 0: steps 2-3, 4-4, 5-7. Row 1: 1-3, then two tokens of no closed step. Row 2: 3-3.
ENDS = [(0, 3), (0, 4), (0, 7), (1, 3), (2, 3)]
STEPS = {(0, 3): (2, 3), (0, 4): (4,), (0, 7): (5, 6, 7), (1, 3): (1, 2, 3), (2, 3): 3}


def rows(T=8):
    """tokens, prompt_length, length, step_end; row 2 is short, and padded."""
    tokens = np.random.default_rng(0).integers(1, 12, (3, 8))
    tokens = np.where(np.arange(8) < LENGTH[:, None], tokens, 0)
    step_end = np.zeros((3, T), bool)
    step_end[tuple(zip(*ENDS))] = True
    tokens = np.pad(tokens, ((0, 0), (0, T - 8)))
    return [jnp.asarray(x, jnp.int32) for x in (tokens, PROMPT, LENGTH)] + [
        jnp.asarray(step_end)
    ]


def plain(make, **config):
    size = make()[0]
    return build_reward_model(RewardModelConfig(**config), size, yes_id=5, no_id=7)


@pytest.fixture(scope="module")
def build(make):
    """config -> (model, jitted; params), the read-out of random numbers."""

    @functools.cache
    def once(**config):
        model = plain(make, **config)
        model = model._replace(
            init=jax.jit(model.init),
            read=jax.jit(model.read),
            score=jax.jit(model.score),
        )
        params = model.init(jax.random.key(1), make()[2])
        rng = np.random.default_rng(3)
        fill = lambda x: jnp.asarray(rng.normal(1.0, 0.3, x.shape), x.dtype)
        params = params | {"readout": jax.tree.map(fill, params["readout"])}
        return model, params

    return once


@pytest.fixture(scope="module")
def forward(make):
    return jax.jit(make()[1].forward)


@pytest.fixture(scope="module")
def logprob(make, forward):
    """log p f64[B, T] of the tokens of `rows`, by numpy."""
    tokens = rows()[0]
    logits = np.asarray(forward(make()[2], tokens).logits, np.float64)
    logprob = logits - np.log(np.sum(np.exp(logits), -1, keepdims=True))
    return np.take_along_axis(logprob, np.asarray(tokens)[..., None], -1)[..., 0]


def test_log_odds_of_a_step_are_those_of_the_product_of_its_tokens(build, logprob):
    model, params = build()
    scores, token_logprob = model.read(params, *rows())
    scale, bias = (float(params["readout"][name]) for name in ("scale", "bias"))
    expected = np.zeros((3, 8))
    for end, step in STEPS.items():
        p = np.exp(np.sum(logprob[end[0], np.array(step)]))
        expected[end] = scale * np.log(p / (1 - p)) + bias
    np.testing.assert_allclose(scores, expected, rtol=1e-4)
    t = np.arange(8)
    response = (t >= PROMPT[:, None]) & (t < LENGTH[:, None])
    np.testing.assert_allclose(token_logprob, np.where(response, logprob, 0), rtol=1e-4)


def test_a_fresh_readout_adds_nothing(make, build, logprob):
    """Scale 1, bias 0: the untrained model is the policy's own log-odds."""
    model, _ = build()
    params = model.init(jax.random.key(0), make()[2])
    p = np.exp(logprob[0, 4])
    score = model.score(params, *rows())[0, 4]
    np.testing.assert_allclose(score, np.log(p / (1 - p)), rtol=1e-5)


def test_the_head_is_the_process_head_of_the_network(build, forward):
    model, params = build(readout="head")
    batch = rows()
    net = params["net"] | {"process": params["readout"]["process"]}
    process = forward(net, batch[0]).process
    scores = model.score(params, *batch)
    np.testing.assert_allclose(scores, np.where(batch[3], process, 0), rtol=1e-6)
    assert len(np.unique(scores)) == len(ENDS) + 1


def test_the_label_is_asked_of_the_token_behind_the_step(make, build, forward):
    model, params = build(readout="label")
    batch = rows()
    scores = model.score(params, *batch)
    scale, bias = params["readout"]["scale"], params["readout"]["bias"]
    for row, end in ENDS:
        # Whatever stands behind the end can't be seen: here an 11, at first its own.
        behind = jnp.asarray([[*batch[0][row, : end + 1], *[11] * (8 - end)]])
        logits = forward(make()[2], behind).logits[0, end + 1]
        expected = scale * (logits[5] - logits[7]) + bias
        np.testing.assert_allclose(scores[row, end], expected, rtol=1e-5)


@pytest.mark.parametrize("readout", READOUTS)
def test_all_steps_of_all_rows_are_scored_as_if_alone(build, readout):
    """One forward equals one forward a step, of the text up to that step's end."""
    model, params = build(readout=readout)
    batch = rows()
    scores = model.score(params, *batch)
    assert np.count_nonzero(scores) == len(ENDS)
    t = jnp.arange(8)[None]
    for row, end in ENDS:
        tokens, prompt, _, step_end = (x[row : row + 1] for x in batch)
        cut = jnp.where(t <= end, tokens, 0), prompt, prompt * 0 + end + 1
        alone = model.score(params, *cut, step_end & (t <= end))
        np.testing.assert_allclose(alone[0, end], scores[row, end], rtol=2e-5)


def padded(T=11):
    """`rows` with more padding, not of zeros, and ends marked outside the response."""
    tokens, prompt, length, step_end = rows(T)
    t = jnp.arange(T)[None]
    behind = t >= length[:, None]
    step_end = step_end | behind | (t < prompt[:, None])
    return jnp.where(behind, 9, tokens), prompt, length, step_end


@pytest.mark.parametrize("readout", READOUTS)
def test_padding_and_ends_outside_the_response_change_nothing(build, readout):
    model, params = build(readout=readout)
    scores, logprob = model.read(params, *rows())
    longer_scores, longer_logprob = model.read(params, *padded())
    add = lambda x: np.pad(x, ((0, 0), (0, 3)))
    np.testing.assert_allclose(longer_scores, add(scores), rtol=2e-5)
    np.testing.assert_allclose(longer_logprob, add(logprob), rtol=2e-5, atol=1e-7)


def test_padding_changes_no_gradient(make, build):
    model, (_, params) = plain(make), build()
    gradient = jax.jit(
        jax.grad(lambda p, *rows: jnp.sum(jnp.sin(model.score(p, *rows))))
    )
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, gradient(params, *padded()), gradient(params, *rows()))


def log_odds_of(*margins):
    """Log-odds of one step, whose tokens lead two others by a margin."""
    logits = jnp.asarray([[[m, 0.0, 0.0] for m in margins]])
    tokens = jnp.zeros((1, len(margins)), jnp.int32)
    ends = jnp.arange(len(margins))[None] == len(margins) - 1
    logprob = jax.nn.log_sigmoid(token_log_odds(logits, tokens))
    return step_log_odds(logprob, ends)[0, -1]


one = jax.jit(jax.value_and_grad(log_odds_of))
two = jax.jit(jax.value_and_grad(log_odds_of, (0, 1)))


@pytest.mark.parametrize("margin", [-200.0, -40.0, 0.3, 12.0, 20.0, 40.0, 80.0])
def test_log_odds_where_f32_has_no_more_digits(margin):
    """At a margin of 20 the probability is 1.0 in f32; its log-odds are still exact."""
    # One token: margin - log 2. Of two equal ones odds halve where p is near 1.
    value, gradient = one(jnp.float32(margin))
    np.testing.assert_allclose(value, margin - np.log(2), rtol=1e-5)
    np.testing.assert_allclose(gradient, 1, rtol=1e-5)
    value, gradients = two(jnp.float32(margin), jnp.float32(margin))
    m = np.float64(margin) - np.log(2)
    cost = 2 * np.logaddexp(0, -m)
    expected = -cost - np.log(-np.expm1(-cost))
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    # d/dm = (1 - p) / (1 - p^2) = 1 / (1 + p)
    np.testing.assert_allclose(gradients, [1 / (1 + np.exp(-cost / 2))] * 2, rtol=1e-5)


def test_a_certain_step_has_finite_log_odds_and_gradients():
    value, gradient = one(jnp.float32(500))
    assert 80 < value < 90
    assert np.isfinite(gradient)


def test_an_unlikely_step_leaves_the_digits_of_the_next_one():
    logprob = jnp.float32([[-150.0, -1e-9]])
    scores = jax.jit(step_log_odds)(logprob, jnp.ones((1, 2), bool))
    np.testing.assert_allclose(scores[0], [-150, -np.log(1e-9)], rtol=1e-6)


def test_heads_are_independent_and_differ_at_first(make, build):
    config = RewardModelConfig(readout="head", heads=3)
    model = build_reward_model(config, make()[0])
    params = jax.jit(model.init)(jax.random.key(1), make()[2])
    scores = jax.jit(model.score)(params, *rows())
    assert scores.shape == (3, 3, 8)
    single, _ = build(readout="head")
    head = params["readout"]["process"]
    for k in range(3):
        alone = {name: x[..., k : k + 1] for name, x in head.items()}
        alone = {"net": params["net"], "readout": {"process": alone}}
        np.testing.assert_allclose(scores[k], single.score(alone, *rows()), rtol=1e-4)
    for a, b in itertools.combinations(scores, 2):
        assert np.abs(a - b).max() > 0.1


@pytest.fixture(scope="module")
def step(make):
    """Gradient of the sum of scores, and the parameters after a step."""

    def stepped(params, optimizer, **config):
        model = plain(make, **config)

        @jax.jit
        def update(params):
            gradient = jax.grad(lambda p: jnp.sum(model.score(p, *rows())))(params)
            updates, _ = optimizer.update(gradient, optimizer.init(params), params)
            return gradient, optax.apply_updates(params, updates)

        return update(params)

    return stepped


@pytest.mark.parametrize("readout", READOUTS)
def test_of_a_frozen_trunk_only_the_readout_learns(make, build, step, readout):
    model, params = build(readout=readout, trunk="frozen")
    train = model.trainable(params)
    kept = jax.tree.map(lambda x: "train" if x else "keep", train)
    decaying = optax.adamw(1e-2, weight_decay=0.1)
    parts = {"train": decaying, "keep": optax.set_to_zero()}
    gradient, after = step(
        params, optax.multi_transform(parts, kept), readout=readout, trunk="frozen"
    )
    assert not any(np.any(x) for x in jax.tree.leaves(gradient["net"]))
    assert all(np.any(x) for x in jax.tree.leaves(gradient["readout"]))
    jax.tree.map(np.testing.assert_array_equal, after["net"], make()[2])
    differs = lambda a, b: bool(np.any(a != b))
    moved = jax.tree.map(differs, after["readout"], params["readout"])
    assert all(jax.tree.leaves(moved))
    # What `trainable` is for: a gradient of 0 does not keep weight decay away.
    _, decayed = step(params, decaying, readout=readout, trunk="frozen")
    assert differs(
        decayed["net"]["embed"]["embedding"], make()[2]["embed"]["embedding"]
    )


def test_a_trunk_of_its_own_is_trained(make, build, step):
    model, params = build()
    jax.tree.map(np.testing.assert_array_equal, params["net"], make()[2])
    gradient, _ = step(params, optax.sgd(1.0))
    assert np.any(gradient["net"]["layers"]["attention"]["qkv"])
    assert all(jax.tree.leaves(model.trainable(params)))


@pytest.mark.parametrize("trunk", ["policy", "frozen"])
def test_the_policy_survives_a_donated_reward_model(make, build, trunk):
    model, _ = build(trunk=trunk)
    params = model.init(jax.random.key(0), make()[2])
    for leaf in jax.tree.leaves(params):
        leaf.delete()
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(make()[2]))


def test_a_new_trunk_has_its_own_size(make):
    size = PolicyConfig(width=8, layers=1, heads=2, ff=12, dtype="float32")
    config = RewardModelConfig(trunk="new", policy=size)
    model = build_reward_model(config, make()[0])
    params = jax.jit(model.init)(jax.random.key(0))
    assert params["net"]["embed"]["embedding"].shape == (12, 8)
    assert np.count_nonzero(jax.jit(model.score)(params, *rows())) == len(ENDS)
    as_policy = build_reward_model(RewardModelConfig(trunk="new"), make()[0])
    params = jax.jit(as_policy.init)(jax.random.key(0), make()[2])
    new = params["net"]["embed"]["embedding"]
    assert new.shape == (12, 16) and np.all(new != make()[2]["embed"]["embedding"])


@pytest.mark.parametrize("config", [{}, {"readout": "head", "heads": 3}])
def test_a_mesh_has_a_place_for_every_parameter(make, config):
    model = build_reward_model(RewardModelConfig(**config), make()[0])
    shapes = jax.eval_shape(model.init, jax.random.key(0), make()[2])
    mesh = build_mesh(MeshConfig(2, 2, 2), jax.devices())
    placed = shardings(shapes, TRANSFORMER_RULES, mesh)
    assert all(x.is_fully_replicated for x in jax.tree.leaves(placed["readout"]))
    assert not placed["net"]["layers"]["attention"]["qkv"].is_fully_replicated


@pytest.mark.parametrize(
    "config, message",
    [
        ({"readout": "heads"}, "readout must be one of logodds, head, label"),
        ({"trunk": "old"}, "trunk must be one of policy, frozen, new"),
        ({"heads": 0}, "heads must be at least 1"),
        ({"heads": 2}, r"heads \(2\) needs readout head"),
        (
            {"policy": PolicyConfig()},
            "policy is the size of a new trunk",
        ),
        ({"yes": "good"}, "yes and no are for readout label, not logodds"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        RewardModelConfig(**config)


def test_what_does_not_fit_the_policy_is_refused(make):
    size = make()[0]
    label = RewardModelConfig(readout="label")
    with pytest.raises(ValueError, match="yes and no are the same token, 4"):
        build_reward_model(label, size, yes_id=4, no_id=4)
    with pytest.raises(ValueError, match=r"yes \(12\) is no token of 12"):
        build_reward_model(label, size, yes_id=12)
    other = RewardModelConfig(trunk="new", policy=PolicyConfig(vocab=30))
    with pytest.raises(ValueError, match="vocab is 30, the policy's 12"):
        build_reward_model(other, size)
    with pytest.raises(ValueError, match="trunk policy needs the policy's parameters"):
        build_reward_model(RewardModelConfig(), size).init(jax.random.key(0))
