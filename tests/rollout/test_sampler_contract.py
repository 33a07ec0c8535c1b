"""What the sampler records is what the trainer computes from the same tokens."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from o1jax.rollout.decode import SamplerConfig, build_sampler
from o1jax.rollout.sampling import SamplingConfig, sampling_logprobs, token_logprob
from o1jax.types import Prompts

NEW = 8
STOP = (1, 2)
LENGTH = jnp.array([4, 1, 5, 2, 2, 3, 5, 1, 3])
PROMPT_ID = jnp.array([0, 1, -1, 2, 3, 4, 5, 6, -1])  # two rows of padding
TOKENS = jnp.asarray(np.random.default_rng(2).integers(3, 12, (9, 5)), jnp.int32)
PROMPTS = Prompts(
    tokens=jnp.where(jnp.arange(5)[None] < LENGTH[:, None], TOKENS, 0),
    length=LENGTH,
    prompt_id=PROMPT_ID,
)
AT_ONCE = dict(rows=16)
REFILL = dict(rows=3, refill_rows=2)
SMALL = dict(layers=1, cache_chunk=64)  # one branch less to compile
GRID = [
    SamplingConfig(temperature, top_k, top_p)
    for temperature, top_k, top_p in itertools.product(
        (0.0, 0.7, 1.0, 1.5), (0, 3), (1.0, 0.8)
    )
]


def sampler_of(policy, shape, sampling):
    config = SamplerConfig(
        max_new_tokens=NEW, stop_ids=STOP, sampling=sampling, **shape
    )
    return jax.jit(build_sampler(policy, config))


def trained(policy, params, trajectory, sampling):
    """What a trainer computes: log-probs of the sampling distribution, and values."""
    output = jax.jit(policy.forward)(params, trajectory.tokens)
    logprobs = sampling_logprobs(output.logits, sampling)
    logprob = token_logprob(logprobs, trajectory.tokens)
    mask = trajectory.response_mask
    return jnp.where(mask, logprob, 0), jnp.where(mask, output.value, 0)


def check_shape(trajectory):
    """Masks, lengths, ends and padding, one row at a time. Returns ends by kind."""
    stopped = []
    trajectory, mask = jax.device_get((trajectory, trajectory.response_mask))
    for row in range(len(LENGTH)):
        start, end = int(LENGTH[row]), int(trajectory.length[row])
        tokens, response = trajectory.tokens[row], trajectory.tokens[row, start:end]
        inside = [start <= t < end for t in range(5 + NEW)]
        np.testing.assert_array_equal(mask[row], inside)
        np.testing.assert_array_equal(tokens[:start], PROMPTS.tokens[row, :start])
        np.testing.assert_array_equal(tokens[end:], 0)
        assert not np.isin(response[:-1], STOP).any()
        if PROMPT_ID[row] < 0:
            assert len(response) == 0 and not trajectory.finished[row]
        elif trajectory.finished[row]:
            assert response[-1] in STOP
            stopped.append(True)
        else:
            assert len(response) == NEW and response[-1] not in STOP
            stopped.append(False)
    np.testing.assert_array_equal(trajectory.prompt_id, PROMPT_ID)
    np.testing.assert_array_equal(trajectory.prompt_length, LENGTH)
    return stopped


# Every setting with all rows at once, and some with a refill into a chunked cache.
CASES = [(AT_ONCE, SMALL, sampling) for sampling in GRID]
CASES += [(REFILL, dict(), sampling) for sampling in (GRID[0], GRID[7])]


@pytest.mark.parametrize("shape, size, sampling", CASES, ids=str)
def test_recorded_numbers_are_the_trainers(make, shape, size, sampling):
    _, policy, params = make(qk_norm=True, **size)
    sampler = sampler_of(policy, shape, sampling)
    trajectory, stats = sampler(params, jax.random.key(0), PROMPTS)
    logprob, value = trained(policy, params, trajectory, sampling)
    np.testing.assert_allclose(trajectory.logprob, logprob, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(trajectory.value, value, rtol=2e-5, atol=2e-5)
    assert np.abs(trajectory.value).max() > 0.1
    check_shape(trajectory)
    assert stats.useful == np.sum(trajectory.response_mask)


@pytest.fixture(scope="module")
def plain(make):
    """All rows at once, no setting: (policy, params, sampler, trajectory)."""
    _, policy, params = make(qk_norm=True, **SMALL)
    sampler = sampler_of(policy, AT_ONCE, SamplingConfig())
    trajectory, _ = sampler(params, jax.random.key(0), PROMPTS)
    return policy, params, sampler, trajectory


def test_both_kinds_of_end_are_seen(plain):
    stopped = check_shape(plain[-1])
    assert any(stopped) and not all(stopped)


def same(a, b, rows=slice(None)):
    """The same samples; numbers to f32 rounding, since programs differ in shape."""
    for name in ("tokens", "length", "finished"):
        np.testing.assert_array_equal(getattr(a, name)[rows], getattr(b, name)[rows])
    for name in ("logprob", "value"):
        np.testing.assert_allclose(
            getattr(a, name)[rows], getattr(b, name)[rows], rtol=2e-5, atol=2e-5
        )


@pytest.mark.parametrize("rows, refill_rows", [(1, 1), (3, 0), (4, 3)])
def test_the_number_of_rows_changes_no_sample(plain, rows, refill_rows):
    policy, params, _, expected = plain
    shape = dict(rows=rows, refill_rows=refill_rows)
    sampler = sampler_of(policy, shape, SamplingConfig())
    trajectory, _ = sampler(params, jax.random.key(0), PROMPTS)
    same(trajectory, expected)


def test_neighbours_and_keys_of_others_change_no_sample(plain):
    _, params, sampler, expected = plain
    others = PROMPTS.replace(
        tokens=PROMPTS.tokens.at[4].set(7), length=LENGTH.at[4].set(5)
    )
    trajectory, _ = sampler(params, jax.random.key(0), others)
    keep = np.array([0, 1, 2, 3, 5, 6, 7, 8])
    same(trajectory, expected, keep)
    assert (trajectory.tokens[4] != expected.tokens[4]).any()
    trajectory, _ = sampler(params, jax.random.key(1), PROMPTS)
    assert (trajectory.tokens != expected.tokens).any()


def test_requests_with_keys_of_their_own_may_come_in_any_order(plain):
    policy, params, _, expected = plain
    keys = jax.vmap(lambda q: jax.random.fold_in(jax.random.key(0), q))(jnp.arange(9))
    order = np.array([5, 2, 8, 0, 7, 1, 3, 6, 4])
    sampler = sampler_of(policy, REFILL, SamplingConfig())
    shuffled = jax.tree.map(lambda x: x[order], PROMPTS)
    trajectory, _ = sampler(params, keys[order], shuffled)
    same(trajectory, jax.tree.map(lambda x: x[order], expected))


@pytest.mark.parametrize(
    "sampling", [SamplingConfig(0.7), SamplingConfig(1.0, 3, 0.8)], ids=str
)
def test_in_bfloat16_the_trainer_agrees_to_its_rounding(make, sampling):
    _, policy, params = make(qk_norm=True, dtype="bfloat16", cache_chunk=64)
    sampler = sampler_of(policy, REFILL, sampling)
    trajectory, _ = sampler(params, jax.random.key(0), PROMPTS)
    logprob, value = trained(policy, params, trajectory, sampling)
    # Where rounding moves a token over the border of top-k or top-p, the trainer gives
    # -inf to it, or another share to the rest (1 in 80 at worst, 512 tokens, top-k 5).
    mask = np.asarray(trajectory.response_mask & jnp.isfinite(logprob))
    assert mask.sum() >= 0.95 * np.sum(trajectory.response_mask)
    typical = lambda x: 1.5 * np.median(np.abs(x)[mask])  # sigma, without the tails
    # Sampler and trainer each round some 25 times by 2^-9 on the way through the layers
    # (see test_policy_forward); independent, that is sqrt(50) * 2^-9 = 1.4 % of a logit
    # between the two. Logits here have standard deviation 1.4. Within a factor of 2.
    bound = 50**0.5 * 2.0**-9
    error = typical(trajectory.logprob - logprob)
    assert 0 < error < 2 * 1.4 * bound / sampling.temperature
    assert 0 < typical(trajectory.value - value) < 2 * bound * typical(value)


def test_other_values_of_the_same_shapes_compile_nothing(plain):
    _, params, sampler, _ = plain
    other = jax.tree.map(lambda x: x + 0.1, params)
    sampler(params, jax.random.key(0), PROMPTS)
    sampler(params, jax.random.key(1), PROMPTS)
    sampler(other, jax.random.key(0), PROMPTS.replace(length=LENGTH[::-1]))
    sampler(params, jax.random.key(0), PROMPTS.replace(prompt_id=PROMPT_ID * 0))
    assert sampler._cache_size() == 1
    sampler(params, jax.random.key(0), jax.tree.map(lambda x: x[:1], PROMPTS))
    assert sampler._cache_size() == 2  # so the count does count


@pytest.mark.parametrize(
    "fields, culprit",
    [
        (dict(rows=0), "rows"),
        (dict(max_new_tokens=0), "max_new_tokens"),
        (dict(refill_rows=-1), "refill_rows"),
        (dict(rows=2, refill_rows=3), "refill_rows"),
    ],
)
def test_an_impossible_shape_is_named(fields, culprit):
    with pytest.raises(ValueError, match=culprit):
        SamplerConfig(**fields)
