"""Every update is the same on a mesh of 8 devices, however it is cut, as on one.

A round of each learner, with the reference and the critic placed like the policy:
metrics and parameters must be those of one device up to the order of f32 sums. Of
cloning: test_update.py.
"""

from functools import cache, partial

import jax
import numpy as np
import optax
import pytest

from o1jax.data.pairs import PairBatch
from o1jax.learn.distil import DistilBatch, DistilConfig, distillation
from o1jax.learn.kl import KLControl
from o1jax.learn.policy_objective import (
    PolicyGradient,
    build_experience,
    policy_gradient_objective,
)
from o1jax.learn.preference import (
    PreferenceBatch,
    PreferenceConfig,
    pair_logprobs,
    preference_objective,
)
from o1jax.learn.reading import read_responses
from o1jax.learn.terms import Critic, Divergence, Entropy, Surrogate
from o1jax.learn.update import build_update
from o1jax.parallel.mesh import MeshConfig, build_mesh, put_batch
from o1jax.parallel.sharding import TRANSFORMER_RULES, shard, shardings
from o1jax.types import TrainState, Trajectory

# A step that is linear in the gradient compares all of it; AdamW: test_update.py.
OPTIMIZER = optax.sgd(0.5, momentum=0.9)
MESHES = {
    "one": MeshConfig(1, 1, 1),
    "data": MeshConfig(8, 1, 1),
    "fsdp": MeshConfig(1, 8, 1),
    "cube": MeshConfig(2, 2, 2),  # here with gradient accumulation and remat besides
}
B, T, V, SAMPLES = 16, 8, 12, 4
PPO = PolicyGradient(
    "gae",
    (Surrogate(), Divergence("k3"), Entropy(), Critic(0.5, 0.2)),
    "token",
    lam=0.9,
    whiten=True,
    kl=KLControl(0.1),
)
rng = np.random.default_rng(3)
TOKENS = rng.integers(1, V, (B, 2, T)).astype(np.int32)
PROMPT = rng.integers(1, 4, B).astype(np.int32)
LENGTH = rng.integers(4, T + 1, (B, 2)).astype(np.int32)
LENGTH[5] = PROMPT[5]  # a row of padding
VALUE, REWARD = rng.normal(size=(2, B, T)).astype(np.float32)
WEIGHT = rng.uniform(0.5, 1, B).astype(np.float32)
RESPONSES = Trajectory(
    tokens=TOKENS[:, 0],
    prompt_length=PROMPT,
    length=LENGTH[:, 0],
    logprob=-np.abs(VALUE),
    value=np.zeros_like(VALUE),
    finished=LENGTH[:, 0] < T,
    prompt_id=np.arange(B, dtype=np.int32) // SAMPLES,
)
PAIRS = PairBatch(
    tokens=TOKENS,
    prompt_length=PROMPT,
    length=LENGTH,
    step_end=np.zeros(TOKENS.shape, bool),
    weight=WEIGHT,
    margin=np.zeros(B, np.float32),
)
NODES = DistilBatch(
    tokens=TOKENS,
    prefix_length=PROMPT,
    length=LENGTH,
    target=np.tile(np.float32([[0.5, 0.3]]), (B, 1)),
    rest=np.full(B, 0.2, np.float32),
    value=VALUE[:, 0],
    weight=WEIGHT,
)


def ppo(policy, update):
    """With a critic that is a network of its own."""
    read = partial(read_responses, policy)

    def round(state, reference, responses, reward):
        text = (responses.tokens, responses.prompt_length, responses.length)
        batch = build_experience(
            PPO,
            responses,
            reward,
            samples=SAMPLES,
            max_tokens=T,
            ref_logprob=read(reference, *text).logprob,
            value=read(state.params, *text, critic=policy).value,
        )
        return update(policy_gradient_objective(policy, PPO, critic=policy))(
            state, batch
        )

    return round, (RESPONSES, REWARD)


def dpo(policy, update):
    def round(state, reference, pairs):
        said = pair_logprobs(policy, reference, pairs)
        batch = PreferenceBatch(pairs=pairs, ref_logprob=said)
        return update(preference_objective(policy, PreferenceConfig()))(state, batch)

    return round, (PAIRS,)


def distilling(policy, update):
    objective = distillation(policy, DistilConfig(value_coef=0.5))
    return lambda state, reference, nodes: update(objective)(state, nodes), (NODES,)


@pytest.fixture(scope="module")
def learned(make):
    """(learner, mesh) -> (state after its round, metrics, parameters before), numpy;
    and where the state lay.
    """

    @cache
    def round_of(learner, name):
        config = MESHES[name]
        count = config.data * config.fsdp * config.tensor
        mesh = build_mesh(config, jax.devices()[:count])
        cube = name == "cube"
        _, policy, params = make(layers=1, remat="full" if cube else "none")
        params = jax.tree.map(np.asarray, params)
        build = partial(
            build_update, optimizer=OPTIMIZER, microbatches=2 if cube else 1
        )
        round, data = learner(policy, build)
        before = params
        if learner is ppo:
            before = {"policy": params, "critic": jax.tree.map(np.sin, params)}
        zeros = lambda x: np.zeros(x.shape, x.dtype)
        moments = jax.tree.map(zeros, jax.eval_shape(OPTIMIZER.init, before))
        state = TrainState(np.int32(0), before, moments, np.int32(0))
        place = partial(shard, rules=TRANSFORMER_RULES, mesh=mesh)
        wanted = shardings(state, TRANSFORMER_RULES, mesh)
        round = jax.jit(round, out_shardings=(wanted, None))
        reference = place(jax.tree.map(np.cos, params))
        after, metrics = round(place(state), reference, *put_batch(mesh, data))
        return jax.device_get((after, metrics)), before, after

    return round_of


@pytest.mark.parametrize(
    "learner, name",
    [(ppo, "data"), (ppo, "fsdp"), (ppo, "cube"), (dpo, "cube"), (distilling, "cube")],
)
def test_a_round_is_that_of_one_device(learned, learner, name):
    (one, expected), before, _ = learned(learner, "one")
    (state, metrics), _, _ = learned(learner, name)
    assert metrics.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_allclose(metrics[key], value, rtol=2e-5, atol=1e-6)
    close = partial(np.testing.assert_allclose, rtol=1e-5, atol=5e-6)
    jax.tree.map(close, state.params, one.params)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), one.params, before)
    networks = moved.values() if learner is ppo else [moved]
    for network in networks:  # else nothing was compared
        assert min(jax.tree.leaves(network["layers"])) > 1e-3


@pytest.mark.parametrize("name, parts", [("fsdp", 8), ("cube", 4)])
def test_critic_and_moments_are_cut_like_the_policy(learned, name, parts):
    _, _, state = learned(ppo, name)
    for tree in (state.params, state.opt_state[0].trace):
        for network in (tree["policy"], tree["critic"]):
            leaf = network["layers"]["mlp"]["gate_up"]
            assert leaf.addressable_shards[0].data.size * parts == leaf.size
