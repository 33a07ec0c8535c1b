"""Estimates of KL(policy || reference) from one sampled token, and their coefficient.

In: log-probs of the sampled tokens under both. Out: f32 of the same shape. As a loss
each estimate has a gradient of its own, and it is seldom the divergence's. With
d = log p - log r, tokens drawn from p and the states before them held fixed:

    name              value           expected gradient
    k1                d               0: it constrains nothing
    k2                d^2 / 2         that of KL(p || r), the right one
    k3                e^-d - 1 + d    that of KL(r || p)
    straight_through  that of k3      that of k2

k1 and k3 average to KL(p || r); k2 does not. No loss over tokens passes a gradient to
the states that earlier tokens lead to. Paid as a reward instead (reward/shaping.py), k1
has the gradient of the divergence of whole responses. Schulman 2020, "Approximating KL
divergence"; Tang & Munos 2025, arXiv 2506.09477.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import chex
import jax
import jax.numpy as jnp

from o1jax.config import configurable

Kind = Literal["k1", "k2", "k3", "straight_through"]


def divergence(logprob: jax.Array, ref_logprob: jax.Array, kind: Kind) -> jax.Array:
    """The estimate at each token; the gradient goes to `logprob` only."""
    chex.assert_equal_shape([logprob, ref_logprob])
    d = logprob - jax.lax.stop_gradient(ref_logprob)
    if kind == "k1":
        return d
    if kind == "k2":
        return d**2 / 2
    k3 = jnp.expm1(-d) + d
    if kind == "k3":
        return k3
    if kind == "straight_through":
        k2 = d**2 / 2
        return jax.lax.stop_gradient(k3 - k2) + k2
    raise ValueError(f"kind must be one of {', '.join(get_args(Kind))}, not {kind!r}")


@configurable
@dataclass(frozen=True)
class KLControl:
    """How strongly the reference holds the policy, and when a round has gone too far.

    The coefficient is that of the loss's Divergence or, if no Divergence is among the
    terms, of k1 paid as a reward.

    adaptive: after each round coef *= 1 + clip(kl / target - 1, -0.2, 0.2) n / horizon,
    for n responses whose mean divergence was kl. Ziegler et al. 2019, arXiv 1909.08593.
    """

    coef: float = 0.0
    kind: Literal["fixed", "adaptive"] = "fixed"
    target: float = 6.0  # nats a response
    horizon: int = 10_000  # responses
    stop: float = 0.0  # nats a token from the sampler that end a round; 0: none

    def __post_init__(self) -> None:
        for name in ("coef", "stop"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be finite and at least 0")
        if self.kind not in ("fixed", "adaptive"):
            raise ValueError("kind must be fixed or adaptive")
        if self.kind == "adaptive" and not self.coef:
            raise ValueError("coef must be above 0 to adapt: it is multiplied")
        if not self.target > 0:
            raise ValueError("target must be above 0")
        if self.horizon < 1:
            raise ValueError("horizon must be at least 1")

    def after(self, coef: float, kl: float, responses: int) -> float:
        """The coefficient of the next round; kl is the mean nats a response."""
        if self.kind == "fixed":
            return coef
        error = min(max(kl / self.target - 1.0, -0.2), 0.2)
        return coef * (1.0 + error * responses / self.horizon)

    def too_far(self, kl_sampler: float) -> bool:
        """Whether an update's metric `kl_sampler` says to leave the round's samples."""
        return bool(self.stop) and kl_sampler > self.stop
