"""Objectives: what an update minimises, as sums over tokens.

An objective gives sums and the weight to divide them by. The weight is taken over the
whole global batch before it is cut into microbatches, so microbatching, packing,
padding and sharding change nothing (DESIGN.md, decision 10).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from o1jax.learn.losses import is_likeliest, next_token_loss
from o1jax.policy.functions import Policy, read_rows
from o1jax.types import Params, TokenBatch

Batch = Any  # a pytree of arrays whose first axis is rows


class Ratio(NamedTuple):
    """A metric with a denominator of its own; both are sums over rows."""

    total: jax.Array  # f32[]
    count: jax.Array  # f32[]


Sums = dict[str, jax.Array | Ratio]


class Objective(NamedTuple):
    """A loss over a batch of rows."""

    weight: Callable[[Batch], jax.Array]  # f32[]  the global denominator
    total: Callable[[Params, Batch], tuple[jax.Array, Sums]]  # loss sum, metric sums


def imitation(policy: Policy) -> Objective:
    """Behaviour cloning, which on text is next-token prediction."""

    def weight(batch: TokenBatch) -> jax.Array:
        return jnp.sum(batch.weight)

    def total(params: Params, batch: TokenBatch) -> tuple[jax.Array, Sums]:
        place = {"position": batch.position, "segment": batch.segment}
        (loss, right), _ = read_rows(policy, params, batch.tokens, _loss, **place)
        loss = jnp.sum(batch.weight * loss)
        return loss, {"loss": loss, "token_accuracy": jnp.sum(batch.weight * right)}

    return Objective(weight, total)


def _loss(logits: jax.Array, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Of each token, and whether it is the likeliest."""
    return next_token_loss(logits, tokens), is_likeliest(logits, tokens)
