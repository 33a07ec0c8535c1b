"""A verdict that breaks speculative sampling: tests must see it."""

import jax.numpy as jnp

from o1jax.rollout.sampling import draw
from o1jax.rollout.verdict import Verdict, verify


def without_residual(proposed, draft, target, *, last, sampling, **rest):
    """verify(), but a token that failed is drawn anew from the policy: biased."""
    kept = dict(last=last, sampling=sampling, **rest)
    accepted, _ = verify(proposed, draft, target, **kept)
    at = accepted[:, None]
    p = jnp.take_along_axis(target, at[..., None], axis=1)[:, 0]
    uniform = jnp.take_along_axis(last, at, axis=1)[:, 0]
    return Verdict(accepted, draw(uniform, p, sampling))
