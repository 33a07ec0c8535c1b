"""Continuations of the beginnings of texts: what Monte-Carlo labels are made of.

In: whole traces, and places in them. Out: continuations drawn behind those places. A
trace is read once, by `read_prefixes`; all continuations of all its beginnings attend
to the keys and values of that one reading (`continue_from`), each up to its own place,
so that no token of a prefix is read twice. Used as rollouts of steps by Wang et al.
2023 (Math-Shepherd), arXiv 2312.08935.
"""

import chex
import flax.struct
import jax
import jax.numpy as jnp

from o1jax.policy.context import Context
from o1jax.policy.policy import Policy
from o1jax.rollout.branch import First, draw_step, entropy
from o1jax.rollout.sampling import (
    SamplingConfig,
    draw,
    sampling_logprobs,
    token_logprob,
)
from o1jax.types import Params

NONE = -1


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
      rows: drawn together, at most, but at least a trace's. 0: all; on CPU 32, whose
        keys and values stay in its cache (a quarter faster than 512 at once).
    """
    B, M = at.shape
    chex.assert_shape(keys, (B, M))
    chex.assert_axis_dimension(prefixes.length, 0, B)
    rows = rows or (32 if jax.default_backend() == "cpu" else B * M)
    group = min(B, max(1, rows // M))
    params = policy.unstack(params)
    # The last group is filled up with traces of which nothing is wanted.
    place = jnp.arange(-(-B // group) * group).reshape(-1, group)
    index = jnp.minimum(place, B - 1)
    wanted = jnp.where(place[:, :, None] < B, at[index], NONE)

    def draw_some(asked: tuple[jax.Array, jax.Array]) -> Continuations:
        index, at = asked
        return _continue(
            policy,
            params,
            prefixes.take(index),
            at,
            keys[index],
            sampling,
            stop_ids,
            max_new_tokens,
        )

    drawn = jax.lax.map(draw_some, (index, wanted))
    together = lambda x: x.reshape(-1, *x.shape[2:])[:B]
    return Continuations(
        tokens=together(drawn.tokens),
        logprob=together(drawn.logprob),
        length=together(drawn.length),
        finished=together(drawn.finished),
        computed=jnp.sum(drawn.computed),
    )


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
    place = jnp.maximum(at, 0)
    of_place = lambda x: jnp.take_along_axis(
        x, jnp.expand_dims(place, range(2, x.ndim)), axis=1
    ).reshape(B * M, *x.shape[2:])
    length, next_logprobs = of_place(prefixes.length), of_place(prefixes.next)
    uniform = jax.vmap(lambda key: jax.random.uniform(key, (max_new_tokens,)))(
        keys.reshape(-1)
    )
    token = draw(uniform[:, 0], next_logprobs, sampling)
    slot = jnp.arange(prefixes.k[0].shape[2])
    drawn = draw_step(
        policy,
        params,
        First(token, token_logprob(next_logprobs, token), entropy(next_logprobs)),
        length,
        [Context(prefixes.k, prefixes.v, (slot[None] < length[:, None])[:, None])],
        uniform=uniform,
        wanted=(at.reshape(-1) > NONE) & (length > 0),
        value=of_place(prefixes.value),
        vocab=prefixes.next.shape[-1],
        end_ids=stop_ids,
        sampling=sampling,
    )
    last = jnp.take_along_axis(
        drawn.tokens, jnp.maximum(drawn.length - 1, 0)[:, None], axis=1
    )[:, 0]
    stopped = jnp.isin(last, jnp.array(stop_ids, jnp.int32)) & (drawn.length > 0)
    shape = lambda x: x.reshape(B, M, *x.shape[1:])
    return Continuations(
        tokens=shape(drawn.tokens),
        logprob=shape(drawn.logprob),
        length=shape(drawn.length),
        finished=shape(stopped),
        computed=jnp.max(drawn.length) * (B * M),
    )
