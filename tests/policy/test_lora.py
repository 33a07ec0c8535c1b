"""Adapters: the same policy at first, then W + alpha / rank * A B; W never moves."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from o1jax.learn.objectives import imitation
from o1jax.learn.optimizer import OptimizerConfig, build_optimizer
from o1jax.learn.state import new_state
from o1jax.learn.update import build_update
from o1jax.parallel.mesh import MeshConfig, build_mesh
from o1jax.parallel.sharding import shard
from o1jax.policy.lora import (
    LORA_RULES,
    LoraConfig,
    adapt,
    lora_policy,
    merge,
    trainable,
)
from o1jax.types import TokenBatch

CONFIG = LoraConfig(rank=2, alpha=3.0)
TOKENS = jnp.array([[3, 9, 5, 11, 7, 1], [4, 8, 1, 2, 6, 0]], jnp.int32)


@pytest.fixture(scope="module")
def adapted(make):
    """(policy, params) whose B are not 0."""
    _, policy, base = make(layers=1)
    params = adapt(base, jax.random.key(0), CONFIG)
    draw = lambda path, x: x if path[-1].key == "a" else 0.3 + 0 * x
    lora = jax.tree_util.tree_map_with_path(draw, params["lora"])
    return lora_policy(policy, CONFIG), params | {"lora": lora}


def test_it_begins_as_the_policy_that_it_was(make):
    _, _, base = make(layers=1)
    params = adapt(base, jax.random.key(0), CONFIG)
    jax.tree.map(np.testing.assert_array_equal, merge(params, CONFIG), base)
    assert merge(base, CONFIG) is base
    assert np.abs(params["lora"]["mlp"]["down"]["a"]).min() > 0
    # A value head that learns is a whole one, in place of the base's.
    other = adapt(base, jax.random.key(0), replace(CONFIG, value=True))
    head = jax.tree.map(lambda x: x + 1, other["lora"]["value"])
    merged = merge(other | {"lora": other["lora"] | {"value": head}}, CONFIG)
    jax.tree.map(np.testing.assert_array_equal, merged, base | {"value": head})


def test_the_kernels_by_hand(adapted):
    """x (W + 3/2 A B), as matrices from what a kernel reads to what it gives."""
    _, params = adapted
    merged = merge(params, CONFIG)
    base, lora = params["base"]["layers"], params["lora"]
    W, out = base["attention"]["qkv"][0], base["attention"]["o"][0]
    of = lambda part, name: (np.asarray(lora[part][name][x][0]) for x in "ab")
    a, b = of("attention", "qkv")
    qkv = np.asarray(W) + 1.5 * np.einsum("dr,rx->dx", a, b).reshape(W.shape)
    np.testing.assert_allclose(
        merged["layers"]["attention"]["qkv"][0], qkv, rtol=1e-5, atol=1e-6
    )
    a, b = of("attention", "o")
    assert a.shape == (out.size // out.shape[-1], 2) and b.shape == (2, out.shape[-1])
    o = np.asarray(out) + 1.5 * (a @ b).reshape(out.shape)
    np.testing.assert_allclose(
        merged["layers"]["attention"]["o"][0], o, rtol=1e-5, atol=1e-6
    )
    np.testing.assert_array_equal(
        merged["layers"]["mlp_norm"]["scale"], base["mlp_norm"]["scale"]
    )


def test_what_it_trains_with_is_what_it_decodes_with(adapted):
    policy, params = adapted

    @jax.jit
    def both(params):
        whole = policy.forward(params, TOKENS).logits
        plain = policy.unstack(params)  # merged here, once
        size = jnp.full(2, 4)
        first, cache = policy.start(plain, TOKENS[:, :4], size, capacity=6)
        second, _ = policy.step(plain, cache, TOKENS[:, 4])
        return whole[:, 4:], jnp.stack([first.logits, second.logits], 1)

    whole, decoded = both(params)
    np.testing.assert_allclose(decoded, whole, rtol=2e-5, atol=2e-5)
    assert np.abs(whole).max() > 0.1


def test_only_the_adapters_learn_and_only_they_have_moments(adapted):
    policy, params = adapted
    config = OptimizerConfig(0.01, 0, "constant", weight_decay=0.5)
    optimizer = build_optimizer(config, 10, trainable, slim=True)
    mesh = build_mesh(MeshConfig(1, 2, 2), jax.devices()[:4])
    copy = shard(jax.tree.map(jnp.copy, params), LORA_RULES, mesh)
    state = new_state(copy, optimizer, jax.random.key(0), mesh=mesh, rules=LORA_RULES)
    moments = optax.tree.get(state.opt_state, "mu")
    sizes = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
    assert sizes(moments) == sizes(params["lora"]) < sizes(params["base"])
    ones = jnp.ones(TOKENS.shape)
    batch = TokenBatch(
        tokens=TOKENS,
        segment=ones.astype(jnp.int32),
        position=jnp.arange(6)[None] + 0 * TOKENS,
        weight=ones,
    )
    after, _ = jax.jit(build_update(imitation(policy), optimizer))(state, batch)
    jax.tree.map(np.testing.assert_array_equal, after.params["base"], params["base"])
    moved = jax.tree.map(
        lambda x, y: np.abs(x - y).max(), after.params["lora"], params["lora"]
    )
    assert min(jax.tree.leaves(moved)) > 0.005  # Adam's first step: the rate


@pytest.mark.parametrize(
    "fields, culprit",
    [
        (dict(rank=0), "rank"),
        (dict(alpha=0.0), "alpha"),
        (dict(kernels=("mlp/up",)), "kernels must be of attention/qkv"),
        (dict(kernels=()), "kernels must not be empty"),
    ],
)
def test_an_impossible_field_is_named(fields, culprit):
    with pytest.raises(ValueError, match=culprit):
        LoraConfig(**fields)
