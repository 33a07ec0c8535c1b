"""Continuous refill, seen on a policy whose answers are as long as the prompt says."""

import heapq

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from o1jax.policy.policy import Policy
from o1jax.rollout.decode import SamplerConfig, build_sampler
from o1jax.types import KVCache, PolicyOutput, Prompts

STOP, PLAIN = 1, 2
P = 3


def scripted() -> Policy:
    """Answers a prompt [n, ...] with n - 1 PLAIN and a STOP, for certain."""

    def say(cache):
        last = cache.length + 1 == cache.k
        token = jnp.where(last, STOP, PLAIN)
        zero = jnp.zeros(token.shape)
        logits = jnp.where(jax.nn.one_hot(token, 4, dtype=bool), 0.0, -1e9)
        return PolicyOutput(logits=logits, value=zero + 0.5, process=zero), cache

    def start(params, tokens, length, *, capacity):
        return say(KVCache(k=length + tokens[:, 0], v=(), length=length))

    def step(params, cache, token):
        return say(cache.replace(length=cache.length + 1))

    return Policy(None, lambda params: params, None, start, step)


def sample(answers, *, prompt_id=None, max_new_tokens=8, **shape):
    Q = len(answers)
    length = np.arange(Q) % P + 1  # ragged
    config = SamplerConfig(max_new_tokens=max_new_tokens, stop_ids=(STOP,), **shape)
    prompts = Prompts(
        tokens=jnp.tile(jnp.array(answers)[:, None], (1, P)),
        length=jnp.asarray(length),
        prompt_id=jnp.asarray(np.arange(Q) if prompt_id is None else prompt_id),
    )
    trajectory, stats = jax.jit(build_sampler(scripted(), config))(
        {}, jax.random.key(0), prompts
    )
    responses = [
        np.asarray(trajectory.tokens[row, length[row] : trajectory.length[row]])
        for row in range(Q)
    ]
    return responses, trajectory, stats


def answer(n):
    return [PLAIN] * (n - 1) + [STOP]


ANSWERS = [1, 4, 2, 1]  # 8 tokens


@pytest.mark.parametrize(
    "shape, steps, prefill",
    [
        # Row 0 answers 1, then 2, then 1 tokens; row 1 answers 4: nobody waits.
        (dict(rows=2, refill_rows=1), 4, 2 + 1 + 1),
        # Both rows must be free: steps 1-4 for (1, 4), then 2 more for (2, 1).
        (dict(rows=2, refill_rows=2), 6, 2 + 2),
        (dict(rows=1, refill_rows=1), 8, 4),
        (dict(rows=4), 4, 4),
        (dict(rows=9, refill_rows=9), 4, 4),  # no more rows than requests
    ],
)
def test_steps_and_occupancy_by_hand(shape, steps, prefill):
    responses, trajectory, stats = sample(ANSWERS, **shape)
    assert [list(r) for r in responses] == [answer(n) for n in ANSWERS]
    assert trajectory.finished.all()
    computed = steps * min(shape["rows"], 4)
    assert (stats.steps, stats.useful, stats.computed) == (steps, 8, computed)
    assert stats.prefill == prefill * P
    np.testing.assert_allclose(stats.occupancy, 8 / computed, rtol=1e-6)


def test_a_long_queue_is_scheduled_without_gaps():
    """With refill_rows 1 each free row takes the next request: list scheduling."""
    answers = np.random.default_rng(0).geometric(0.25, 60).clip(max=8)
    responses, _, stats = sample(answers, rows=4, refill_rows=1)
    assert [list(r) for r in responses] == [answer(n) for n in answers]
    # One request is read in a step, so a row may wait for its turn; never in vain.
    busy_until = [0] * 4
    heapq.heapify(busy_until)
    for n in answers:
        heapq.heapreplace(busy_until, busy_until[0] + int(n))
    assert max(busy_until) <= stats.steps <= max(busy_until) * 1.5
    assert stats.useful == sum(answers)


def test_every_request_is_answered_once_and_padding_never():
    answers = [3, 1, 5, 2, 9, 1, 1, 6, 2, 4]
    prompt_id = np.array([0, -1, 1, 2, 3, -1, -1, -1, 4, 5])
    for shape in (dict(rows=3, refill_rows=2), dict(rows=2, refill_rows=1)):
        responses, trajectory, stats = sample(answers, prompt_id=prompt_id, **shape)
        for n, name, response in zip(answers, prompt_id, responses):
            # 9 tokens are more than 8: cut, so unfinished.
            expected = [] if name < 0 else answer(n) if n <= 8 else [PLAIN] * 8
            assert list(response) == expected
        finished = (prompt_id >= 0) & (np.array(answers) <= 8)
        np.testing.assert_array_equal(trajectory.finished, finished)
        np.testing.assert_array_equal(
            trajectory.value, np.where(trajectory.response_mask, 0.5, 0)
        )
        assert stats.useful == 3 + 5 + 2 + 8 + 2 + 4


def test_a_queue_of_padding_ends_at_once():
    responses, _, stats = sample([3, 3], prompt_id=[-1, -1], rows=2)
    assert [len(r) for r in responses] == [0, 0]
    assert stats.steps == 0 and stats.useful == 0
