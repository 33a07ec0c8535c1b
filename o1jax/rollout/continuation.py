"""Continuations of the beginnings of texts: what Monte-Carlo labels are made of.

In: whole traces, and places in them. Out: several continuations drawn behind each of
those places. A trace is read once, by `read_prefixes`; all continuations of all its
beginnings attend to the keys and values of that one reading. Continuations of a place
that begin alike are one path until they part, and a row of `continue_from` walks the
tree of them depth first: neither a token of a prefix nor one that continuations share
is read twice. Used as rollouts of steps by Wang et al. 2023 (Math-Shepherd), arXiv
2312.08935.
"""

from functools import partial
from typing import NamedTuple

import chex
import flax.struct
import jax
import jax.numpy as jnp

from o1jax.policy.policy import Policy
from o1jax.rollout.cached import cache_of
from o1jax.rollout.requests import empty_start, free_rows
from o1jax.rollout.sampling import SamplingConfig, draw, sampling_logprobs
from o1jax.types import KVCache, Params

NONE = -1
TILE = 8  # traces are read in whole tiles: products over them are 7 % faster on CPU


@flax.struct.dataclass(kw_only=True)
class Prefixes:
    """Traces that were read, and J places in each behind which to continue."""

    k: tuple[jax.Array, ...]  # L x [B, Hkv, T, E]
    v: tuple[jax.Array, ...]
    length: jax.Array  # i32[B, J]  tokens of the prefix; 0: no such place
    next: jax.Array  # f32[B, J, V]  log-probs of the token behind it, as sampled
    value: jax.Array  # f32[B, J]    value head in front of that token
    process: jax.Array  # f32[B, J]  process head at the prefix's last token


@flax.struct.dataclass(kw_only=True)
class Continuations:
    """M continuations of each of P prefixes of each trace, without the prefix."""

    tokens: jax.Array  # i32[B, P, M, S]   right-padded with 0
    logprob: jax.Array  # f32[B, P, M, S]  of the sampling distribution; 0 on padding
    length: jax.Array  # i32[B, P, M]      0 where none was asked for
    finished: jax.Array  # bool[B, P, M]   a stop token was drawn (it is the last one)
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


class _Found(NamedTuple):
    """What is known of the continuations of Q prefixes."""

    tokens: jax.Array  # i32[Q, M, S]
    logprob: jax.Array  # f32[Q, M, S]
    length: jax.Array  # i32[Q, M]
    finished: jax.Array  # bool[Q, M]


class _Walks(NamedTuple):
    """A path in the tree of a prefix's continuations, for each of R rows."""

    request: jax.Array  # i32[R]  whose tree it is; Q where the row is free
    begin: jax.Array  # i32[R]    tokens of the prefix
    depth: jax.Array  # i32[R]    tokens of the path, all read
    next: jax.Array  # f32[R, V]  log-probs of the one behind it
    going: jax.Array  # bool[R, M]  continuations that begin with the whole path
    left: jax.Array  # i32[R, M]  depth at which one left the path; NONE: it waits not
    token: jax.Array  # i32[R, M]  the last one drawn of each
    cache: KVCache


class _Loop(NamedTuple):
    step: jax.Array  # i32[]
    waiting: jax.Array  # i32[]  the first request that no row has taken
    walks: _Walks
    found: _Found


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
    together: bool = True,
) -> Continuations:
    """Draws M continuations behind each prefix `at` of each trace.

    A row that has walked the tree of a prefix takes the next one, those in front of
    early places first, since these are the longest.

    Args:
      at: i32[B, P], which of the J prefixes; -1 draws nothing, and so does a prefix
        that is not there.
      keys: key[B, P, M]. What is drawn depends on the prefix and its own key alone.
      rows: decoded at once, at most; 0: M for each trace.
      together: the continuations of a prefix share a row, one behind the other, and
        what they begin with. Else each has a row of its own, which takes more tokens
        and fewer steps: what pays where a step of many rows costs that of a few.
    """
    B, P, M = keys.shape
    chex.assert_shape(at, (B, P))
    rows = rows or B * M
    if not together and M > 1:
        drawn = continue_from(
            policy,
            params,
            prefixes,
            jnp.repeat(at, M, axis=1),
            keys.reshape(B, P * M, 1),
            sampling=sampling,
            stop_ids=stop_ids,
            max_new_tokens=max_new_tokens,
            rows=rows,
        )
        own = lambda x: x.reshape(B, P, M, *x.shape[3:]) if x.ndim else x
        return jax.tree.map(own, drawn)
    chex.assert_axis_dimension(prefixes.length, 0, B)
    Q, S = B * P, max_new_tokens
    R = min(rows, Q)
    params = policy.unstack(params)
    place = jnp.maximum(at, 0)
    length = jnp.where(at > NONE, jnp.take_along_axis(prefixes.length, place, 1), 0)
    asked = (length > 0).reshape(-1)
    order = jnp.argsort(jnp.where(asked, at.reshape(-1), prefixes.length.shape[1]))
    last = jnp.sum(asked)
    uniform = jax.vmap(partial(jax.random.uniform, shape=(S,)))(keys.reshape(-1))
    uniform = uniform.reshape(Q, M, S)

    def read_in(loop: _Loop, count: int) -> _Loop:
        """Gives free rows, `count` at most, to the prefixes that wait."""
        walks = loop.walks
        slots, queued = free_rows(walks.request, loop.waiting, Q, count)
        request = order[jnp.minimum(queued, Q - 1)]
        trace, which = request // P, place.reshape(-1)[request]
        begin, taken = length.reshape(-1)[request], (queued < last)[:, None]
        fresh = _Walks(
            request=jnp.where(queued < last, request, Q),
            begin=begin,
            depth=jnp.zeros(count, jnp.int32),
            next=prefixes.next[trace, which],
            going=jnp.broadcast_to(taken, (count, M)),
            left=jnp.full((count, M), NONE),
            token=jnp.zeros((count, M), jnp.int32),
            cache=cache_of((prefixes.k, prefixes.v), trace, begin, sizes),
        )
        fill = lambda old, new: old.at[slots].set(new, mode="drop")
        walks = jax.tree.map(fill, walks, fresh)
        return loop._replace(waiting=loop.waiting + count, walks=walks)

    def emit(loop: _Loop) -> tuple[_Loop, jax.Array]:
        """Draws for all that go along; each row turns to a path that goes on."""
        walks, found = loop.walks, loop.found
        busy, depth = walks.request < Q, walks.depth[:, None]
        given = uniform[jnp.minimum(walks.request, Q - 1), :, walks.depth]
        draw_one = lambda u: draw(u, walks.next, sampling)
        token = jax.vmap(draw_one, in_axes=1, out_axes=1)(given)
        stopped = jnp.isin(token, jnp.array(stop_ids, jnp.int32))
        row = jnp.where(walks.going, walks.request[:, None], Q)
        own = row, jnp.arange(M)[None]
        put = lambda array, new, *where: array.at[*own, *where].set(new, mode="drop")
        found = _Found(
            tokens=put(found.tokens, token, depth),
            logprob=put(
                found.logprob, jnp.take_along_axis(walks.next, token, -1), depth
            ),
            length=put(found.length, jnp.broadcast_to(depth + 1, row.shape)),
            finished=put(found.finished, stopped),
        )
        token = jnp.where(walks.going, token, walks.token)
        goes_on = walks.going & ~stopped & (depth + 1 < S)
        left = jnp.where(walks.going, jnp.where(goes_on, depth, NONE), walks.left)
        # All that wait at the deepest place came there by one path, which is the row's.
        deepest, one = jnp.max(left, axis=1), jnp.argmax(left, axis=1)
        taken = jnp.take_along_axis(token, one[:, None], axis=1)
        busy &= deepest > NONE
        going = busy[:, None] & (left == deepest[:, None]) & (token == taken)
        walks = walks._replace(
            request=jnp.where(busy, walks.request, Q),
            depth=jnp.where(busy, deepest + 1, 0),
            going=going,
            left=jnp.where(going, NONE, left),
            token=token,
            cache=walks.cache.replace(length=jnp.where(busy, walks.begin + deepest, 0)),
        )
        return loop._replace(walks=walks, found=found), taken[:, 0]

    def refillable(loop: _Loop) -> jax.Array:
        free = jnp.sum(loop.walks.request == Q)
        return (loop.waiting < last) & (free >= refill)

    def body(loop: _Loop) -> _Loop:
        if R < Q:
            loop = jax.lax.while_loop(refillable, lambda x: read_in(x, refill), loop)
        loop, token = emit(loop)
        output, cache = policy.step(params, loop.walks.cache, token)
        logprobs = sampling_logprobs(output.logits, sampling)
        walks = loop.walks._replace(next=logprobs, cache=cache)
        return loop._replace(step=loop.step + 1, walks=walks)

    def unfinished(loop: _Loop) -> jax.Array:
        return jnp.any(loop.walks.request < Q) | (loop.waiting < last)

    refill = max(1, R // 16)
    _, cache = empty_start(policy, params, R, capacity=prefixes.k[0].shape[2] + S)
    sizes = [chunk.shape[2] for chunk in cache.k[0]]
    none = jnp.zeros(R, jnp.int32)
    walks = _Walks(
        request=none + Q,
        begin=none,
        depth=none,
        next=jnp.zeros((R, prefixes.next.shape[-1])),
        going=jnp.zeros((R, M), bool),
        left=jnp.full((R, M), NONE),
        token=jnp.zeros((R, M), jnp.int32),
        cache=cache,
    )
    found = _Found(
        tokens=jnp.zeros((Q, M, S), jnp.int32),
        logprob=jnp.zeros((Q, M, S)),
        length=jnp.zeros((Q, M), jnp.int32),
        finished=jnp.zeros((Q, M), bool),
    )
    loop = _Loop(jnp.int32(0), jnp.int32(0), walks, found)
    loop = jax.lax.while_loop(unfinished, body, read_in(loop, R))
    found = jax.tree.map(lambda x: x.reshape(B, P, *x.shape[1:]), loop.found)
    return Continuations(**found._asdict(), computed=loop.step * R)
