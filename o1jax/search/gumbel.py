"""Gumbel MuZero: sequential halving at the root, completed values everywhere.

In: the node and its edges as in select.py, and the root's Gumbel noise. Out: scores,
the action to take, and the improved policy softmax(logits + sigma(completed q)), which
is at least as good as the prior even after few simulations. Source: Danihelka et al.
2022, "Policy improvement by planning with Gumbel"; numbers and defaults as in mctx.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from o1jax.config import configurable
from o1jax.search.select import Node, lossy
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


class Siblings(NamedTuple):
    """What a node's children have in common, f32[B, 1] each."""

    walks: jax.Array  # sum of visits, pending ones included
    visits: jax.Array  # sum
    fewest: jax.Array  # visits of the child that has the fewest
    most: jax.Array
    prior: jax.Array  # sum over the visited
    weighted: jax.Array  # sum of prior times Q over the visited
    low: jax.Array  # least Q of the visited; inf if there are none
    high: jax.Array  # greatest; -inf if there are none


def siblings(edges: Edges) -> Siblings:
    """Sums and extremes over the last axis of f32[B, K], in one pass.

    A level of a walk is many small kernels on a CPU, and each of them counts.
    """
    visits, qvalue = edges.visits, edges.qvalue
    visited = visits > 0
    prior = jnp.maximum(jnp.exp(edges.logprior), jnp.finfo(jnp.float32).tiny)
    add, least, most = jnp.add, jnp.minimum, jnp.maximum
    reductions = (
        (add, 0.0, visits + edges.pending),
        (add, 0.0, visits),
        (least, jnp.inf, visits),
        (most, -jnp.inf, visits),
        (add, 0.0, jnp.where(visited, prior, 0.0)),
        (add, 0.0, jnp.where(visited, prior * qvalue, 0.0)),
        (least, jnp.inf, jnp.where(visited, qvalue, jnp.inf)),
        (most, -jnp.inf, jnp.where(visited, qvalue, -jnp.inf)),
    )
    joins, starts, operands = zip(*reductions)
    found = jax.lax.reduce(
        operands,
        starts,
        lambda a, b: tuple(join(x, y) for join, x, y in zip(joins, a, b)),
        (visits.ndim - 1,),
    )
    return Siblings(*(x[..., None] for x in found))


def sigma_completed(
    node: Node, edges: Edges, of: Siblings, config: Gumbel
) -> jax.Array:
    """Scaled Q of every child, f32[B, K]; without a visit it is the mixed value.

    v_mix = (v + N sum_visited(p q) / sum_visited(p)) / (1 + N), N the visits of all.
    """
    mean = of.weighted / jnp.where(of.visits > 0, of.prior, 1.0)
    mixed = (node.raw_value[:, None] + of.visits * mean) / (of.visits + 1.0)
    completed = jnp.where(edges.visits > 0, edges.qvalue, mixed)
    if config.rescale:
        whole = of.fewest > 0
        low = jnp.where(whole, of.low, jnp.minimum(of.low, mixed))
        high = jnp.where(whole, of.high, jnp.maximum(of.high, mixed))
        completed = (completed - low) / jnp.maximum(high - low, 1e-8)
    return (config.maxvisit_init + of.most) * config.value_scale * completed


def _improved(node: Node, edges: Edges, of: Siblings, config: Gumbel) -> jax.Array:
    logits = edges.logprior + sigma_completed(node, edges, of, config)
    return jax.nn.softmax(jnp.where(edges.valid, logits, jnp.finfo(jnp.float32).min))


def improved_policy(node: Node, edges: Edges, config: Gumbel) -> jax.Array:
    """softmax(logits + sigma(completed q)) over the valid children; f32[B, K]."""
    return _improved(node, edges, siblings(edges), config)


def interior_score(
    node: Node, edges: Edges, config: Gumbel, virtual_loss: float
) -> jax.Array:
    """improved policy - n / (1 + N): visits that follow the improved policy."""
    of = siblings(edges)
    share = (edges.visits + edges.pending) / (1.0 + of.walks)
    return lossy(edges, _improved(node, edges, of, config) - share, virtual_loss)


def considered_score(
    node: Node, edges: Edges, noise: jax.Array, visits: jax.Array, config: Gumbel
) -> jax.Array:
    """noise + logits + sigma(q) of the children with so many `visits`; else -inf.

    visits: bool[B, K], which children are considered now.
    """
    best = jnp.max(edges.logprior, axis=-1, keepdims=True, initial=LOWEST)
    logits = edges.logprior - best
    score = noise + logits + sigma_completed(node, edges, siblings(edges), config)
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
