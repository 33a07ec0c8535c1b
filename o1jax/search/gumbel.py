"""Gumbel MuZero: sequential halving at the root, completed values everywhere.

In: the node and its edges as in select.py, and the root's Gumbel noise. Out: scores,
the action to take, and the improved policy softmax(logits + sigma(completed q)), which
is at least as good as the prior even after few simulations. Source: Danihelka et al.
2022, "Policy improvement by planning with Gumbel"; numbers and defaults as in mctx.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from o1jax.config import configurable
from o1jax.search.select import Node, extremes, lossy
from o1jax.search.tree import Edges

LOWEST = -1e9  # a child that alone is considered may be taken, whatever its score


@configurable
@dataclass(frozen=True)
class Gumbel:
    """Few simulations, many children: no prior-weighted exploration at the root."""

    considered: int = 16  # children of the root in the first round of halving
    scale: float = 1.0  # of the noise; 0 makes the search deterministic
    value_scale: float = 0.1  # sigma(q) = (maxvisit_init + max n) value_scale q
    maxvisit_init: float = 50.0
    rescale: bool = True  # q to [0, 1] by the extremes among the siblings

    def __post_init__(self) -> None:
        if self.considered < 1:
            raise ValueError("considered must be at least 1")
        for name in ("scale", "value_scale", "maxvisit_init"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0")


def halving_schedule(considered: int, simulations: int) -> list[int]:
    """Visits that a child must have to be next, by simulation.

    Each round gives every remaining child the same number of visits and keeps the
    better half, down to two.
    """
    if considered <= 1:
        return list(range(simulations))
    rounds = math.ceil(math.log2(considered))
    schedule: list[int] = []
    visits, remaining = 0, considered
    while len(schedule) < simulations:
        for _ in range(max(1, simulations // (rounds * remaining))):
            schedule += [visits] * remaining
            visits += 1
        remaining = max(2, remaining // 2)
    return schedule[:simulations]


def halving_table(considered: int, simulations: int) -> np.ndarray:
    """f32[considered + 1, simulations]: the schedule for 0 to `considered` children."""
    counts = range(considered + 1)
    return np.array([halving_schedule(n, simulations) for n in counts], np.float32)


def sigma_completed(node: Node, edges: Edges, config: Gumbel) -> jax.Array:
    """Scaled Q of every child, f32[B, K]; without a visit it is the mixed value.

    v_mix = (v + N sum_visited(p q) / sum_visited(p)) / (1 + N), N the visits of all.
    """
    visited = edges.visits > 0
    prior = jnp.maximum(jnp.exp(edges.logprior), jnp.finfo(jnp.float32).tiny)
    known = jnp.sum(prior, axis=-1, where=visited)
    weighted = jnp.sum(prior * edges.qvalue, axis=-1, where=visited)
    total = jnp.sum(edges.visits, axis=-1)
    mean = weighted / jnp.where(total > 0, known, 1.0)
    mixed = (node.raw_value + total * mean) / (total + 1.0)
    completed = jnp.where(visited, edges.qvalue, mixed[:, None])
    if config.rescale:
        low, high = extremes(completed)
        completed = (completed - low) / jnp.maximum(high - low, 1e-8)
    most = jnp.max(edges.visits, axis=-1, keepdims=True)
    return (config.maxvisit_init + most) * config.value_scale * completed


def improved_policy(node: Node, edges: Edges, config: Gumbel) -> jax.Array:
    """softmax(logits + sigma(completed q)) over the valid children; f32[B, K]."""
    logits = edges.logprior + sigma_completed(node, edges, config)
    return jax.nn.softmax(jnp.where(edges.valid, logits, jnp.finfo(jnp.float32).min))


def interior_score(
    node: Node, edges: Edges, config: Gumbel, virtual_loss: float
) -> jax.Array:
    """improved policy - n / (1 + N): visits that follow the improved policy."""
    visits = edges.visits + edges.pending
    share = visits / (1.0 + jnp.sum(visits, axis=-1, keepdims=True))
    return lossy(edges, improved_policy(node, edges, config) - share, virtual_loss)


def considered_score(
    node: Node, edges: Edges, noise: jax.Array, visits: jax.Array, config: Gumbel
) -> jax.Array:
    """noise + logits + sigma(q) of the children with so many `visits`; else -inf.

    visits: bool[B, K], which children are considered now.
    """
    best = jnp.max(edges.logprior, axis=-1, keepdims=True, initial=LOWEST)
    logits = edges.logprior - best
    score = noise + logits + sigma_completed(node, edges, config)
    return jnp.where(visits & edges.valid, jnp.maximum(score, LOWEST), -jnp.inf)


def root_score(
    node: Node,
    edges: Edges,
    noise: jax.Array,
    start: jax.Array,
    table: jax.Array,
    config: Gumbel,
) -> jax.Array:
    """Sequential halving over the visits since `start` (f32[B, K]) of this search."""
    visits = edges.visits + edges.pending - start
    simulation = jnp.sum(visits, axis=-1).astype(jnp.int32)
    children = jnp.minimum(jnp.sum(edges.valid, axis=-1), config.considered)
    turn = table.at[children, simulation].get(mode="clip")
    # A child that was merged into its twin leaves the schedule with a count that no
    # child has: then the nearest have their turn.
    away = jnp.where(edges.valid, jnp.abs(visits - turn[:, None]), jnp.inf)
    nearest = away == jnp.min(away, axis=-1, keepdims=True)
    return considered_score(node, edges, noise, nearest, config)


def root_choice(
    node: Node, edges: Edges, noise: jax.Array, start: jax.Array, config: Gumbel
) -> jax.Array:
    """i32[B]: best by noise + logits + sigma(q) of the most visited since `start`."""
    visits = jnp.where(edges.valid, edges.visits - start, -1.0)
    most = jnp.max(visits, axis=-1, keepdims=True)
    score = considered_score(node, edges, noise, visits == most, config)
    return jnp.argmax(score, axis=-1).astype(jnp.int32)
