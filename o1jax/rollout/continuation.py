"""Continuations of the beginnings of texts: what Monte-Carlo labels are made of.

In: whole traces, and places in them. Out: continuations drawn behind those places. A
trace is read once, by `read_prefixes`; all continuations of all its beginnings attend
to the keys and values of that one reading (`continue_from`), each up to its own place,
so that no token of a prefix is read twice. Used as rollouts of steps by Wang et al.
2023 (Math-Shepherd), arXiv 2312.08935.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import chex
import flax.struct
import jax
import jax.numpy as jnp

from o1jax.policy.attention import chunk_sizes
from o1jax.policy.context import Context
from o1jax.policy.policy import Policy
from o1jax.rollout.sampling import (
    SamplingConfig,
    draw,
    sampling_logprobs,
    token_logprob,
)
from o1jax.types import Params

NONE = -1
TILE = 8  # traces are read in whole tiles: products over them are 7 % faster on CPU
CHUNK = 8  # tokens of a continuation that are kept together at first; then they double


@flax.struct.dataclass(kw_only=True)
class Prefixes:
    """Traces that were read, and J places in each behind which to continue."""

    k: tuple[jax.Array, ...]  # L x [B, Hkv, T, E]
    v: tuple[jax.Array, ...]
    length: jax.Array  # i32[B, J]  tokens of the prefix; 0: no such place
    next: jax.Array  # f32[B, J, V]  log-probs of the token behind it, as sampled
    value: jax.Array  # f32[B, J]    value head in front of that token
    process: jax.Array  # f32[B, J]  process head at the prefix's last token

    def take(self, rows: jax.Array) -> "Prefixes":
        """Those of traces `rows` i32[b], in that order."""
        return jax.tree.map(lambda x: jnp.take(x, rows, axis=0), self)


@flax.struct.dataclass(kw_only=True)
class Continuations:
    """What was drawn behind M prefixes of each trace, without the prefix itself."""

    tokens: jax.Array  # i32[B, M, S]   right-padded with 0
    logprob: jax.Array  # f32[B, M, S]  of the sampling distribution; 0 on padding
    length: jax.Array  # i32[B, M]      0 where none was asked for
    finished: jax.Array  # bool[B, M]   a stop token was drawn (it is the last token)
    computed: jax.Array  # i32[]  tokens that were read, those of idle rows too


def read_prefixes(
    policy: Policy,
    params: Params,
    tokens: jax.Array,
    ends: jax.Array,
    *,
    sampling: SamplingConfig,
) -> Prefixes:
    """Reads traces i32[B, T], right-padded, once.

    Args:
      ends: i32[B, J], the last token of each prefix: a step end, or the prompt's last
        token. -1: none.
    """
    B, T = tokens.shape
    chex.assert_rank(ends, 2)
    chex.assert_axis_dimension(ends, 0, B)
    T += -T % TILE
    tokens = jnp.pad(tokens, ((0, 0), (0, T - tokens.shape[1])))
    position = jnp.broadcast_to(jnp.arange(T), (B, T))
    output, k, v = policy.extend(
        policy.unstack(params), tokens, position, [], at=jnp.maximum(ends, 0)
    )
    return Prefixes(
        k=k,
        v=v,
        length=ends + 1,
        next=sampling_logprobs(output.logits, sampling),
        value=output.value,
        process=output.process,
    )


def continue_from(
    policy: Policy,
    params: Params,
    prefixes: Prefixes,
    at: jax.Array,
    keys: jax.Array,
    *,
    sampling: SamplingConfig,
    stop_ids: tuple[int, ...],
    max_new_tokens: int,
    rows: int = 0,
) -> Continuations:
    """Draws a continuation behind prefix `at` of each trace, M times.

    Rows that are drawn together run until the longest has ended, so ask in one call for
    prefixes that have about as much in front of them, such as the same step of all
    traces.

    Args:
      at: i32[B, M], which of the J prefixes; -1 draws nothing, and so does a prefix
        that is not there.
      keys: key[B, M]. What is drawn depends on the prefix and its own key alone.
      rows: drawn together, at most, but at least a trace's. 0: all; on CPU 64, whose
        keys and values stay in its cache (a quarter faster than 512 at once).
    """
    B, M = at.shape
    chex.assert_shape(keys, (B, M))
    chex.assert_axis_dimension(prefixes.length, 0, B)
    rows = rows or (64 if jax.default_backend() == "cpu" else B * M)
    group = min(B, max(1, rows // M))
    params = policy.unstack(params)
    # The last group is filled up with the last trace, which ends when that one does.
    index = jnp.minimum(jnp.arange(-(-B // group) * group), B - 1).reshape(-1, group)
    draw_some = lambda index: _continue(
        policy,
        params,
        prefixes.take(index),
        at[index],
        keys[index],
        sampling,
        stop_ids,
        max_new_tokens,
    )
    drawn = jax.lax.map(draw_some, index)
    together = lambda x: x.reshape(-1, *x.shape[2:])[:B]
    return Continuations(
        tokens=together(drawn.tokens),
        logprob=together(drawn.logprob),
        length=together(drawn.length),
        finished=together(drawn.finished),
        computed=jnp.sum(drawn.computed),
    )


class _Drawn(NamedTuple):
    """R continuations so far."""

    going: jax.Array  # bool[R]  another token is to come
    token: jax.Array  # i32[R]  the last one
    tokens: jax.Array  # i32[R, S]
    logprob: jax.Array  # f32[R, S]
    length: jax.Array  # i32[R]
    finished: jax.Array  # bool[R]


# (what is drawn, t, log-probs f32[R, V]) -> what is drawn with token t
_Emit = Callable[[_Drawn, jax.Array | int, jax.Array], _Drawn]


def _continue(
    policy: Policy,
    params: Params,
    prefixes: Prefixes,
    at: jax.Array,
    keys: jax.Array,
    sampling: SamplingConfig,
    stop_ids: tuple[int, ...],
    max_new_tokens: int,
) -> Continuations:
    """All rows at once."""
    B, M = at.shape
    R, S = B * M, max_new_tokens
    place = jnp.maximum(at, 0)
    of_place = lambda x: jnp.take_along_axis(
        x, jnp.expand_dims(place, range(2, x.ndim)), axis=1
    ).reshape(R, *x.shape[2:])
    length = of_place(prefixes.length)
    uniform = jax.vmap(partial(jax.random.uniform, shape=(S,)))(keys.reshape(-1))

    def emit(drawn: _Drawn, t: jax.Array | int, logprobs: jax.Array) -> _Drawn:
        going = drawn.going
        token = draw(uniform[:, t], logprobs, sampling)
        stopped = jnp.isin(token, jnp.array(stop_ids, jnp.int32))
        put = lambda rows, new: rows.at[:, t].set(jnp.where(going, new, 0))
        return _Drawn(
            going=going & ~stopped & (t + 1 < S),
            token=token,
            tokens=put(drawn.tokens, token),
            logprob=put(drawn.logprob, token_logprob(logprobs, token)),
            length=drawn.length + going,
            finished=drawn.finished | (going & stopped),
        )

    zeros = jnp.zeros(R, jnp.int32)
    drawn = _Drawn(
        going=(at.reshape(-1) > NONE) & (length > 0),
        token=zeros,
        tokens=jnp.zeros((R, S), jnp.int32),
        logprob=jnp.zeros((R, S)),
        length=zeros,
        finished=jnp.zeros(R, bool),
    )
    drawn = emit(drawn, 0, of_place(prefixes.next))
    slot = jnp.arange(prefixes.k[0].shape[2])
    held = [Context(prefixes.k, prefixes.v, (slot[None] < length[:, None])[:, None])]
    begin = 0
    for size in chunk_sizes(S - 1, CHUNK) if S > 1 else ():  # the last is not read
        drawn, chunk = _read_chunk(
            policy, params, drawn, begin, size, length, held, emit, sampling
        )
        held.append(chunk)
        begin += size
    shape = lambda x: x.reshape(B, M, *x.shape[1:])
    return Continuations(
        tokens=shape(drawn.tokens),
        logprob=shape(drawn.logprob),
        length=shape(drawn.length),
        finished=shape(drawn.finished),
        computed=jnp.maximum(jnp.max(drawn.length) - 1, 0) * R,
    )


def _read_chunk(
    policy: Policy,
    params: Params,
    drawn: _Drawn,
    begin: int,
    size: int,
    length: jax.Array,
    held: Sequence[Context],
    emit: _Emit,
    sampling: SamplingConfig,
) -> tuple[_Drawn, Context]:
    """Reads tokens begin .. begin + size - 1 of all rows; each gives the next one.

    A chunk has keys and values of its own, so that the first tokens of a continuation
    do not attend to room for the last ones.
    """
    R = length.shape[0]
    slot = begin + jnp.arange(size)

    def keep(pages: tuple, new: tuple, t: jax.Array) -> tuple:
        """With those of token t - 1; written late, see branch.draw_step."""
        put = lambda page, new: jax.lax.dynamic_update_slice_in_dim(
            page, new, jnp.maximum(t - 1 - begin, 0), axis=2
        )
        return jax.tree.map(put, pages, new)

    def read(carry: tuple) -> tuple:
        t, new, pages, drawn = carry
        pages = keep(pages, new, t)
        output, *new = policy.extend(
            params,
            drawn.token[:, None],
            (length + t)[:, None],
            [*held, Context(*pages, (slot < t)[None, None])],
            at=jnp.zeros((R, 1), jnp.int32),
        )
        logprobs = sampling_logprobs(output.logits[:, 0], sampling)
        return t + 1, tuple(new), pages, emit(drawn, t + 1, logprobs)

    page = lambda x: jnp.zeros((R, x.shape[1], size, x.shape[3]), x.dtype)
    pages = jax.tree.map(page, (held[0].k, held[0].v))
    new = jax.tree.map(lambda x: x[:, :, :1], pages)
    t, new, pages, drawn = jax.lax.while_loop(
        lambda carry: (carry[0] < begin + size) & jnp.any(carry[-1].going),
        read,
        (jnp.int32(begin), new, pages, drawn),
    )
    return drawn, Context(*keep(pages, new, t), jnp.ones((1, 1, size), bool))
