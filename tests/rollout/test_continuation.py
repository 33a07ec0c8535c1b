"""Continuations come from the policy, given exactly their prefix and nothing else."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_sampler_distribution import p_value

from o1jax.rollout.continuation import NONE, continue_from, read_prefixes
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
def drawer(policy, sampling, *, stop_ids=(0,), room=4, rows=64):
    draw = functools.partial(
        continue_from,
        policy,
        sampling=sampling,
        stop_ids=stop_ids,
        max_new_tokens=room,
        rows=rows,
    )

    def one_of_each(params, prefixes, at, keys):
        """A continuation of each place i32[B, P]: fields without their third axis."""
        drawn = draw(params, prefixes, at, keys[..., None])
        single = lambda x: x[:, :, 0] if x.ndim else x
        return jax.tree.map(single, drawn)

    return jax.jit(one_of_each)


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
    of_all = jnp.array([1, 2, 0])  # trace 0, none, trace 1
    prefixes = jax.tree.map(lambda x: x[of_all], prefixes)
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


FLAT = SamplingConfig(temperature=2.0)
STOPS = (1, 4)


@functools.cache
def several(policy, sampling, *, stop_ids, room, rows, together=True):
    draw = functools.partial(continue_from, policy, sampling=sampling)
    shape = {"stop_ids": stop_ids, "max_new_tokens": room, "rows": rows}
    return jax.jit(functools.partial(draw, together=together, **shape))


@pytest.mark.parametrize("sampling", [FLAT, SamplingConfig(temperature=0.5)], ids=str)
@pytest.mark.parametrize(
    "rows, together", [(1, True), (3, True), (64, True), (0, False)]
)
def test_continuations_that_begin_alike_are_those_drawn_one_by_one(
    make, sampling, rows, together
):
    """Paths are shared as long as they agree, whichever rows walk the trees."""
    _, policy, params = make(layers=2)
    prefixes = reader(policy, sampling)(params, TOKENS, ENDS)
    at, M = jnp.array([[2, 0, NONE, 1], [0, NONE, 2, 0]]), 16
    keys = key_grid(2, 4, M, seed=3)
    shape = {"stop_ids": (0, 4), "room": 7}
    draw = several(policy, sampling, rows=rows, together=together, **shape)
    found = draw(params, prefixes, at, keys)
    alone = drawer(policy, sampling, **shape)
    beside = lambda x: jnp.repeat(x, M, axis=1)
    one = alone(params, prefixes, beside(at), keys.reshape(2, 4 * M))
    together = lambda x: np.asarray(x).reshape(2, 4, M, *x.shape[2:])
    for name in ("tokens", "length", "finished"):
        expected = together(getattr(one, name))
        np.testing.assert_array_equal(getattr(found, name), expected)
    np.testing.assert_allclose(found.logprob, together(one.logprob), atol=1e-5)
    different = len(np.unique(np.asarray(found.tokens).reshape(8 * M, -1), axis=0))
    assert 8 < different < 5 * M  # or there is little to see: 5 places are asked for


def beginnings(tokens, length):
    """Different beginnings that a reader of these continuations must read.

    What follows a continuation's last token is asked of nobody.
    """
    texts = [tuple(t[:n]) for t, n in zip(tokens.tolist(), length.tolist())]
    return len({t[:n] for t in texts for n in range(1, len(t))})


def test_a_row_reads_each_different_beginning_once(make):
    """And one more for each prefix, as the last token of it is not followed."""
    _, policy, params = make(layers=1)
    prefixes = reader(policy, FLAT)(params, TOKENS, ENDS)
    at, M, room = jnp.arange(3)[None].repeat(2, 0), 32, 5
    keys = key_grid(2, 3, M, seed=1)
    draw = several(policy, FLAT, stop_ids=STOPS, room=room, rows=1)
    found = draw(params, prefixes, at, keys)
    tokens, length = np.asarray(found.tokens), np.asarray(found.length)
    read = sum(
        beginnings(tokens[b, p], length[b, p]) for b in range(2) for p in range(3)
    )
    assert found.computed == read + 6
    assert read < (length - 1).sum()


def test_rows_take_other_prefixes_when_they_are_done(make):
    """Of two rows none waits for the other, so both together take half as long."""
    _, policy, params = make(layers=1)
    prefixes = reader(policy, FLAT)(params, TOKENS, ENDS)
    at = jnp.tile(jnp.arange(3), (2, 8))
    keys = key_grid(2, 24, 2, seed=1)
    steps = {}
    for rows in (1, 2):
        draw = several(policy, FLAT, stop_ids=STOPS, room=5, rows=rows)
        steps[rows] = int(draw(params, prefixes, at, keys).computed) / rows
    assert steps[2] <= steps[1] / 2 + 2 * 5


def test_nothing_is_read_where_nothing_is_asked(make):
    _, policy, params = make(layers=1)
    prefixes = reader(policy, PLAIN)(params, TOKENS, ENDS)
    at = jnp.full((2, 3), NONE)
    draw = several(policy, PLAIN, stop_ids=STOPS, room=5, rows=2)
    found = draw(params, prefixes, at, key_grid(2, 3, 2))
    assert not any(np.asarray(x).any() for x in jax.tree.leaves(found))


def test_a_stop_token_ends_its_own_row_alone(make):
    """Also as the first token, which is drawn from what was read before."""
    at = jnp.tile(jnp.arange(3), (2, 8))
    drawn = all_prefixes(make, FLAT, at, key_grid(2, 24), stop_ids=STOPS)
    ended = np.isin(np.asarray(drawn.tokens), STOPS)
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
