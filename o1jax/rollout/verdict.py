"""Which proposed tokens pass, so that samples have the policy's own distribution.

In: tokens drawn from a draft, its log-probs q and the policy's p, and uniforms. Out:
how many pass, and the token behind them. Leviathan et al. 2022, arXiv 2211.17192.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from o1jax.rollout.sampling import SamplingConfig, draw, token_logprob


class Verdict(NamedTuple):
    """What the policy says to g proposed tokens."""

    accepted: jax.Array  # i32[B]  0 .. g
    last: jax.Array  # i32[B]  the token behind them


def verify(
    proposed: jax.Array,
    draft: jax.Array,
    target: jax.Array,
    *,
    accept: jax.Array,
    last: jax.Array,
    sampling: SamplingConfig,
) -> Verdict:
    """Token d passes with chance min(1, p(d) / q(d)), if all before it did.

    Behind the first that fails a token is drawn from max(p - q, 0), and behind the g-th
    from p. At temperature 0 those pass that the policy would have chosen.

    Args:
      proposed: i32[B, g], drawn from `draft`, log-probs q f32[B, g, V].
      target: f32[B, g + 1, V], the policy's log-probs p there and one place on.
      accept: f32[B, g] in [0, 1), to decide on each token; last: f32[B, g + 1], to draw
        the last one with, wherever it is.
    """
    B, g = proposed.shape
    chex.assert_shape([draft, target], [(B, g, None), (B, g + 1, None)])
    chex.assert_shape([accept, last], [(B, g), (B, g + 1)])
    if sampling.temperature == 0:
        passes = proposed == jnp.argmax(target[:, :g], axis=-1)
    else:
        ratio = token_logprob(target[:, :g], proposed) - token_logprob(draft, proposed)
        passes = jnp.log(accept) < ratio  # never where p is 0: -inf is not below -inf
    accepted = jnp.sum(jnp.cumprod(passes, axis=1, dtype=jnp.int32), axis=1)
    at = lambda x, i: jnp.take_along_axis(x, i[:, None, None], axis=1)[:, 0]
    p = at(target, accepted)
    if sampling.temperature > 0:
        q = jnp.exp(at(draft, jnp.minimum(accepted, g - 1)))
        rest = jnp.maximum(jnp.exp(p) - jnp.where((accepted < g)[:, None], q, 0), 0)
        # Where p is q nothing is left: then a token has failed by rounding only.
        some = jnp.any(rest > 0, axis=-1, keepdims=True)
        p = jnp.where(some, jnp.log(rest), p)
    uniform = jnp.take_along_axis(last, accepted[:, None], axis=1)[:, 0]
    return Verdict(accepted, draw(uniform, p, sampling))
