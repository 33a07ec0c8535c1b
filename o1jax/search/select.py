"""Rules that say which child a walk takes: PUCT and UCB1, and progressive widening.

A rule scores the K children of one node a row: Node (what the edge into it says) and
its Edges in, f32[B, K] out; the walk takes the highest among the children that may be
taken. Pending walks count as visits, so that several leaves of one iteration differ.
Sources: Schrittwieser et al. 2020 (MuZero, appendix B; the qtransform of mctx by parent
and siblings); Auer et al. 2002 (UCB1); Couetoux et al. 2011 (widening).
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from o1jax.config import configurable
from o1jax.search.tree import LOGPRIOR, Edges, log_normalised


@configurable
@dataclass(frozen=True)
class Puct:
    """Upper confidence bound with the policy as prior, as in MuZero."""

    pb_c_init: float = 1.25  # weight of the prior against the value
    pb_c_base: float = 19652.0  # visits after which that weight starts to grow
    dirichlet_fraction: float = (
        0.0  # of noise in the root's prior; MuZero trains at .25
    )
    dirichlet_alpha: float = 0.3

    def __post_init__(self) -> None:
        for name in ("pb_c_base", "dirichlet_alpha"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0")
        if not self.pb_c_init >= 0:
            raise ValueError("pb_c_init must be at least 0")
        if not 0 <= self.dirichlet_fraction <= 1:
            raise ValueError("dirichlet_fraction must be between 0 and 1")


@configurable
@dataclass(frozen=True)
class Ucb:
    """UCB1: no prior but in the order of first visits."""

    exploration: float = 1.414  # sqrt(2) is right for returns in [0, 1]

    def __post_init__(self) -> None:
        if not self.exploration >= 0:
            raise ValueError("exploration must be at least 0")


@configurable
@dataclass(frozen=True)
class Widening:
    """Progressive widening: a node of n visits may have first * n**power children.

    Child k may be taken once k < first * n**power, so children should come in the order
    in which they were sampled. A new child competes by the rule like any other; no node
    is expanded a second time, so widening costs no simulation of its own.
    """

    first: float = 0.0  # children at the first visit; 0: all at once, no widening
    power: float = 0.5

    def __post_init__(self) -> None:
        if self.first != 0 and not self.first >= 1:
            raise ValueError("first must be at least 1, or 0 for no widening")
        if not 0 <= self.power <= 1:
            raise ValueError("power must be between 0 and 1")


class Node(NamedTuple):
    """What a walk knows of the node it stands at, one per tree."""

    visits: jax.Array  # f32[B]  pending ones included
    value: jax.Array  # f32[B]  mean return
    raw_value: jax.Array  # f32[B]  the network's


def admitted(node: Node, edges: Edges, widening: Widening) -> Edges:
    """The edges with those children made invalid that widening does not admit yet.

    The prior of the others is normalised again.
    """
    if not widening.first:
        return edges
    allowed = widening.first * node.visits**widening.power
    rank = jnp.cumsum(edges.valid, axis=-1) - 1  # an invalid child takes no place
    prior = jnp.where(rank < allowed[:, None], edges.logprior, -jnp.inf)
    return Edges(edges.packed.at[..., LOGPRIOR].set(log_normalised(prior)))


def extremes(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Least and greatest of the last axis, f32[B, K] -> f32[B, 1] each, in one pass.

    A level of a walk is many small kernels on a CPU, and each of them counts.
    """
    low, high = jax.lax.reduce(
        (x, x),
        (jnp.inf, -jnp.inf),
        lambda a, b: (jnp.minimum(a[0], b[0]), jnp.maximum(a[1], b[1])),
        (x.ndim - 1,),
    )
    return low[..., None], high[..., None]


def normalised(node: Node, edges: Edges, qvalue: jax.Array) -> jax.Array:
    """Q in [0, 1] by the extremes of the node's value and its children's; f32[B, K].

    A child without a visit gets the lowest.
    """
    visited = edges.visits > 0
    low, high = extremes(jnp.where(visited, qvalue, node.value[:, None]))
    low = jnp.minimum(low, node.value[:, None])
    high = jnp.maximum(high, node.value[:, None])
    return (jnp.where(visited, qvalue, low) - low) / jnp.maximum(high - low, 1e-8)


def lossy(edges: Edges, qvalue: jax.Array, virtual_loss: float) -> jax.Array:
    """Q if each pending visit had returned `virtual_loss` less than the mean."""
    if not virtual_loss:
        return qvalue
    visits = jnp.maximum(edges.visits + edges.pending, 1.0)
    return qvalue - virtual_loss * edges.pending / visits


def puct_score(
    node: Node, edges: Edges, config: Puct, virtual_loss: float
) -> jax.Array:
    """score = q + sqrt(N) (c_init + log((N + c_base + 1) / c_base)) p / (n + 1)."""
    total = node.visits[:, None]
    weight = config.pb_c_init + jnp.log(
        (total + config.pb_c_base + 1.0) / config.pb_c_base
    )
    visits = edges.visits + edges.pending
    explore = jnp.sqrt(total) * weight * jnp.exp(edges.logprior) / (visits + 1.0)
    value = normalised(node, edges, edges.qvalue)
    return lossy(edges, value, virtual_loss) + explore


def ucb_score(node: Node, edges: Edges, config: Ucb, virtual_loss: float) -> jax.Array:
    """score = q + c sqrt(log N / n); children without a visit first, by prior."""
    visits = edges.visits + edges.pending
    fresh = edges.valid & (visits == 0)
    explore = jnp.sqrt(jnp.log(node.visits)[:, None] / jnp.maximum(visits, 1.0))
    # A child that is only pending has no value yet: its parent's stands in.
    value = jnp.where(edges.visits > 0, edges.qvalue, node.value[:, None])
    score = lossy(edges, value, virtual_loss) + config.exploration * explore
    by_prior = jnp.where(fresh, edges.logprior, -jnp.inf)
    return jnp.where(jnp.any(fresh, axis=-1, keepdims=True), by_prior, score)


def with_noise(key: jax.Array, edges: Edges, config: Puct) -> Edges:
    """The edges with Dirichlet noise mixed into their prior."""
    if not config.dirichlet_fraction:
        return edges
    children = edges.valid.shape[-1]
    # Gamma draws of the valid children alone, normalised, are Dirichlet over them.
    draws = jax.random.loggamma(
        key, jnp.full(children, config.dirichlet_alpha), edges.valid.shape
    )
    noise = log_normalised(jnp.where(edges.valid, draws, -jnp.inf))
    mixed = jnp.logaddexp(
        jnp.log1p(-config.dirichlet_fraction) + edges.logprior,
        jnp.log(config.dirichlet_fraction) + noise,
    )
    mixed = jnp.where(edges.valid, mixed, -jnp.inf)
    return Edges(edges.packed.at[..., LOGPRIOR].set(mixed))
