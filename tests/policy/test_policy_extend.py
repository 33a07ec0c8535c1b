"""Reading behind keys and values that lie in several places is reading one row."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from o1jax.policy.context import Context

F32 = dict(rtol=2e-5, atol=2e-5)
# Two problems with two leaves each: prompts of 3 and 5 tokens, then 2 .. 4, then 4 new.
PROMPT, MIDDLE = jnp.array([3, 5]), jnp.array([2, 4, 3, 2])
NEW = 4
RNG = np.random.default_rng(5)
PROMPTS = jnp.asarray(RNG.integers(0, 12, (2, 5)), jnp.int32)
MIDDLES = jnp.asarray(RNG.integers(0, 12, (4, 4)), jnp.int32)
TOKENS = jnp.asarray(RNG.integers(0, 12, (4, NEW)), jnp.int32)


def below(length, size):
    return (jnp.arange(size)[None] < length[:, None])[:, None]


def held(policy, params):
    """The prompts and, behind them, the middles: two contexts."""
    _, cache = policy.start(params, PROMPTS, PROMPT, capacity=5)
    whole = lambda layers: tuple(jnp.concatenate(x, axis=2) for x in layers)
    seen = below(jnp.repeat(PROMPT, 2), 5)
    prompt = Context(whole(cache.k), whole(cache.v), seen)
    position = jnp.repeat(PROMPT, 2)[:, None] + jnp.arange(4)[None]
    at = jnp.zeros((4, 1), jnp.int32)
    _, k, v = policy.extend(params, MIDDLES, position, [prompt], at=at)
    return prompt, Context(k, v, below(MIDDLE, 4))


def whole_rows():
    """The same text in rows, right-padded with one token at least."""
    rows = np.zeros((4, 14), np.int32)
    for r in range(4):
        parts = PROMPTS[r // 2, : PROMPT[r // 2]], MIDDLES[r, : MIDDLE[r]], TOKENS[r]
        text = np.concatenate(parts)
        rows[r, : len(text)] = text
    return jnp.asarray(rows)


@pytest.mark.parametrize("overrides", [dict(qk_norm=True), dict(tied=True, kv_heads=1)])
def test_a_row_in_three_places_is_one_row(make, overrides):
    _, policy, params = make(**overrides)
    start = jnp.repeat(PROMPT, 2) + MIDDLE

    def read(params):
        position = start[:, None] + jnp.arange(NEW)[None]
        at = jnp.broadcast_to(jnp.arange(NEW)[None], (4, NEW))
        contexts = held(policy, params)
        return policy.extend(params, TOKENS, position, contexts, at=at)[0]

    output, whole = jax.jit(read)(params), jax.jit(policy.forward)(params, whole_rows())
    for r in range(4):
        after = start[r] + jnp.arange(1, NEW + 1)
        np.testing.assert_allclose(output.logits[r], whole.logits[r, after], **F32)
        np.testing.assert_allclose(output.value[r], whole.value[r, after], **F32)
        np.testing.assert_allclose(
            output.process[r], whole.process[r, after - 1], **F32
        )
