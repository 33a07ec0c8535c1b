"""Walks that check each step as they answer: a rejected one is drawn again.

In: prompts, tokens that ask about a step, and how to go on where it is rejected. Out:
all steps that were drawn, as a tree a walk, with what the policy said of each. A walk
is one path, whose keys and values lie step by step on a stack; what is rejected leaves
no trace there, and no token is read twice. Rows whose walk is over take the next one.
"""

from typing import NamedTuple

import chex
import flax.struct
import jax
import jax.numpy as jnp

from o1jax.policy.context import Context
from o1jax.policy.policy import Pages, Policy
from o1jax.rollout.branch import Drawn, draw_step, drawn_first
from o1jax.rollout.ends import at_tokens
from o1jax.rollout.path import (
    Held,
    Path,
    at,
    empty_path,
    merge,
    path_context,
    push,
    put,
)
from o1jax.rollout.sampling import SamplingConfig, sampling_logprobs
from o1jax.types import Params, Prompts


class Rules(NamedTuple):
    """How a walk checks itself and how it goes on, as in loop.reflection.Reflect."""

    ask: tuple[int, ...]  # tokens put behind a step
    yes: int  # and what may follow them
    no: int
    accepted: tuple[int, ...]  # tokens that are kept behind a step
    step_ends: tuple[int, ...]
    stops: tuple[int, ...]
    threshold: float
    heed: bool
    attempts: int  # draws at a state; 0: no limit
    back: bool
    draws: int  # of a walk at most
    depth: int  # steps of a path
    tokens: int  # of a step
    sampling: SamplingConfig

    @property
    def slots(self) -> int:
        """Tokens that a path has room for."""
        return self.depth * (self.tokens + len(self.accepted))


@flax.struct.dataclass(kw_only=True)
class Walks:
    """What was drawn for R requests, N draws each at most, in their order.

    A draw that is not closed, or is closed at full depth, is the last of its walk.
    """

    tokens: jax.Array  # i32[R, N, S]
    length: jax.Array  # i32[R, N]  0 behind the last draw
    parent: jax.Array  # i32[R, N]  the draw that it stands behind; -1: the prompt
    closed: jax.Array  # bool[R, N]  it ends a step, not the answer
    belief: jax.Array  # f32[R, N]  P(yes) of the question behind it
    computed: jax.Array  # i32[]  tokens that were read, those of idle rows too


class _Rows(NamedTuple):
    """The walks under way."""

    request: jax.Array  # i32[B]  R: none
    draws: jax.Array  # i32[B]
    path: Path
    failed: jax.Array  # i32[B, D]  draws behind so many steps
    first: Held  # of them, at the present depth


class _Loop(NamedTuple):
    waiting: jax.Array  # i32[]  first request that has no row yet
    rows: _Rows
    walks: Walks


def reflect(
    policy: Policy,
    params: Params,
    keys: jax.Array,
    prompts: Prompts,
    rules: Rules,
    *,
    rows: int,
) -> Walks:
    """Walks from prompts [C], as many of each as it has keys [C, G]: R = C * G.

    What a walk draws depends on its own key alone. A prompt whose prompt_id is -1 is
    not answered. rows: walks that go on together, at most.
    """
    C, P = prompts.tokens.shape
    chex.assert_shape([prompts.length, prompts.prompt_id, keys[:, 0]], (C,))
    params = policy.unstack(params)
    output, cache = policy.start(params, prompts.tokens, prompts.length, capacity=P)
    whole = lambda layers: tuple(jnp.concatenate(x, axis=2) for x in layers)
    walker = _Walker(
        policy=policy,
        params=params,
        rules=rules,
        k=whole(cache.k),
        v=whole(cache.v),
        prompts=prompts,
        next=sampling_logprobs(output.logits, rules.sampling),
        keys=keys,
    )
    R = walker.requests
    loop = _Loop(jnp.int32(0), walker.free_rows(min(rows, R)), _none(R, rules))
    going = lambda loop: jnp.any(loop.rows.request < R) | (loop.waiting < R)
    return jax.lax.while_loop(going, walker.step, loop).walks


def _none(R: int, rules: Rules) -> Walks:
    """No walk has drawn anything yet."""
    shape = R, rules.draws
    return Walks(
        tokens=jnp.zeros((*shape, rules.tokens), jnp.int32),
        length=jnp.zeros(shape, jnp.int32),
        parent=jnp.full(shape, -1),
        closed=jnp.zeros(shape, bool),
        belief=jnp.zeros(shape),
        computed=jnp.int32(0),
    )


class _Walker(NamedTuple):
    """What all walks share, and the moves of a round: one draw of each row."""

    policy: Policy
    params: Params
    rules: Rules
    k: Pages  # L x [C, Hkv, P, E]  of the prompts
    v: Pages
    prompts: Prompts  # [C]
    next: jax.Array  # f32[C, V]
    keys: jax.Array  # key[C, G]

    @property
    def requests(self) -> int:
        return self.keys.size

    def free_rows(self, B: int) -> _Rows:
        rules, none = self.rules, jnp.zeros(B, jnp.int32)
        D, S, V = rules.depth, rules.tokens, self.next.shape[-1]
        page = lambda x: jnp.zeros((B, x.shape[1], S, x.shape[3]), x.dtype)
        held = self.k, self.v
        return _Rows(
            request=jnp.full(B, self.requests),
            draws=none,
            path=empty_path(held, (B, D, S + len(rules.accepted)), V),
            failed=jnp.zeros((B, D), jnp.int32),
            first=Held(*jax.tree.map(page, held), none, jnp.zeros((B, V)), none),
        )

    def step(self, loop: _Loop) -> _Loop:
        """Draws a step of each walk, asks about it, and moves."""
        loop, rules = self._refill(loop), self.rules
        rows, walks, R = loop.rows, loop.walks, self.requests
        busy, depth = rows.request < R, rows.path.depth
        before, begin = self._before(rows)
        drawn = self._draw(rows, before, begin)
        own = Held(drawn.k, drawn.v, drawn.length, drawn.next, rows.draws)
        last = jnp.maximum(drawn.length - 1, 0)[:, None]
        last = jnp.take_along_axis(drawn.tokens, last, axis=1)[:, 0]
        closed = busy & jnp.isin(last, jnp.array(rules.step_ends, jnp.int32))
        logits, _ = self._read(rules.ask, before, begin, own)
        belief = jax.nn.sigmoid(logits[:, rules.yes] - logits[:, rules.no])

        write = lambda x, new: x.at[rows.request, rows.draws].set(new, mode="drop")
        above = at(rows.path.draw, depth - 1)
        each = jnp.max(drawn.length) + len(rules.ask) + len(rules.accepted)
        walks = Walks(
            tokens=write(walks.tokens, drawn.tokens),
            length=write(walks.length, drawn.length),
            parent=write(walks.parent, jnp.where(depth > 0, above, -1)),
            closed=write(walks.closed, closed),
            belief=write(walks.belief, belief),
            computed=walks.computed + each * busy.size,
        )
        checked = closed & (depth < rules.depth)
        taken = checked & ((belief >= rules.threshold) | (not rules.heed))
        rows, own, spent = self._fail(rows, own, checked & ~taken)
        if rules.back:
            rows, lost = self._go_back(rows, spent)
        else:
            taken, lost = taken | spent, False
        rows = self._keep(rows, before, begin, own, taken)
        draws = rows.draws + busy
        over = ~checked | lost | (draws >= rules.draws)
        request = jnp.where(over, R, rows.request)
        rows = rows._replace(request=request, draws=draws)
        return loop._replace(rows=rows, walks=walks)

    def _refill(self, loop: _Loop) -> _Loop:
        """Rows that are free begin with the requests that wait."""
        rows, R = loop.rows, self.requests
        free = rows.request == R
        new = jnp.minimum(loop.waiting + jnp.cumsum(free) - 1, R)
        given = free & (new < R)
        asked = self.prompts.prompt_id[self._question(new)] >= 0
        rows = rows._replace(
            request=jnp.where(given & asked, new, rows.request),
            draws=jnp.where(free, 0, rows.draws),
            path=rows.path._replace(depth=jnp.where(free, 0, rows.path.depth)),
            failed=jnp.where(free[:, None], 0, rows.failed),
        )
        return loop._replace(waiting=loop.waiting + jnp.sum(given), rows=rows)

    def _question(self, request: jax.Array) -> jax.Array:
        """i32[B]: which prompt; any, where there is no request."""
        return jnp.minimum(request, self.requests - 1) // self.keys.shape[1]

    def _before(self, rows: _Rows) -> tuple[list[Context], jax.Array]:
        """What stands before the next step, and its position i32[B]."""
        question = self._question(rows.request)
        length = self.prompts.length[question]
        k, v = jax.tree.map(lambda x: x[question], (self.k, self.v))
        seen = jnp.arange(k[0].shape[2])[None] < length[:, None]
        path, held = path_context(rows.path, self.rules.tokens)
        return [Context(k, v, seen[:, None]), path], length + held

    def _draw(self, rows: _Rows, before: list[Context], begin: jax.Array) -> Drawn:
        """A step of each walk."""
        rules, request = self.rules, jnp.minimum(rows.request, self.requests - 1)
        B, S, V = len(request), rules.tokens, self.next.shape[-1]
        inside = at(rows.path.next, rows.path.depth - 1)
        first = self.next[self._question(request)]
        following = jnp.where(rows.path.depth[:, None] > 0, inside, first)
        keys = jax.vmap(jax.random.fold_in)(self.keys.reshape(-1)[request], rows.draws)
        uniform = jax.vmap(lambda key: jax.random.uniform(key, (S,)))(keys)
        first = drawn_first(following, uniform[:, :1], rules.sampling)
        return draw_step(
            self.policy,
            self.params,
            first._replace(token=first.token[:, 0], logprob=first.logprob[:, 0]),
            begin,
            before,
            uniform=uniform,
            wanted=rows.request < self.requests,
            value=jnp.zeros(B),
            vocab=V,
            ends=at_tokens((*rules.step_ends, *rules.stops), V),
            sampling=rules.sampling,
        )

    def _read(
        self,
        words: tuple[int, ...],
        before: list[Context],
        begin: jax.Array,
        step: Held,
    ) -> tuple[jax.Array, tuple[Pages, Pages]]:
        """Logits f32[B, V] behind the step and these words, and the words' pages."""
        T, B, S = len(words), *begin.shape, self.rules.tokens
        own = (jnp.arange(S)[None] < step.length[:, None])[:, None]
        output, k, v = self.policy.extend(
            self.params,
            jnp.broadcast_to(jnp.array(words, jnp.int32), (B, T)),
            (begin + step.length)[:, None] + jnp.arange(T)[None],
            [*before, Context(step.k, step.v, own)],
            at=jnp.full((B, 1), T - 1),
        )
        return output.logits[:, 0].astype(jnp.float32), (k, v)

    def _fail(
        self, rows: _Rows, step: Held, failed: jax.Array
    ) -> tuple[_Rows, Held, jax.Array]:
        """Counts failed draws; bool[B]: those that were the last of their state.

        There the step to go on with is the first one, unless the rules say back.
        """
        rules, depth = self.rules, rows.path.depth
        count = at(rows.failed, depth) + failed
        rows = rows._replace(failed=put(rows.failed, depth, failed, count))
        if not rules.attempts:
            return rows, step, jnp.zeros_like(failed)
        spent = failed & (count >= rules.attempts)
        if not rules.back:
            first = merge(failed & (count == 1), step, rows.first)
            rows, step = rows._replace(first=first), merge(spent, first, step)
        return rows, step, spent

    def _go_back(self, rows: _Rows, spent: jax.Array) -> tuple[_Rows, jax.Array]:
        """Takes steps back until one may be drawn again; bool[B]: none may."""

        def up(carry: tuple) -> tuple:
            depth, failed, spent = carry
            depth -= spent
            count = at(failed, depth) + 1
            failed = put(failed, depth, spent, count)
            return depth, failed, spent & (count >= self.rules.attempts) & (depth > 0)

        depth = rows.path.depth
        begin = depth, rows.failed, spent & (depth > 0)
        depth, failed, _ = jax.lax.while_loop(lambda c: jnp.any(c[2]), up, begin)
        lost = spent & (at(failed, depth) >= self.rules.attempts)
        path = rows.path._replace(depth=depth)
        return rows._replace(path=path, failed=failed), lost

    def _keep(
        self,
        rows: _Rows,
        before: list[Context],
        begin: jax.Array,
        step: Held,
        taken: jax.Array,
    ) -> _Rows:
        """Goes on with a step where it is taken, behind it the words that accept it."""
        none = lambda x: x[:, :, :0]
        said = jax.tree.map(none, (step.k, step.v))
        if self.rules.accepted:
            logits, said = self._read(self.rules.accepted, before, begin, step)
            step = step._replace(next=sampling_logprobs(logits, self.rules.sampling))
        failed = put(rows.failed, rows.path.depth + 1, taken, 0)
        return rows._replace(path=push(rows.path, step, said, taken), failed=failed)
