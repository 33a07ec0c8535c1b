"""One step a row, of which a smaller policy proposes the tokens.

In: as for branch.draw_step, and a draft with contexts of its own. Out: a step that has
exactly the policy's own distribution, and what was read to find it. A round draws g
tokens from the draft and reads them, behind the one that was not read yet, in one call
of the policy; rows keep as many as pass. See rollout/speculative.py, which does this to
whole answers.
"""

from collections.abc import Sequence
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from o1jax.policy.context import Context
from o1jax.policy.policy import Pages, Policy
from o1jax.rollout.branch import Drawn, First, blank_step, entropy
from o1jax.rollout.ends import START, StepEnds
from o1jax.rollout.sampling import (
    SamplingConfig,
    draw,
    sampling_logprobs,
    token_logprob,
)
from o1jax.rollout.verdict import verify
from o1jax.types import Params

DRAFT, ACCEPT, LAST = range(3)  # what the uniforms of a place are for


def take_layers(params: Params, layers: int) -> Params:
    """The first layers, stacked or not, and all that is no layer."""
    own = params["layers"]
    if isinstance(own, tuple):
        return params | {"layers": own[:layers]}
    return params | {"layers": jax.tree.map(lambda x: x[:layers], own)}


class StepDraft(NamedTuple):
    """Who proposes `tokens` tokens in a round."""

    policy: Policy
    tokens: int
    # Where it is the first layers of the policy itself their number: then its keys and
    # values are among the policy's, and its parameters too. 0: it has its own.
    layers: int = 0

    @property
    def share(self) -> float:
        """Tokens that the draft reads for each one that the policy reads."""
        return self.tokens / (self.tokens + 1) if self.layers else 1.0

    def parts(self, params: Params) -> tuple[Params, Params]:
        """The policy's and the draft's; params are the pair where it has its own."""
        return (params, take_layers(params, self.layers)) if self.layers else params

    def shared(self, pages: Pages) -> Pages:
        """Of the policy's keys or values [L], those that are the draft's too."""
        return pages[: self.layers]


class DraftedStep(NamedTuple):
    """A step a row, and what it took."""

    drawn: Drawn
    # The draft's own keys and values, L x [B, H, S, E] each; () where it shares those
    # of the policy.
    own: tuple[Pages, Pages] | tuple[()]
    read: jax.Array  # i32[B]  tokens that the policy read; also those that failed


class _Round(NamedTuple):
    """Rows between two rounds. The last token of a row is kept, but not read yet."""

    going: jax.Array  # bool[B]
    state: jax.Array  # i32[B]  of the automaton, behind all tokens
    last: jax.Array  # i32[B]
    drawn: Drawn
    own: tuple[Pages, Pages]  # the draft's, where it has its own
    # Keys and values of the last round, of both, and the place of the first: they are
    # written in front of the attention that reads them. Behind it XLA copies the pages.
    new: tuple
    place: jax.Array  # i32[B]
    read: jax.Array


def draw_drafted_step(
    policy: Policy,
    params: Params,
    draft: StepDraft,
    draft_params: Params,
    first: First,
    position: jax.Array,
    contexts: Sequence[Context],
    draft_contexts: Sequence[Context],
    *,
    uniform: jax.Array,
    wanted: jax.Array,
    value: jax.Array,
    vocab: int,
    ends: StepEnds,
    sampling: SamplingConfig,
) -> DraftedStep:
    """branch.draw_step, with uniform f32[B, S, 3] and the draft's contexts besides.

    draft_contexts are not looked at where the draft shares the policy's. Each uniform
    belongs to a place of the step: places behind a token that failed use theirs again,
    since nothing that was kept depends on them.
    """
    B, S, _ = uniform.shape
    g, shares = draft.tokens, draft.layers > 0
    if g >= S:
        raise ValueError(f"a draft of {g} tokens, where a step has at most {S}")
    chex.assert_shape([position, wanted, value, first.token], (B,))
    rows = jnp.arange(B)
    slot, number = jnp.arange(S)[None], jnp.arange(g + 1)[None]
    if shares:
        draft_contexts = [
            Context(draft.shared(x.k), draft.shared(x.v), x.mask) for x in contexts
        ]

    def propose(last: jax.Array, n: jax.Array, pages: tuple) -> tuple:
        """Tokens i32[B, g], their log-probs f32[B, g, V], the draft's keys and values.

        A draft of its own reads the last proposal too, which may be kept.
        """
        behind = Context(*pages, (slot < n[:, None] - 1)[:, None])
        steps = g if shares else g + 1

        def step(carry: tuple, i: jax.Array) -> tuple:
            token, new = carry
            output, *read = draft.policy.extend(
                draft_params,
                token[:, None],
                (position + n - 1 + i)[:, None],
                [*draft_contexts, behind, Context(*new, (number < i)[None])],
                at=jnp.zeros((B, 1), jnp.int32),
            )
            put = lambda page, x: jax.lax.dynamic_update_slice_in_dim(page, x, i, 2)
            new = jax.tree.map(put, new, tuple(read))
            logprobs = sampling_logprobs(output.logits[:, 0], sampling)
            place = jnp.minimum(n + i, S - 1)
            token = draw(uniform[rows, place, DRAFT], logprobs, sampling)
            return (token, new), (token, logprobs)

        blank = lambda x: jnp.zeros((B, x.shape[1], g + 1, x.shape[3]), x.dtype)
        begin = last, jax.tree.map(blank, pages)
        (_, new), drawn = jax.lax.scan(step, begin, jnp.arange(steps))
        return *(x[:g].swapaxes(0, 1) for x in drawn), new

    def written(
        drawn: Drawn, own: tuple, new: tuple, place: jax.Array
    ) -> tuple[Drawn, tuple]:
        """Keys and values with those of the last round."""
        slots = place[:, None] + number
        put = lambda page, x: page.at[rows[:, None], :, slots].set(
            x.swapaxes(1, 2), mode="drop"
        )
        k, v = jax.tree.map(put, (drawn.k, drawn.v), new[0])
        return drawn.replace(k=k, v=v), jax.tree.map(put, own, new[1])

    def keep(
        drawn: Drawn, going: jax.Array, state: jax.Array, tokens: jax.Array, p: tuple
    ) -> tuple:
        """The step with tokens i32[B, g + 1] of which `going` bool[B, g + 1] may stay.

        p: their log-probs and the entropies they are from. A step's end is the last.
        """
        logprob, spread = p
        begin, alive = drawn.length, ~ends.ended(state)
        kept = []
        for i in range(g + 1):
            alive = alive & going[:, i] & (begin + i < S)
            state = jnp.where(alive, ends.after(state, tokens[:, i]), state)
            kept.append(alive)
            alive = alive & ~ends.ended(state)
        kept = jnp.stack(kept, axis=1)
        slots = jnp.where(kept, begin[:, None] + number, S)
        put = lambda row, new: row.at[rows[:, None], slots].set(new, mode="drop")
        count = jnp.sum(kept, axis=1)
        return (
            count,
            state,
            drawn.replace(
                tokens=put(drawn.tokens, tokens),
                logprob=put(drawn.logprob, logprob),
                length=begin + count,
                entropy=drawn.entropy + jnp.sum(jnp.where(kept, spread, 0.0), axis=1),
            ),
        )

    def body(carry: _Round) -> _Round:
        going, drawn, n = carry.going, carry.drawn, carry.drawn.length
        drawn, own = written(drawn, carry.own, carry.new, carry.place)
        pages = (draft.shared(drawn.k), draft.shared(drawn.v)) if shares else own
        proposed, q, proposal = propose(carry.last, n, pages)
        output, *new = policy.extend(
            params,
            jnp.concatenate([carry.last[:, None], proposed], axis=1),
            (position + n - 1)[:, None] + number,
            [
                *contexts,
                Context(drawn.k, drawn.v, (slot < n[:, None] - 1)[:, None]),
            ],
            at=jnp.broadcast_to(number, (B, g + 1)),
        )
        p = sampling_logprobs(output.logits, sampling)
        chance = uniform[rows[:, None], jnp.minimum(n[:, None] + number, S - 1)]
        accepted, last = verify(
            proposed,
            q,
            p,
            accept=chance[:, :g, ACCEPT],
            last=chance[..., LAST],
            sampling=sampling,
        )
        tokens = jnp.pad(proposed, ((0, 0), (0, 1)))
        tokens = jnp.where(number == accepted[:, None], last[:, None], tokens)
        may = going[:, None] & (number <= accepted[:, None])
        about = token_logprob(p, tokens), entropy(p)
        count, state, after = keep(drawn, may, carry.state, tokens, about)
        # The last token that was read; the one behind those that passed was not.
        at = jnp.minimum(count, accepted)
        of = lambda x, i: x[rows, jnp.maximum(i, 0)]
        before = jnp.where(at > 0, of(output.value, at - 1), drawn.value)
        said = {
            "value": of(output.value, at),
            "value_before": before,
            "process": of(output.process, at),
            "next": of(p, at),
        }
        choose = lambda x, old: jnp.where(going.reshape(B, *[1] * (x.ndim - 1)), x, old)
        said = {name: choose(x, getattr(drawn, name)) for name, x in said.items()}
        return _Round(
            going=going & (count > accepted),
            state=state,
            last=jnp.where(count > accepted, last, 0),
            drawn=after.replace(**said),
            own=own,
            new=(tuple(new), () if shares else proposal),
            place=jnp.where(going, n - 1, S),
            read=carry.read + jnp.where(going, g + 1, 0),
        )

    drawn = blank_step(contexts, first, wanted, value, S, vocab)
    blank = lambda count: (
        lambda x: jnp.zeros((B, x.shape[1], count, x.shape[3]), x.dtype)
    )
    like = () if shares else (draft_contexts[0].k, draft_contexts[0].v)
    begin = _Round(
        going=wanted,
        state=ends.after(jnp.full(B, START), first.token),
        last=first.token,
        drawn=drawn,
        own=jax.tree.map(blank(S), like),
        new=jax.tree.map(blank(g + 1), ((drawn.k, drawn.v), like)),
        place=jnp.full(B, S),
        read=jnp.zeros(B, jnp.int32),
    )
    end = jax.lax.while_loop(lambda x: jnp.any(x.going), body, begin)
    drawn, own = written(end.drawn, end.own, end.new, end.place)
    held = (slot < drawn.length[:, None])[:, None, :, None]
    clear = lambda x: jnp.where(held, x, 0)
    k, v, own = jax.tree.map(clear, (drawn.k, drawn.v, own))
    return DraftedStep(drawn.replace(k=k, v=v), own, end.read)
