"""How much better each token was than what was to be expected: the signals.

In: what each token of G responses to each of Q questions was paid. Out: advantages, one
a token, 0 off the response. REINFORCE: Williams 1992. RLOO: Kool et al. 2019, Ahmadian
et al. 2024, arXiv 2402.14740. GRPO: Shao et al. 2024, arXiv 2402.03300. Dr.GRPO: Liu et
al. 2025, arXiv 2503.20783. GAE: Schulman et al. 2015, arXiv 1506.02438. A new signal is
a function and a line in SIGNALS. A group of equal rewards gives exactly 0.
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

EPS = 1e-4  # added to a group's standard deviation
ROUNDING = 1e-6  # rewards that differ by less, relative to the largest, are equal


class SignalInput(NamedTuple):
    """G responses to each of Q questions."""

    reward: jax.Array  # f32[Q, G, T]     paid for token t, such as reward.shaping's
    value: jax.Array  # f32[Q, G, T]      of the critic before token t; 0 if none
    mask: jax.Array  # bool[Q, G, T]      the response; a row of padding has none
    step_end: jax.Array  # bool[Q, G, T]  token t closes a step
    gamma: float = 1.0  # discount a token
    lam: float = 1.0  # of GAE


Signal = Callable[[SignalInput], jax.Array]


def leave_one_out(reward: jax.Array, present: jax.Array | None = None) -> jax.Array:
    """r_i - mean of the question's other rewards, f32[Q, G]: unbiased, for the baseline
    of a response does not depend on it. 0 for one that has no others.
    """
    d, present, n = _group(reward, present)
    others = (jnp.sum(d, axis=1, keepdims=True) - d) / jnp.maximum(n - 1, 1.0)
    return jnp.where(present & (n > 1), d - others, 0.0)


def centred(reward: jax.Array, present: jax.Array | None = None) -> jax.Array:
    """r_i - mean of the group, f32[Q, G]: (G - 1) / G of leave_one_out."""
    d, present, n = _group(reward, present)
    mean = jnp.sum(d, axis=1, keepdims=True) / jnp.maximum(n, 1.0)
    return jnp.where(present, d - mean, 0.0)


def standardised(reward: jax.Array, present: jax.Array | None = None) -> jax.Array:
    """(r_i - mean) / (std + 1e-4), f32[Q, G]; std with G - 1 below, as trl has it.

    Questions that are nearly always or nearly never solved get more weight than their
    share of the expected reward: a bias (tests/learn/test_gradient_audit.py).
    """
    c = centred(reward, present)
    _, _, n = _group(reward, present)
    square = jnp.sum(c**2, axis=1, keepdims=True) / jnp.maximum(n - 1, 1.0)
    return c / (jnp.sqrt(square) + EPS)


def returns(reward: jax.Array, mask: jax.Array, gamma: float = 1.0) -> jax.Array:
    """f32[...]: sum_t gamma^t r_t over the response, whose first token is t = 0."""
    t = jnp.maximum(jnp.cumsum(mask, axis=-1) - 1, 0)
    return jnp.sum(jnp.where(mask, gamma**t * reward, 0.0), axis=-1)


def gae(
    reward: jax.Array, value: jax.Array, mask: jax.Array, gamma: float, lam: float
) -> jax.Array:
    """f32[T] of one response; with value 0 and lam 1 the discounted reward to come.

    A_t = d_t + gamma * lam * A_{t+1},   d_t = r_t + gamma * v_{t+1} - v_t

    Behind the last token A and v are 0, whether the response ended or was cut off.
    """
    chex.assert_equal_shape([reward, value, mask])

    def back(
        later: tuple[jax.Array, jax.Array], now: tuple[jax.Array, ...]
    ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        (A, v), (reward, value, on) = later, now
        A = reward + gamma * v - value + gamma * lam * A
        A, v = jnp.where(on, A, 0.0), jnp.where(on, value, 0.0)
        return (A, v), A

    zero = jnp.float32(0)
    return jax.lax.scan(back, (zero, zero), (reward, value, mask), reverse=True)[1]


def whitened(advantage: jax.Array, mask: jax.Array) -> jax.Array:
    """(A - mean) / (std + 1e-8) over all tokens of the mask; 0 elsewhere."""
    n = jnp.maximum(jnp.sum(mask), 1)
    c = jnp.where(mask, advantage - jnp.sum(advantage, where=mask) / n, 0.0)
    return c / (jnp.sqrt(jnp.sum(c**2) / n) + 1e-8)


def _reward(x: SignalInput) -> jax.Array:
    """The return, no baseline: 1 for right and 0 for wrong clones what is right."""
    return _each(returns(x.reward, x.mask, x.gamma), x)


def _batch_mean(x: SignalInput) -> jax.Array:
    """The return less the mean over the whole batch."""
    Q, G, _ = x.mask.shape
    flat = returns(x.reward, x.mask, x.gamma).reshape(1, Q * G)
    present = jnp.any(x.mask, axis=-1).reshape(1, Q * G)
    return _each(centred(flat, present).reshape(Q, G), x)


def _of_group(baseline: Callable[[jax.Array, jax.Array], jax.Array]) -> Signal:
    def signal(x: SignalInput) -> jax.Array:
        if x.mask.shape[1] < 2:
            raise ValueError("a group's baseline needs two responses a question")
        R = returns(x.reward, x.mask, x.gamma)
        return _each(baseline(R, jnp.any(x.mask, axis=-1)), x)

    return signal


def _process(x: SignalInput) -> jax.Array:
    """GRPO with process supervision: steps standardised among all of the group's.

        A_t = sum of (r_step - mean) / (std + 1e-4) over steps that end at t or later

    A step earns what its tokens do; what is paid behind the last step end, such as for
    the end of the text, belongs to the last step.
    """
    Q, G, T = x.mask.shape
    t = jnp.arange(T)[None, None]
    final = jnp.max(jnp.where(x.mask, t, -1), axis=-1, keepdims=True)
    marked = x.step_end & x.mask
    last = jnp.max(jnp.where(marked, t, -1), axis=-1, keepdims=True)
    end = (marked & (t != last)) | (x.mask & (t == final))
    paid = jnp.cumsum(jnp.where(x.mask, x.reward, 0.0), axis=-1)
    before = jax.lax.cummax(jnp.where(end, t, -1), axis=2)
    before = jnp.pad(before[..., :-1], ((0, 0), (0, 0), (1, 0)), constant_values=-1)
    earlier = jnp.take_along_axis(paid, jnp.maximum(before, 0), axis=-1)
    step = paid - jnp.where(before >= 0, earlier, 0.0)
    flat = standardised(step.reshape(Q, G * T), end.reshape(Q, G * T))
    normal = flat.reshape(Q, G, T)
    rest = jnp.cumsum(normal[..., ::-1], axis=-1)[..., ::-1]
    return jnp.where(x.mask, rest, 0.0)


def _gae(x: SignalInput) -> jax.Array:
    one = lambda r, v, m: gae(r, v, m, x.gamma, x.lam)
    return jax.vmap(jax.vmap(one))(x.reward, x.value, x.mask)


SIGNALS: dict[str, Signal] = {
    "reward": _reward,
    "batch_mean": _batch_mean,
    "leave_one_out": _of_group(leave_one_out),
    "group": _of_group(standardised),
    "centred": _of_group(centred),
    "process": _process,
    "gae": _gae,
}


def _each(of_response: jax.Array, x: SignalInput) -> jax.Array:
    """f32[Q, G] at every token of the response."""
    return jnp.where(x.mask, of_response[..., None], 0.0)


def _group(
    reward: jax.Array, present: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Rewards [Q, G] as differences from the first, who is present, how many.

    The baseline of differences is that of rewards, and among equals all is exactly 0,
    where a mean of equal floats may be off by an ulp that 1 / std would blow up.
    """
    chex.assert_rank(reward, 2)
    chex.assert_type(reward, jnp.float32)
    if reward.shape[1] < 2 and present is None:
        raise ValueError("a group's baseline needs two responses a question")
    present = jnp.ones(reward.shape, bool) if present is None else present
    chex.assert_equal_shape([reward, present])
    first = jnp.argmax(present, axis=1, keepdims=True)
    apart = reward - jnp.take_along_axis(reward, first, axis=1)
    apart = jnp.where(present, apart, 0.0)
    largest = jnp.max(jnp.abs(reward), axis=1, keepdims=True, where=present, initial=0)
    spread = jnp.max(jnp.abs(apart), axis=1, keepdims=True)
    d = jnp.where(spread > ROUNDING * largest, apart, 0.0)
    return d, present, jnp.sum(present, axis=1, keepdims=True, dtype=jnp.float32)
