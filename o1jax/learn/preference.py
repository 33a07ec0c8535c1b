"""Learning a policy from pairs of responses of which one is better, without a critic.

In: pairs (data/pairs.PairBatch) and the reference's log-probs of their tokens. Out: an
Objective. With x = beta (log p/r of the chosen - log p/r of the rejected):

    dpo   -log sigmoid(x - margin)         Rafailov et al. 2023, arXiv 2305.18290
    ipo   (x / beta - 1 / (2 beta))^2      Azar et al. 2023, arXiv 2310.12036

What both sides begin with cancels, so pairs of siblings in a search tree, one step each
behind a shared text, make it step-DPO (Lai et al. 2024, arXiv 2406.18629).
"""

from dataclasses import dataclass
from typing import Literal, Protocol

import chex
import flax.struct
import jax
import jax.numpy as jnp

from o1jax.config import configurable
from o1jax.learn.objectives import Objective, Ratio, Sums
from o1jax.learn.reading import Distribution, in_response, read_responses
from o1jax.policy.policy import Policy
from o1jax.types import Params


class PairRows(Protocol):
    """What is read of R pairs: data.pairs.PairBatch. Side 0 is the chosen one."""

    tokens: jax.Array  # i32[R, 2, T]
    prompt_length: jax.Array  # i32[R]
    length: jax.Array  # i32[R, 2]
    weight: jax.Array  # f32[R]
    margin: jax.Array  # f32[R]


@flax.struct.dataclass(kw_only=True)
class PreferenceBatch:
    """Pairs, and what the reference said of them."""

    pairs: PairRows
    ref_logprob: jax.Array  # f32[R, 2, T]  of pair_logprobs


@configurable
@dataclass(frozen=True)
class PreferenceConfig:
    """The loss of a pair."""

    beta: float = 0.1  # nats of log-odds a nat of difference
    loss: Literal["dpo", "ipo"] = "dpo"
    smoothing: float = 0.0  # how probable it is that a pair is the wrong way round
    imitate: float = (
        0.0  # of the nats a token of the chosen side, behind what is shared
    )

    def __post_init__(self) -> None:
        if not 0 < self.beta < float("inf"):
            raise ValueError("beta must be finite and above 0")
        if self.loss not in ("dpo", "ipo"):
            raise ValueError("loss must be dpo or ipo")
        if not 0 <= self.smoothing < 0.5:
            raise ValueError("smoothing must be at least 0 and below 0.5")
        if not 0 <= self.imitate < float("inf"):
            raise ValueError("imitate must be finite and at least 0")


def pair_logprobs(
    policy: Policy,
    params: Params,
    pairs: PairRows,
    *,
    distribution: Distribution = jax.nn.log_softmax,
) -> jax.Array:
    """f32[R, 2, T]: log-probs of both responses' tokens behind what they share."""
    R, _, T = pairs.tokens.shape
    chex.assert_shape(pairs.length, (R, 2))
    chex.assert_shape([pairs.prompt_length, pairs.weight, pairs.margin], (R,))
    rows = (
        pairs.tokens.reshape(2 * R, T),
        jnp.repeat(pairs.prompt_length, 2),
        pairs.length.reshape(2 * R),
    )
    read = read_responses(policy, params, *rows, distribution=distribution)
    return jnp.where(_parted(pairs), read.logprob.reshape(R, 2, T), 0.0)


def preference_objective(
    policy: Policy,
    config: PreferenceConfig,
    *,
    distribution: Distribution = jax.nn.log_softmax,
) -> Objective:
    """The loss over `PreferenceBatch`, a mean over pairs by their weight.

    Metrics: pair_accuracy, how often the chosen side gained more; reward_gap, x above;
    chosen_gain, by how many nats the chosen side is likelier than under the reference:
    DPO alone is free to let both sides become unlikely.
    """

    def weight(batch: PreferenceBatch) -> jax.Array:
        return jnp.sum(batch.pairs.weight)

    def total(params: Params, batch: PreferenceBatch) -> tuple[jax.Array, Sums]:
        pairs = batch.pairs
        logprob = pair_logprobs(policy, params, pairs, distribution=distribution)
        chex.assert_equal_shape([logprob, batch.ref_logprob])
        reference = jax.lax.stop_gradient(batch.ref_logprob)
        gain = jnp.sum(logprob - reference, axis=2)
        gap = gain[:, 0] - gain[:, 1]
        loss = _pair_loss(gap, pairs.margin, config)
        if config.imitate:
            tokens = jnp.maximum(jnp.sum(_parted(pairs)[:, 0], axis=1), 1)
            loss += config.imitate * -jnp.sum(logprob[:, 0], axis=1) / tokens
        loss = jnp.sum(pairs.weight * loss)
        mean = lambda x: Ratio(jnp.sum(pairs.weight * x), jnp.sum(pairs.weight))
        return loss, {
            "loss": loss,
            "pair_accuracy": mean(gap > 0),
            "reward_gap": mean(config.beta * gap),
            "chosen_gain": mean(gain[:, 0]),
        }

    return Objective(weight, total)


def _parted(pairs: PairRows) -> jax.Array:
    """bool[R, 2, T]: tokens of the responses behind what both sides begin with."""
    T = pairs.tokens.shape[2]
    sides = [
        in_response(pairs.prompt_length, pairs.length[:, side], T) for side in (0, 1)
    ]
    response = jnp.stack(sides, axis=1)
    one, other = jnp.where(response, pairs.tokens, -1).swapaxes(0, 1)
    return response & (jnp.cumsum(one != other, axis=1) > 0)[:, None]


def _pair_loss(
    gap: jax.Array, margin: jax.Array, config: PreferenceConfig
) -> jax.Array:
    """f32[R] of gap, log p/r of the chosen less that of the rejected."""
    if config.loss == "ipo":
        signed = 1 - 2 * config.smoothing
        return (gap - signed / (2 * config.beta)) ** 2
    x = config.beta * gap - margin
    right, wrong = -jax.nn.log_sigmoid(x), -jax.nn.log_sigmoid(-x)
    return (1 - config.smoothing) * right + config.smoothing * wrong
