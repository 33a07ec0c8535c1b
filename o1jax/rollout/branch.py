"""One step a row, drawn behind text that lies in several places.

In: rows whose text lies in contexts, and the first token of each one's step. Out: the
step up to a token that ends it, with its keys and values and what the policy says
behind it. Every token drawn is read once and nothing else is. All randomness comes in
as uniforms, so a row's step does not depend on the rows beside it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import chex
import flax.struct
import jax
import jax.numpy as jnp

from o1jax.policy.context import Context
from o1jax.policy.policy import Policy
from o1jax.rollout.ends import START, StepEnds
from o1jax.rollout.sampling import (
    SamplingConfig,
    draw,
    sampling_logprobs,
    token_logprob,
)
from o1jax.types import Params


class First(NamedTuple):
    """First tokens of steps that may follow a text: K to a row, or one."""

    token: jax.Array  # i32[..., K]
    logprob: jax.Array  # f32[..., K]  -inf: the distribution has fewer tokens
    entropy: jax.Array  # f32[...]  of the distribution they are from


@flax.struct.dataclass(kw_only=True)
class Drawn:
    """A step a row, all zeros where none was wanted."""

    k: tuple[jax.Array, ...]  # L x [B, Hkv, S, E]  0 behind its end
    v: tuple[jax.Array, ...]
    tokens: jax.Array  # i32[B, S]  right-padded with 0
    logprob: jax.Array  # f32[B, S]  of the sampling distribution; 0 on padding
    length: jax.Array  # i32[B]
    entropy: jax.Array  # f32[B]  summed over the distributions that tokens are from
    value: jax.Array  # f32[B]  value head behind the step
    value_before: jax.Array  # f32[B]  in front of its last token
    process: jax.Array  # f32[B]  process head at its last token
    next: jax.Array  # f32[B, V]  log-probs of the token behind the step, as sampled


def entropy(logprobs: jax.Array) -> jax.Array:
    """f32[...] in nats from log-probs f32[..., V], which may be -inf."""
    weighed = jnp.exp(logprobs) * logprobs
    return -jnp.sum(jnp.where(logprobs > -jnp.inf, weighed, 0.0), axis=-1)


def drawn_first(
    logprobs: jax.Array, uniform: jax.Array, sampling: SamplingConfig
) -> First:
    """K independent draws a row; logprobs f32[B, V], uniform f32[B, K]."""
    draw_one = lambda u: draw(u, logprobs, sampling)
    token = jax.vmap(draw_one, in_axes=1, out_axes=1)(uniform)
    logprob = jnp.take_along_axis(logprobs, token, axis=-1)
    return First(token, logprob, entropy(logprobs))


def likeliest_first(logprobs: jax.Array, count: int) -> First:
    """The `count` likeliest tokens of logprobs f32[B, V]."""
    logprob, token = jax.lax.top_k(logprobs, count)
    return First(token, logprob, entropy(logprobs))


def blank_step(
    contexts: Sequence[Context],
    first: First,
    wanted: jax.Array,
    value: jax.Array,
    size: int,
    vocab: int,
) -> Drawn:
    """Steps of their first token alone, which is not read; `size` tokens have room."""
    (B,) = wanted.shape
    page = lambda x: jnp.zeros((B, x.shape[1], size, x.shape[3]), x.dtype)
    row = lambda x: jnp.zeros((B, size), x.dtype).at[:, 0].set(jnp.where(wanted, x, 0))
    return Drawn(
        k=tuple(page(x) for x in contexts[0].k),
        v=tuple(page(x) for x in contexts[0].v),
        tokens=row(first.token),
        logprob=row(first.logprob),
        length=wanted.astype(jnp.int32),
        entropy=jnp.where(wanted, first.entropy, 0.0),
        value=value,
        value_before=value,
        process=jnp.zeros(B),
        next=jnp.zeros((B, vocab)),
    )


def draw_step(
    policy: Policy,
    params: Params,
    first: First,
    position: jax.Array,
    contexts: Sequence[Context],
    *,
    uniform: jax.Array,
    wanted: jax.Array,
    value: jax.Array,
    vocab: int,
    ends: StepEnds,
    sampling: SamplingConfig,
) -> Drawn:
    """A step of at most S tokens for each row; the loop ends with the longest.

    Args:
      first: [B] each, the token at `position` i32[B].
      contexts: all text before it.
      uniform: f32[B, S] in [0, 1), one for each token to draw; that of the first is
        not looked at.
      wanted: bool[B], False where nothing is to be drawn.
      value: f32[B], of the value head before the first token.
      ends: which tokens end a step.
    """
    B, S = uniform.shape
    chex.assert_shape([position, wanted, value, first.token], (B,))
    slot = jnp.arange(S)

    def write(drawn: Drawn, t: jax.Array, going: jax.Array, token: First) -> Drawn:
        """Token t of the steps that are still going."""
        put = lambda row, new: row.at[:, t].set(jnp.where(going, new, 0), mode="drop")
        return drawn.replace(
            tokens=put(drawn.tokens, token.token),
            logprob=put(drawn.logprob, token.logprob),
            length=drawn.length + going,
            entropy=drawn.entropy + jnp.where(going, token.entropy, 0.0),
        )

    def keep_pages(drawn: Drawn, new: tuple, t: jax.Array) -> tuple:
        """Keys and values with those of token t - 1.

        They are written when token t is read, in front of its attention: behind that,
        where they are made, XLA would copy the pages to write them.
        """
        put = lambda page, new: jax.lax.dynamic_update_slice_in_dim(
            page, new, jnp.maximum(t - 1, 0), axis=2
        )
        return jax.tree.map(put, (drawn.k, drawn.v), new)

    def read(carry: tuple) -> tuple:
        """Reads token t of all steps that have one, and draws the next."""
        t, going, token, state, new, drawn = carry
        pages = keep_pages(drawn, new, t)
        output, *new = policy.extend(
            params,
            token[:, None],
            (position + t)[:, None],
            [*contexts, Context(*pages, (slot < t)[None, None])],
            at=jnp.zeros((B, 1), jnp.int32),
        )
        output = jax.tree.map(lambda x: x[:, 0], output)
        logprobs = sampling_logprobs(output.logits, sampling)
        keep = lambda new, old: jnp.where(
            going.reshape(B, *[1] * (new.ndim - 1)), new, old
        )
        new = tuple(jax.tree.map(lambda x: keep(x, 0), x) for x in new)
        drawn = drawn.replace(
            k=pages[0],
            v=pages[1],
            value=keep(output.value, drawn.value),
            value_before=keep(drawn.value, drawn.value_before),
            process=keep(output.process, drawn.process),
            next=keep(logprobs, drawn.next),
        )
        t = t + 1
        state = ends.after(state, token)
        going &= (t < S) & ~ends.ended(state)
        token = draw(uniform[:, jnp.minimum(t, S - 1)], logprobs, sampling)
        next_token = First(token, token_logprob(logprobs, token), entropy(logprobs))
        return t, going, token, state, new, write(drawn, t, going, next_token)

    blank = blank_step(contexts, first, wanted, value, S, vocab)
    none = jax.tree.map(lambda x: x[:, :, :1], (blank.k, blank.v))
    state = jnp.full(B, START)
    begin = first.token, state, none, blank
    t, *_, new, drawn = jax.lax.while_loop(
        lambda carry: jnp.any(carry[1]), read, (jnp.int32(0), wanted, *begin)
    )
    k, v = keep_pages(drawn, new, t)
    return drawn.replace(k=k, v=v)
