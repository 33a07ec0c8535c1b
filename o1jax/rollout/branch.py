"""Several continuations of the same text, drawn at once.

In: rows whose text lies in contexts, and the logits behind it. Out: K steps a row, each
up to a token that ends it. The K read the row's keys and values in one product, so a
prefix is neither read again nor copied for them. All randomness comes in as uniforms,
so a row's steps do not depend on the rows beside it.
"""

from collections.abc import Sequence

import chex
import flax.struct
import jax
import jax.numpy as jnp

from o1jax.policy.context import Context
from o1jax.policy.policy import Policy
from o1jax.rollout.sampling import (
    SamplingConfig,
    draw,
    sampling_logprobs,
    token_logprob,
)
from o1jax.types import Params


@flax.struct.dataclass(kw_only=True)
class Candidates:
    """K steps drawn to follow a text, in the order of their draws."""

    tokens: jax.Array  # i32[..., K, S]   right-padded with 0
    logprob: jax.Array  # f32[..., K, S]  of the sampling distribution; 0 on padding
    length: jax.Array  # i32[..., K]      0: not drawn, for nothing can follow


def draw_steps(
    policy: Policy,
    params: Params,
    logits: jax.Array,
    position: jax.Array,
    contexts: Sequence[Context],
    *,
    uniform: jax.Array,
    open_: jax.Array,
    end_ids: tuple[int, ...],
    sampling: SamplingConfig,
) -> Candidates:
    """K steps of at most S tokens for each row.

    Args:
      logits: f32[B, V] of the token at `position` i32[B].
      contexts: all text before it.
      uniform: f32[B, K, S] in [0, 1), one for each token to draw.
      open_: bool[B], False where nothing is to be drawn.
    """
    B, K, S = uniform.shape
    chex.assert_shape([position, open_], (B,))

    def emit(
        t: jax.Array | int, logits: jax.Array, going: jax.Array, drawn: Candidates
    ) -> tuple[jax.Array, Candidates]:
        """Draws token t, [B, K], of the steps that are still going."""
        logprobs = sampling_logprobs(logits.reshape(B * K, -1), sampling)
        token = draw(uniform[:, :, t].reshape(B * K), logprobs, sampling)
        logprob = token_logprob(logprobs, token).reshape(B, K)
        token = token.reshape(B, K)
        drawn = Candidates(
            tokens=drawn.tokens.at[:, :, t].set(jnp.where(going, token, 0)),
            logprob=drawn.logprob.at[:, :, t].set(jnp.where(going, logprob, 0.0)),
            length=drawn.length + going,
        )
        return going & ~jnp.isin(token, jnp.array(end_ids, jnp.int32)), drawn

    # Steps so far lie token by token, [B, Hkv, S K, E]: a token of all K is one write.
    held = contexts[0].k
    shape = (B, held[0].shape[1], S * K, held[0].shape[3])
    blank = tuple(jnp.zeros(shape, x.dtype) for x in held)
    place, which = jnp.arange(S * K)[None], jnp.arange(K)
    same_step = place % K == which[:, None]

    def body(carry: tuple) -> tuple:
        t, going, drawn, k, v = carry
        mine = same_step & (place // K < t - 1)
        output, new_k, new_v = policy.extend(
            params,
            drawn.tokens[:, :, t - 1],
            jnp.broadcast_to((position + t - 1)[:, None], (B, K)),
            [*contexts, Context(k, v, mine[None])],
            at=jnp.broadcast_to(which[None], (B, K)),
            own=jnp.eye(K, dtype=bool),
        )
        put = lambda old, new: jax.lax.dynamic_update_slice_in_dim(
            old, new, (t - 1) * K, axis=2
        )
        k, v = jax.tree.map(put, (k, v), (new_k, new_v))
        return t + 1, *emit(t, output.logits, going, drawn), k, v

    none = Candidates(
        tokens=jnp.zeros((B, K, S), jnp.int32),
        logprob=jnp.zeros((B, K, S)),
        length=jnp.zeros((B, K), jnp.int32),
    )
    of_each = lambda x: jnp.broadcast_to(x[:, None], (B, K, *x.shape[1:]))
    first = emit(0, of_each(logits), of_each(open_), none)
    carry = jax.lax.while_loop(
        lambda carry: (carry[0] < S) & jnp.any(carry[1]),
        body,
        (jnp.int32(1), *first, blank, blank),
    )
    return carry[2]


def draw_counts(candidates: Candidates) -> jax.Array:
    """i32[..., K]: how often each step was drawn; 0 at its second and later draws."""
    tokens, length = candidates.tokens, candidates.length
    same = jnp.all(tokens[..., :, None, :] == tokens[..., None, :, :], axis=-1)
    same &= length[..., :, None] == length[..., None, :]
    earlier = jnp.sum(jnp.tril(same, -1), axis=-1)
    return jnp.where((earlier == 0) & (length > 0), jnp.sum(same, axis=-1), 0)
