"""Reading a prompt and then token by token gives what reading the whole row gives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from o1jax.policy.attention import chunk_sizes, write_cached

P, CAPACITY = 5, 14
LENGTH = jnp.array([1, 5, 3, 4])  # of the prompts; 13 steps fill the shortest row
STEPS = CAPACITY - 1
TOKENS = jnp.asarray(np.random.default_rng(1).integers(0, 12, (4, CAPACITY)), jnp.int32)
F32 = dict(rtol=2e-5, atol=2e-5)

VARIANTS = [
    dict(qk_norm=True),  # in chunks of 4, 4, 6
    dict(tied=True, kv_heads=4, cache_chunk=1),  # 1, 1, 2, 4, 6
    dict(kv_heads=1, cache_chunk=64),  # one chunk
]


def decode(policy, params, tokens, junk):
    """Outputs stacked by step: [1 + STEPS, B, ...]; step 0 is `start`'s."""
    at = jnp.arange(P)[None]
    prompts = jnp.where(at < LENGTH[:, None], tokens[:, :P], junk)
    first, cache = policy.start(params, prompts, LENGTH, capacity=CAPACITY)

    def step(cache, i):
        at = jnp.minimum(LENGTH + i, CAPACITY - 1)[:, None]
        token = jnp.take_along_axis(tokens, at, axis=1)[:, 0]
        output, cache = policy.step(params, cache, token)
        return cache, output

    _, outputs = jax.lax.scan(step, cache, jnp.arange(STEPS))
    join = lambda a, b: jnp.concatenate([a[None], b])
    return jax.tree.map(join, first, outputs)


@pytest.fixture(scope="module")
def decoder():
    return functools.cache(lambda policy: jax.jit(functools.partial(decode, policy)))


@pytest.mark.parametrize("overrides", VARIANTS)
def test_start_and_step_are_forward_at_every_position(make, decoder, overrides):
    """Ragged rows; those past their capacity go on and must not disturb the others."""
    _, policy, params = make(**overrides)
    whole = jax.jit(policy.forward)(params, TOKENS)
    read = decoder(policy)(params, TOKENS, 7)
    for row, length in enumerate(LENGTH):
        # The last token's output is about a token behind the row: process has it only.
        count = CAPACITY - length
        for name in ("logits", "value"):
            np.testing.assert_allclose(
                getattr(read, name)[:count, row],
                getattr(whole, name)[row, length:],
                err_msg=f"{name} of row {row}",
                **F32,
            )
        np.testing.assert_allclose(
            read.process[: count + 1, row], whole.process[row, length - 1 :], **F32
        )


def test_rows_past_their_capacity_leave_the_others_alone(make, decoder):
    """The longest row overflows for 4 steps; whatever it reads, row 0 is the same."""
    _, policy, params = make(qk_norm=True)
    plain = decoder(policy)(params, TOKENS, 7)
    other = decoder(policy)(params, TOKENS.at[1].set(3), 7)
    others = lambda outputs: jax.tree.map(lambda x: x[:, (0, 2, 3), ...], outputs)
    jax.tree.map(np.testing.assert_array_equal, others(plain), others(other))
    assert jnp.abs(plain.logits[:9, 1] - other.logits[:9, 1]).max() > 0.01
    assert jnp.isfinite(other.logits).all()


def test_unstacked_parameters_are_the_same_policy(make, decoder):
    _, policy, params = make(qk_norm=True)
    unstacked = policy.unstack(params)
    assert len(unstacked["layers"]) == 2
    assert policy.unstack(unstacked) is unstacked
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6),
        decoder(policy)(params, TOKENS, 7),
        decoder(policy)(unstacked, TOKENS, 7),
    )


def test_bfloat16_decodes_from_a_bfloat16_cache(make):
    _, policy, params = make(dtype="bfloat16")
    start = functools.partial(policy.start, capacity=CAPACITY)
    output, cache = jax.eval_shape(start, params, TOKENS[:, :P], LENGTH)
    output, cache = jax.eval_shape(policy.step, params, cache, LENGTH)
    assert {x.dtype for x in jax.tree.leaves((cache.k, cache.v))} == {
        jnp.dtype(jnp.bfloat16)
    }
    assert {x.dtype for x in jax.tree.leaves(output)} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize(
    "capacity, first, sizes",
    [
        (14, 4, [4, 4, 6]),
        (100, 16, [16, 16, 32, 36]),
        (64, 64, [64]),
        (10, 64, [10]),
        (5, 1, [1, 1, 2, 1]),
    ],
)
def test_chunks_double_and_end_at_the_capacity(capacity, first, sizes):
    assert chunk_sizes(capacity, first) == sizes


def test_a_row_is_written_at_its_own_position_or_nowhere():
    chunks = tuple(jnp.zeros((4, 1, size, 2)) for size in (4, 4, 6))
    new = jnp.arange(1.0, 9.0).reshape(4, 1, 2)
    position = jnp.array([0, 7, 13, 14])  # the last is one past the end
    written = jnp.concatenate(write_cached(chunks, new, position), axis=2)
    expected = np.zeros((4, 1, 14, 2))
    for row in range(3):
        expected[row, 0, position[row]] = new[row, 0]
    np.testing.assert_array_equal(written, expected)
