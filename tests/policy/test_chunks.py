"""Losses that make the logits of a few positions at a time: the same numbers."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from o1jax.learn.objectives import imitation
from o1jax.learn.reading import read_responses
from o1jax.parallel.mesh import MeshConfig, build_mesh, put_batch
from o1jax.parallel.sharding import TRANSFORMER_RULES, shard
from o1jax.policy.lora import LoraConfig, adapt, lora_policy
from o1jax.types import TokenBatch

B, T = 8, 7  # chunks of 3: the last one is padded
F32 = dict(rtol=2e-5, atol=2e-5)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(5)
    segment = np.repeat([[1, 1, 1, 2, 2, 2, 0]], B, axis=0).astype(np.int32)
    return TokenBatch(
        tokens=rng.integers(0, 12, (B, T)).astype(np.int32),
        segment=segment,
        position=np.repeat([[0, 1, 2, 0, 1, 2, 0]], B, axis=0).astype(np.int32),
        weight=rng.random((B, T)).astype(np.float32) * (segment > 0),
    )


@pytest.mark.parametrize("tied", [False, True])
def test_imitation_by_chunks(make, batch, tied):
    """Loss, accuracy and every gradient; on 8 devices, matrices cut over two."""
    _, policy, params = make(layers=1, tied=tied)
    _, chunked, _ = make(layers=1, tied=tied, logit_chunk=3)
    graded = lambda p: jax.jit(jax.value_and_grad(imitation(p).total, has_aux=True))
    expected = graded(policy)(params, batch)
    mesh = build_mesh(MeshConfig(2, 2, 2))
    on_mesh = shard(params, TRANSFORMER_RULES, mesh), put_batch(mesh, batch)
    close = lambda a, b: np.testing.assert_allclose(a, b, **F32)
    jax.tree.map(close, graded(chunked)(*on_mesh), expected)
    if not tied:
        jax.tree.map(close, graded(chunked)(params, batch), expected)


def test_no_array_holds_all_logits(make):
    _, policy, params = make(vocab=999)
    _, chunked, _ = make(vocab=999, logit_chunk=3)
    tokens = jnp.zeros((B, 60), jnp.int32)
    rows = tokens, jnp.full(B, 2), jnp.full(B, 60)

    def held(policy):
        total = lambda p: jnp.sum(read_responses(policy, p, *rows).logprob)
        return f"f32[{B},60,999]" in str(jax.make_jaxpr(jax.grad(total))(params))

    assert held(policy) and not held(chunked)


def test_responses_by_chunks_under_adapters(make):
    """Values come too, and adapters reach a policy that reads by chunks."""
    tokens = np.random.default_rng(2).integers(0, 12, (B, T)).astype(np.int32)
    rows = tokens, np.full(B, 2, np.int32), np.arange(B, dtype=np.int32) % 4 + 4
    found = []
    for more in ({}, {"logit_chunk": 4}):
        _, policy, params = make(layers=1, **more)
        config = LoraConfig(rank=2)
        adapted = adapt(params, jax.random.key(1), config)
        adapted["lora"] = jax.tree.map(lambda x: x + 0.1, adapted["lora"])
        policy = lora_policy(policy, config)
        read = jax.jit(partial(read_responses, policy))
        found.append(read(adapted, *rows))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **F32), *found)
    assert np.any(found[0].value)


def test_a_chunk_is_positive(make):
    with pytest.raises(ValueError, match="logit_chunk must be positive"):
        make(logit_chunk=0)
