"""Continuations come from the policy, given exactly their prefix and nothing else."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_sampler_distribution import p_value

from o1jax.rollout.continuation import continue_from, read_prefixes
from o1jax.rollout.decode import SamplerConfig, build_sampler
from o1jax.rollout.sampling import SamplingConfig, sampling_logprobs
from o1jax.types import Prompts

V = 12
# Two traces with a prompt of 3 and 2 tokens and two steps each; 0 is padding.
TOKENS = jnp.array([[3, 8, 5, 1, 2, 9, 4, 6], [7, 4, 11, 1, 10, 2, 0, 0]])
ENDS = jnp.array([[2, 4, 7], [1, 3, 5]])  # the prompt, the first step, the second
PLAIN = SamplingConfig()
GREEDY = SamplingConfig(temperature=0.0)


def key_grid(*shape, seed=0):
    return jax.random.split(jax.random.key(seed), shape)


@functools.cache  # a program is compiled once for all tests
def reader(policy, sampling):
    return jax.jit(functools.partial(read_prefixes, policy, sampling=sampling))


@functools.cache
def forward(policy):
    return jax.jit(policy.forward)


@functools.cache
def drawer(policy, sampling, *, stop_ids=(0,), room=4, rows=0):
    draw = functools.partial(
        continue_from,
        policy,
        sampling=sampling,
        stop_ids=stop_ids,
        max_new_tokens=room,
        rows=rows,
    )
    return jax.jit(draw)


def all_prefixes(make, sampling, at, keys, *, tokens=TOKENS, layers=1, **options):
    _, policy, params = make(layers=layers)
    prefixes = reader(policy, sampling)(params, tokens, ENDS)
    return drawer(policy, sampling, **options)(params, prefixes, at, keys)


@pytest.mark.parametrize(
    "sampling", [PLAIN, SamplingConfig(temperature=2.0, top_k=4)], ids=str
)
def test_pairs_come_as_often_as_their_probabilities(make, sampling):
    """Every continuation by at most 2 tokens, enumerated; token 4 stops."""
    _, policy, params = make(layers=1)
    N, stop = 3000, 4
    at = jnp.repeat(jnp.arange(3), N)[None].repeat(2, 0)
    drawn = all_prefixes(
        make, sampling, at, key_grid(2, 3 * N), stop_ids=(stop,), room=2
    )
    first, second = np.divmod(np.arange(V * V), V)
    for row in range(2):
        for j, end in enumerate(np.asarray(ENDS[row])):
            prefix = np.tile(TOKENS[row, : end + 1], (V * V, 1))
            texts = np.concatenate([prefix, first[:, None], second[:, None]], 1)
            texts = np.pad(texts, ((0, 0), (0, 10 - texts.shape[1])))  # one program
            tokens = jnp.asarray(texts, jnp.int32)
            logits = forward(policy)(params, tokens).logits
            logprobs = np.asarray(sampling_logprobs(logits, sampling), np.float64)
            rows = np.arange(V * V)
            begin = np.exp(logprobs[rows, end + 1, first])
            follow = np.exp(logprobs[rows, end + 2, second])
            follow = np.where(first == stop, second == 0, follow)  # padding
            mine = slice(j * N, (j + 1) * N)
            a, b = np.asarray(drawn.tokens[row, mine]).T
            counts = np.bincount(a * V + b, minlength=V * V)
            probabilities = begin * follow
            np.testing.assert_allclose(probabilities.sum(), 1, rtol=1e-5)
            # A true sampler fails one in a thousand of seeds; this seed is fixed.
            assert p_value(counts, probabilities) > 1e-3
            assert (counts[probabilities == 0] == 0).all()
            length = np.asarray(drawn.length[row, mine])
            np.testing.assert_array_equal(length, np.where(a == stop, 1, 2))
            finished = (a == stop) | (b == stop)
            np.testing.assert_array_equal(drawn.finished[row, mine], finished)


def test_the_likeliest_path_is_that_of_the_sampler(make):
    """Temperature 0 from every prefix, beside the sampler that reads it again."""
    _, policy, params = make(layers=1)
    at = jnp.arange(3)[None].repeat(2, 0)
    drawn = all_prefixes(make, GREEDY, at, key_grid(2, 3), room=5)
    length = (ENDS + 1).reshape(-1)
    own = jnp.arange(8)[None] < length[:, None]
    prompts = Prompts(
        tokens=jnp.where(own, jnp.repeat(TOKENS, 3, axis=0), 0),
        length=length,
        prompt_id=jnp.arange(6),
    )
    config = SamplerConfig(6, max_new_tokens=5, stop_ids=(0,), sampling=GREEDY)
    found, _ = jax.jit(build_sampler(policy, config))(
        params, jax.random.key(0), prompts
    )
    for i in range(6):
        begin, end = int(length[i]), int(found.length[i])
        row, m = divmod(i, 3)
        assert drawn.length[row, m] == end - begin
        np.testing.assert_array_equal(
            drawn.tokens[row, m, : end - begin], found.tokens[i, begin:end]
        )
        np.testing.assert_allclose(
            drawn.logprob[row, m, : end - begin], found.logprob[i, begin:end], atol=1e-5
        )


def test_recorded_logprobs_are_those_of_forward(make):
    _, policy, params = make(layers=2)
    sampling = SamplingConfig(temperature=2.0, top_k=4)
    at = jnp.array([[0, 1, 2, 2], [2, 0, 1, 1]])
    drawn = all_prefixes(make, sampling, at, key_grid(2, 4), layers=2, room=12)
    assert int(drawn.length.max()) == 12  # more than one chunk of keys and values
    texts = np.zeros((8, 20), np.int32)
    for i in range(8):
        row, m = divmod(i, 4)
        n = int(ENDS[row, at[row, m]]) + 1
        texts[i, :n] = TOKENS[row, :n]
        texts[i, n : n + 12] = drawn.tokens[row, m]
    logits = forward(policy)(params, jnp.asarray(texts)).logits
    logprobs = np.asarray(sampling_logprobs(logits, sampling))
    for i in range(8):
        row, m = divmod(i, 4)
        n, length = int(ENDS[row, at[row, m]]) + 1, int(drawn.length[row, m])
        mine = np.arange(n, n + length)
        expected = np.zeros(12, np.float32)
        expected[:length] = logprobs[i, mine, texts[i, mine]]
        np.testing.assert_allclose(drawn.logprob[row, m], expected, atol=1e-5)


def test_a_continuation_depends_on_its_prefix_and_key_alone(make):
    """Not on what its trace goes on with, its padding, its neighbours or its place."""
    _, policy, params = make(layers=1)
    at, keys = jnp.array([[1, 1, 0], [0, 2, 1]]), key_grid(2, 3)
    drawn = all_prefixes(make, PLAIN, at, keys)
    behind = jnp.arange(8)[None] > ENDS[:, 1:2]
    other = jnp.where(behind, 6, TOKENS)  # another second step
    again = all_prefixes(make, PLAIN, at, keys, tokens=other)
    kept = np.asarray(at) < 2
    np.testing.assert_array_equal(again.tokens[kept], drawn.tokens[kept])
    assert (np.asarray(again.logprob)[1, 1] != np.asarray(drawn.logprob)[1, 1]).any()

    wide = jnp.pad(TOKENS[::-1], ((0, 1), (0, 5)), constant_values=3)
    ends = jnp.concatenate([ENDS[::-1], jnp.full((1, 3), -1)])
    prefixes = reader(policy, PLAIN)(params, wide, ends)
    prefixes = prefixes.take(jnp.array([1, 2, 0]))  # trace 0, none, trace 1
    shuffled = jnp.array([[0, 1, 1], [0, 1, -1], [1, 2, 0]])
    keys = jnp.stack([keys[0, ::-1], keys[1], keys[1, ::-1]])
    found = drawer(policy, PLAIN)(params, prefixes, shuffled, keys)
    for name in ("tokens", "length", "finished"):
        mine = np.asarray(getattr(found, name))[[0, 2], ::-1]
        np.testing.assert_array_equal(mine, getattr(drawn, name))
    logprob = np.asarray(found.logprob)[[0, 2], ::-1]
    np.testing.assert_allclose(logprob, drawn.logprob, atol=1e-5)
    # Nothing was asked of the middle row, and nothing came.
    for name in ("tokens", "logprob", "length", "finished"):
        assert not np.asarray(getattr(found, name)[1]).any()
    assert found.computed == 9 * (found.length.max() - 1)  # the last is not read


def test_rows_in_turns_draw_the_same_and_compute_less(make):
    """Groups of 2 and 1 traces: each stops with its own longest row."""
    _, policy, params = make(layers=1)
    flat = SamplingConfig(temperature=2.0)
    prefixes = reader(policy, flat)(params, TOKENS, ENDS)
    prefixes = prefixes.take(jnp.array([0, 1, 0]))
    at = jnp.array([[0, 2], [1, 2], [1, -1]])
    keys = key_grid(3, 2, seed=1)
    whole = drawer(policy, flat, stop_ids=(1, 4))(params, prefixes, at, keys)
    parts = drawer(policy, flat, stop_ids=(1, 4), rows=5)(params, prefixes, at, keys)
    for name in ("tokens", "length", "finished"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))
    np.testing.assert_allclose(parts.logprob, whole.logprob, atol=1e-5)
    longest = np.asarray(whole.length).max(1)
    read = longest - 1  # the last token of a row is not read
    assert whole.computed == 6 * read.max()
    assert parts.computed == 4 * read[:2].max() + 4 * read[2]  # one is filled up
    assert longest[2] < longest[:2].max()


def test_a_stop_token_ends_its_own_row_alone(make):
    """Also as the first token, which is drawn from what was read before."""
    stops = (1, 4)
    flat = SamplingConfig(temperature=2.0)
    at = jnp.tile(jnp.arange(3), (2, 8))
    drawn = all_prefixes(make, flat, at, key_grid(2, 24), stop_ids=stops)
    ended = np.isin(np.asarray(drawn.tokens), stops)
    np.testing.assert_array_equal(ended.any(-1), drawn.finished)
    length = np.where(ended.any(-1), ended.argmax(-1) + 1, 4)
    np.testing.assert_array_equal(length, drawn.length)
    assert {1, 2, 4} <= set(length.ravel().tolist())  # or there is little to see
    behind = np.arange(4) >= length[..., None]
    assert not np.asarray(drawn.tokens)[behind].any()
    assert not np.asarray(drawn.logprob)[behind].any()


def test_the_heads_are_those_behind_the_prefix(make):
    _, policy, params = make(layers=1)
    prefixes = reader(policy, PLAIN)(params, TOKENS, ENDS)
    output = forward(policy)(params, jnp.pad(TOKENS, ((0, 0), (0, 1))))
    rows = jnp.arange(2)[:, None]
    np.testing.assert_allclose(prefixes.value, output.value[rows, ENDS + 1], atol=1e-5)
    np.testing.assert_allclose(prefixes.process, output.process[rows, ENDS], atol=1e-5)
    np.testing.assert_array_equal(prefixes.length, ENDS + 1)
