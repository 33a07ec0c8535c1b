"""Speculative sampling: a small policy proposes tokens, the policy itself decides.

In: a policy, a draft that shares its tokenizer, and a sampler's config. Out: a Sampler
of ((params, draft's params), key, prompts) whose samples have the policy's own
distribution. A round draws g tokens from the draft, reads them in one call of the
policy, keeps those that pass, and draws one more, from the residual where one failed.
Leviathan et al. 2022, arXiv 2211.17192; Chen et al. 2023, arXiv 2302.01318.
"""

from functools import partial
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from o1jax.policy.policy import Pages, Policy
from o1jax.rollout.cached import contexts_of, write_pages
from o1jax.rollout.decode import DraftStats, Sampler, SamplerConfig, SampleStats
from o1jax.rollout.reading import prompt_reader
from o1jax.rollout.requests import Requests, empty_start, free_rows, unanswered
from o1jax.rollout.sampling import draw, sampling_logprobs, token_logprob
from o1jax.rollout.verdict import verify
from o1jax.types import KVCache, Params, Prompts, Trajectory

DRAFT, ACCEPT, LAST = range(3)  # what the uniforms of a place are for


class _Rows(NamedTuple):
    """What is being decoded. The last token of a row is drawn, but not read yet."""

    request: jax.Array  # i32[B]  index into the queue; Q where the row is free
    length: jax.Array  # i32[B]  of its text
    cache: KVCache  # without what is in `pages`; its own length is not looked at
    # Of the last round's tokens. They are written when the next round begins: behind
    # the attention that reads the cache, XLA would copy it to write.
    pages: tuple[Pages, Pages]
    held: jax.Array  # i32[B]  place of the first of them; the capacity: nowhere
    draft: KVCache


class _Loop(NamedTuple):
    waiting: jax.Array  # i32[]  first request that has no row yet
    stats: SampleStats
    rows: _Rows
    requests: Requests


class _Emitted(NamedTuple):
    requests: Requests
    written: jax.Array  # i32[R]  tokens of each row
    request: jax.Array  # i32[R]  as it was; Q where the answer has ended


def build_speculative_sampler(
    policy: Policy,
    draft: Policy,
    config: SamplerConfig,
    *,
    tokens: int,
    samples: int = 1,
) -> Sampler:
    """As decode.build_sampler, but params are a pair, of the policy and of the draft.

    `tokens` are proposed in a round. Each uniform belongs to a request and a place of
    its response, so neighbours change no sample. Places behind a token that failed use
    theirs again: nothing that was kept depends on them.
    """
    sampling, g, N = config.sampling, tokens, config.max_new_tokens
    if g < 1:
        raise ValueError("tokens of a draft must be at least 1")
    stop_ids = jnp.array(config.stop_ids, jnp.int32)

    def sample(
        params: tuple[Params, Params], key: jax.Array, prompts: Prompts
    ) -> tuple[Trajectory, SampleStats]:
        Q, P = prompts.tokens.shape
        chex.assert_shape([prompts.length, prompts.prompt_id], (Q,))
        B = min(config.rows, Q)
        R = config.refill_rows or max(1, B // 16)
        T = P + N
        own, other = policy.unstack(params[0]), draft.unstack(params[1])
        fold = partial(jax.random.fold_in, key)
        keys = key if key.ndim else jax.vmap(fold)(jnp.arange(Q))
        uniform = jax.vmap(partial(jax.random.uniform, shape=(N, 3)))(keys)
        shape = {"samples": samples, "rows": B, "capacity": T}
        reader = prompt_reader(policy, own, prompts, **shape)
        draft_reader = prompt_reader(draft, other, prompts, **shape)

        def emit(
            requests: Requests,
            request: jax.Array,
            tokens: jax.Array,
            count: jax.Array | int,
            logprobs: jax.Array,
            value: jax.Array,
        ) -> _Emitted:
            """Writes down `count` i32[R] of tokens i32[R, n], up to the end."""
            at, number = jnp.minimum(request, Q - 1), jnp.arange(tokens.shape[1])[None]
            begin = requests.length[at]
            room = prompts.length[at] + N - begin
            stop = jnp.isin(tokens, stop_ids)
            wanted = number < jnp.minimum(count, room)[:, None]
            wanted &= jnp.cumsum(stop, axis=1) == stop  # no stop token in front of it
            wanted &= (request < Q)[:, None]
            row, place = jnp.where(wanted, request[:, None], Q), begin[:, None] + number
            put = lambda array, new: array.at[row, place].set(new, mode="drop")
            written = jnp.sum(wanted, axis=1)
            stopped = jnp.any(stop & wanted, axis=1)
            requests = Requests(
                tokens=put(requests.tokens, tokens),
                logprob=put(requests.logprob, token_logprob(logprobs, tokens)),
                value=put(requests.value, value),
                length=requests.length.at[request].add(written, mode="drop"),
                finished=requests.finished.at[request].set(stopped, mode="drop"),
            )
            ended = stopped | (written == room)
            return _Emitted(requests, written, jnp.where(ended, Q, request))

        def read_in(loop: _Loop, count: int) -> _Loop:
            """Gives free rows to requests that wait, and draws their first tokens."""
            rows, stats = loop.rows, loop.stats
            slots, queued = free_rows(rows.request, loop.waiting, Q, count)
            at = jnp.minimum(queued, Q - 1)
            output, cache = reader.read(at)
            logprobs = sampling_logprobs(output.logits, sampling)
            token = draw(uniform[at, 0, LAST], logprobs, sampling)
            column = lambda x: x[:, None]
            emitted = emit(
                loop.requests,
                jnp.where(prompts.prompt_id[at] >= 0, queued, Q),
                column(token),
                1,
                column(logprobs),
                column(output.value),
            )
            fill = lambda old, new: old.at[slots].set(new, mode="drop")
            caches = cache, draft_reader.read(at)[1]
            cache, draft_cache = jax.tree.map(fill, (rows.cache, rows.draft), caches)
            rows = rows._replace(
                request=fill(rows.request, emitted.request),
                length=fill(rows.length, prompts.length[at] + 1),
                cache=cache,
                held=rows.held.at[slots].set(T, mode="drop"),
                draft=draft_cache,
            )
            return loop._replace(
                waiting=loop.waiting + jnp.sum(queued < Q),
                stats=stats.replace(prefill=stats.prefill + count * reader.each),
                rows=rows,
                requests=emitted.requests,
            )

        def propose(loop: _Loop) -> tuple[KVCache, jax.Array, jax.Array, jax.Array]:
            """tokens i32[g, B], their log-probs f32[g, B, V], and the steps it took."""
            rows = loop.rows
            at = jnp.minimum(rows.request, Q - 1)
            token = lambda place: loop.requests.tokens[at, place]
            read = rows.length - 1  # all but the last token; one of them may be missing

            def lacks(carry: tuple) -> jax.Array:
                return jnp.any((carry[0].length < read) & (rows.request < Q))

            def catch_up(carry: tuple) -> tuple:
                """Rows that lack nothing write what they have once more."""
                cache, steps = carry
                cache = cache.replace(length=read - 1)
                return draft.step(other, cache, token(read - 1))[1], steps + 1

            def step(carry: tuple, i: jax.Array) -> tuple:
                cache, token = carry
                output, cache = draft.step(other, cache, token)
                logprobs = sampling_logprobs(output.logits, sampling)
                place = jnp.minimum(rows.length + i - prompts.length[at], N - 1)
                token = draw(uniform[at, place, DRAFT], logprobs, sampling)
                return (cache, token), (token, logprobs)

            begin = rows.draft, jnp.int32(g)
            cache, steps = jax.lax.while_loop(lacks, catch_up, begin)
            begin = cache.replace(length=read), token(read)
            (cache, _), drawn = jax.lax.scan(step, begin, jnp.arange(g))
            return cache, *drawn, steps

        def body(loop: _Loop) -> _Loop:
            if B < Q:
                loop = jax.lax.while_loop(refillable, lambda x: read_in(x, R), loop)
            rows, stats = loop.rows, loop.stats
            at = jnp.minimum(rows.request, Q - 1)
            begin = rows.length - 1
            last = loop.requests.tokens[at, begin]
            draft_cache, proposed, q, steps = propose(loop)
            proposed, q = proposed.swapaxes(0, 1), q.swapaxes(0, 1)
            cache = write_pages(rows.cache, rows.pages, rows.held)
            number = jnp.arange(g + 1)[None]
            output, *pages = policy.extend(
                own,
                jnp.concatenate([last[:, None], proposed], axis=1),
                begin[:, None] + number,
                contexts_of(cache, begin),
                at=jnp.broadcast_to(number, (B, g + 1)),
            )
            p = sampling_logprobs(output.logits, sampling)
            place = (rows.length - prompts.length[at])[:, None] + number
            chance = uniform[at[:, None], jnp.minimum(place, N - 1)]
            accepted, last = verify(
                proposed,
                q,
                p,
                accept=chance[:, :g, ACCEPT],
                last=chance[..., LAST],
                sampling=sampling,
            )
            drawn = jnp.pad(proposed, ((0, 0), (0, 1)))
            drawn = jnp.where(number == accepted[:, None], last[:, None], drawn)
            emitted = emit(
                loop.requests, rows.request, drawn, accepted + 1, p, output.value
            )
            written = emitted.written
            drafts = stats.draft
            drafts = drafts.replace(
                calls=drafts.calls + jnp.sum(rows.request < Q),
                tested=drafts.tested + jnp.sum(jnp.minimum(written, g)),
                accepted=drafts.accepted + jnp.sum(jnp.minimum(written, accepted)),
                steps=drafts.steps + steps,
            )
            length = rows.length + written
            rows = _Rows(
                request=emitted.request,
                length=length,
                cache=cache,
                pages=tuple(pages),
                held=begin,
                draft=draft_cache.replace(length=jnp.minimum(begin + g, length - 1)),
            )
            stats = stats.replace(
                steps=stats.steps + 1,
                computed=stats.computed + B * (g + 1),
                draft=drafts,
            )
            return loop._replace(stats=stats, rows=rows, requests=emitted.requests)

        def refillable(loop: _Loop) -> jax.Array:
            free = jnp.sum(loop.rows.request == Q)
            return (loop.waiting < Q) & (free >= R)

        def unfinished(loop: _Loop) -> jax.Array:
            return jnp.any(loop.rows.request < Q) | (loop.waiting < Q)

        _, cache = empty_start(policy, own, B, capacity=T)
        page = lambda x: jnp.zeros((*x[0].shape[:2], g + 1, x[0].shape[3]), x[0].dtype)
        rows = _Rows(
            request=jnp.full(B, Q),
            length=jnp.ones(B, jnp.int32),
            cache=cache,
            pages=(tuple(map(page, cache.k)), tuple(map(page, cache.v))),
            held=jnp.full(B, T),
            draft=empty_start(draft, other, B, capacity=T)[1],
        )
        zero = jnp.int32(0)
        drafts = DraftStats(calls=zero, tested=zero, accepted=zero, steps=zero)
        stats = SampleStats(
            steps=zero,
            useful=zero,
            computed=zero,
            prefill=jnp.int32(reader.once),
            draft=drafts,
        )
        loop = _Loop(zero, stats, rows, unanswered(prompts, T))
        loop = jax.lax.while_loop(unfinished, body, read_in(loop, B))
        trajectory = loop.requests.trajectory(prompts)
        useful = jnp.sum(trajectory.length - prompts.length)
        return trajectory, loop.stats.replace(useful=useful)

    return sample
