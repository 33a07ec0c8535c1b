"""What each token is paid: an outcome at the end, and what is added on the way.

In: responses, their outcome, and whatever a term reads (scores of steps, values, the
log-probs of a reference). Out: f32[B, T] in the time convention of types.py, reward[t]
paid for token t, for Reward.token. Every term is a function of its own; nothing here
passes a gradient. Only the potential leaves the optimal policy as it was. Source: Ng,
Harada and Russell 1999, "Policy invariance under reward transformations", ICML.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import chex
import jax
import jax.numpy as jnp

from o1jax.config import configurable
from o1jax.types import Trajectory

Potential = Literal["none", "value", "process", "heuristic"]
Divergence = Literal["k1", "k3"]


@configurable
@dataclass(frozen=True)
class Shaping:
    """Which terms are added to the outcome; with the defaults none is."""

    potential: Potential = "none"
    gamma: float = 1.0  # the learner's own discount per token
    scale: float = 1.0  # of the potential
    length_cost: float = 0.0  # per token of the response behind the free ones
    free_tokens: int = 0
    kl_coef: float = 0.0
    kl: Divergence = "k1"
    farmable_bonus: float = 0.0  # per step, right or wrong: only to see it go wrong

    def __post_init__(self) -> None:
        for name, choices in (("potential", Potential), ("kl", Divergence)):
            if getattr(self, name) not in get_args(choices):
                allowed = ", ".join(get_args(choices))
                raise ValueError(f"{name} must be one of {allowed}")
        if not 0 < self.gamma <= 1:
            raise ValueError("gamma must be above 0 and at most 1")
        for name in ("scale", "length_cost", "free_tokens", "kl_coef"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be finite and at least 0")
        if not abs(self.farmable_bonus) < float("inf"):
            raise ValueError("farmable_bonus must be finite")


def shape(
    config: Shaping,
    trajectory: Trajectory,
    outcome: jax.Array,
    step_end: jax.Array,
    *,
    process: jax.Array | None = None,
    heuristic: jax.Array | None = None,
    start: jax.Array | None = None,
    ref_logprob: jax.Array | None = None,
) -> jax.Array:
    """The sum of the terms that the config asks for.

    Args:
      outcome: f32[B]; step_end: bool[B, T], token t closes a step.
      process: f32[B, T], for potential "process": log-odds that the step closed by
        token t is right, from the policy's head or a reward model.
      heuristic: f32[B, T], for potential "heuristic": the potential itself at step
        ends, such as the task's state_value or an aggregate of scores.
      start: f32[B], the potential of the bare prompt; default 0, and for potential
        "value" the value in front of the first token of the response.
      ref_logprob: f32[B, T], for kl_coef: of the tokens under the reference, at the
        temperature and truncation of trajectory.logprob.

    Returns:
      f32[B, T], 0 off the response. ValueError if a term lacks what it reads.
    """
    prompt_length, length = trajectory.prompt_length, trajectory.length
    phi = jnp.zeros(step_end.shape, jnp.float32)
    if config.potential == "value":
        phi = value_behind(trajectory.value)
        if start is None:
            start = _at(trajectory.value, prompt_length)
    elif config.potential == "process":
        phi = jax.nn.sigmoid(_given(process, "process", "potential"))
    elif config.potential == "heuristic":
        phi = _given(heuristic, "heuristic", "potential")
    if start is None:
        start = jnp.zeros(outcome.shape, jnp.float32)
    terms = [
        potential_based(
            outcome,
            config.scale * phi,
            step_end,
            prompt_length,
            length,
            gamma=config.gamma,
            start=config.scale * start,
        )
    ]
    if config.length_cost:
        free, size = config.free_tokens, step_end.shape[1]
        terms.append(length_cost(prompt_length, length, size, config.length_cost, free))
    if config.kl_coef:
        reference = _given(ref_logprob, "ref_logprob", "kl_coef")
        own, mask = trajectory.logprob, trajectory.response_mask
        terms.append(kl_penalty(own, reference, mask, config.kl_coef, kind=config.kl))
    if config.farmable_bonus:
        bonus = config.farmable_bonus
        terms.append(farmable_bonus(step_end, prompt_length, length, bonus))
    return sum(terms[1:], terms[0])


def potential_based(
    outcome: jax.Array,
    phi: jax.Array,
    step_end: jax.Array,
    prompt_length: jax.Array,
    length: jax.Array,
    *,
    gamma: float = 1.0,
    start: jax.Array | None = None,
) -> jax.Array:
    """The outcome at the last token, and the change of the potential at every token.

      F_t = gamma * phi(text up to and with t) - phi(text in front of t)

    phi of a text is that of its last closed step, `start` before the first one, and 0
    of a text that is over, finished or cut off. So for gamma 1 the steps alone are
    paid, and for less a token inside a step pays (1 - gamma) of what is held. It
    telescopes: sum_t gamma^t (outcome and F) = gamma^(n-1) outcome - start, for n
    tokens t = 0..n-1 of the response.

    Args:
      outcome: f32[B]; phi: f32[B, T], read at step ends only; step_end: bool[B, T].
      gamma: the learner's discount per token. With another one it does not telescope.
      start: f32[B], default 0.

    Returns:
      f32[B, T]; a row without a response is paid nothing.
    """
    B, T = phi.shape
    chex.assert_shape([outcome, prompt_length, length], (B,))
    chex.assert_shape(step_end, (B, T))
    start = jnp.zeros(B, jnp.float32) if start is None else start
    chex.assert_shape(start, (B,))
    outcome, phi, start = map(_f32, (outcome, phi, start))

    t = jnp.arange(T)[None]
    response = _response(prompt_length, length, T)
    closed = jax.lax.cummax(jnp.where(step_end & response, t, -1), axis=1)
    held = jnp.take_along_axis(phi, jnp.maximum(closed, 0), axis=1)
    after = jnp.where(closed >= 0, held, start[:, None])
    before = jnp.concatenate([start[:, None], after[:, :-1]], axis=1)
    last = t == length[:, None] - 1
    change = gamma * jnp.where(last, 0.0, after) - before
    paid = change + jnp.where(last, outcome[:, None], 0.0)
    return jnp.where(response, paid, 0.0)


def value_behind(value: jax.Array) -> jax.Array:
    """f32[..., T]: the value of the text up to and with token t; 0 at the last place.

    value[t] is of the text in front of token t, and a potential of the text behind it.
    """
    return jnp.pad(_f32(value)[..., 1:], [(0, 0)] * (value.ndim - 1) + [(0, 1)])


def length_cost(
    prompt_length: jax.Array,
    length: jax.Array,
    size: int,
    per_token: float,
    free: int = 0,
) -> jax.Array:
    """f32[B, size]: -per_token for every token of the response but the first `free`."""
    chex.assert_equal_shape([prompt_length, length])
    costly = _response(prompt_length + free, length, size)
    return jnp.where(costly, jnp.float32(-per_token), 0.0)


def kl_penalty(
    logprob: jax.Array,
    ref_logprob: jax.Array,
    mask: jax.Array,
    coef: float,
    *,
    kind: Divergence = "k1",
) -> jax.Array:
    """f32[B, T]: -coef times an estimate of KL(policy || reference) at each token.

      k1 = log p - log r          k3 = r / p - 1 + (log p - log r)

    Both average to the divergence over tokens that the policy drew; k3 is never below
    0 and varies less. As a reward, k1 has the divergence's own gradient; k3 has that of
    KL(policy || reference) - KL(reference || policy), so measure with it, and pay k1.
    (Schulman 2020, "Approximating KL divergence".)
    """
    chex.assert_equal_shape([logprob, ref_logprob, mask])
    # Off the response the two need not be numbers at all.
    above = jnp.where(mask, _f32(logprob) - _f32(ref_logprob), 0.0)
    return -coef * (above if kind == "k1" else jnp.expm1(-above) + above)


def farmable_bonus(
    step_end: jax.Array, prompt_length: jax.Array, length: jax.Array, bonus: float
) -> jax.Array:
    """f32[B, T]: `bonus` for each closed step, right or wrong.

    What not to do: writing more steps earns more, so the optimal policy changes.
    """
    response = _response(prompt_length, length, step_end.shape[1])
    return jnp.where(step_end & response, jnp.float32(bonus), 0.0)


def _response(start: jax.Array, end: jax.Array, size: int) -> jax.Array:
    """bool[B, size]: start <= t < end."""
    t = jnp.arange(size)[None]
    return (t >= start[:, None]) & (t < end[:, None])


def _at(x: jax.Array, index: jax.Array) -> jax.Array:
    """x[b, index[b]]; where the row ends before that, its last one."""
    index = jnp.minimum(index, x.shape[1] - 1)
    return jnp.take_along_axis(x, index[:, None], axis=1)[:, 0]


def _given(x: jax.Array | None, name: str, asked: str) -> jax.Array:
    """x as f32, or a ValueError that says which field asked for it."""
    if x is None:
        raise ValueError(f"Shaping.{asked} needs `{name}`, which was not given")
    return _f32(x)


def _f32(x: jax.Array) -> jax.Array:
    """x without a gradient, in f32; whole numbers are refused, not converted.

    An integer reward is a sign that fractions were cut off somewhere before.
    """
    chex.assert_type(x, float)
    return jax.lax.stop_gradient(jnp.asarray(x, jnp.float32))
