"""Reflective retry: on while the guide agrees; where it does not, again, or back.

In: evaluated roots and an ExpandFn, as for mcts(). Out: the nodes drawn and where each
problem's walk ended. A depth-first search that takes the first step that is good enough
instead of the best of several: Yao et al. 2023, "Tree of Thoughts", arXiv 2305.10601,
algorithm 2, with steps drawn one by one and a bound on the ways back.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from o1jax.config import configurable
from o1jax.search.expand import ExpandFn
from o1jax.search.nodes import Nodes
from o1jax.search.recipe import (
    RecipeResult,
    draw,
    keep,
    plant_nodes,
    ranked,
    read,
    root_prior,
    within,
    write,
)
from o1jax.search.tree import Page
from o1jax.types import NodeEval, Params


@configurable
@dataclass(frozen=True)
class Retry:
    """A walk with rejection.

    A step worth less than the threshold is rejected and the next action of its node is
    drawn; one equal to a sibling is rejected as that was. When a node's attempts have
    all failed, the walk goes back to its parent, provided a node above has attempts
    left, and the node is worth what its best child is. If none has, or the walk has
    gone back often enough, it accepts that child (of equals, the one drawn first).
    """

    threshold: float = 0.5
    attempts: int = 4  # draws at a node
    backtracks: int = 8  # times that a problem goes back from a node to its parent
    depth: int = 8  # steps of an answer at most
    budget: float = 0.0  # cost from which a problem draws no more; 0: none

    def __post_init__(self) -> None:
        for name in ("attempts", "depth"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        for name in ("backtracks", "budget"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0")

    @property
    def pool(self) -> int:
        """Nodes of a problem: every step back lets one more node draw its children."""
        return 1 + self.attempts * (self.depth + self.backtracks)


class _Walk(NamedTuple):
    """The walks between two draws."""

    draws: jax.Array  # i32[]
    nodes: Nodes
    left: jax.Array  # f32[B, N, K]  log-probability of actions to try; -inf: not to
    at: jax.Array  # i32[B]  where the walk stands
    depth: jax.Array  # i32[B]
    path: jax.Array  # i32[B, D]  from the root to there; -1 behind
    backtracks: jax.Array  # i32[B]
    done: jax.Array  # bool[B]


def retry(
    params: Params,
    key: jax.Array,
    root: NodeEval,
    page: Page,
    expand_fn: ExpandFn,
    config: Retry,
) -> RecipeResult:
    """Walks from evaluated roots [B, ...]; arguments as of mcts().

    The one survivor is where the walk ended. A walk stopped by its budget ends with the
    best finished node that it made, or where it stands.
    """
    batch, K = root.prior.shape
    if config.attempts > K:
        raise ValueError(f"attempts ({config.attempts}) is above the {K} of a node")
    nodes = plant_nodes(root, page, nodes=config.pool)
    left = jnp.full((batch, config.pool, K), -jnp.inf)
    left = left.at[:, 0].set(_attempts(root_prior(root), config))
    walk = _Walk(
        draws=jnp.int32(0),
        nodes=nodes,
        left=left,
        at=jnp.zeros(batch, jnp.int32),
        depth=jnp.zeros(batch, jnp.int32),
        path=jnp.full((batch, config.depth), -1, jnp.int32).at[:, 0].set(0),
        backtracks=jnp.zeros(batch, jnp.int32),
        done=~jnp.any(left[:, 0] > -jnp.inf, axis=-1),
    )
    walk = jax.lax.while_loop(
        lambda walk: jnp.any(_going(walk, config)),
        lambda walk: _attempt(params, key, walk, expand_fn, config),
        walk,
    )
    nodes = walk.nodes
    answer = ranked(nodes.value, nodes.finished)[:, 0]
    answered = ~walk.done & _of(nodes.finished, answer)
    best = jnp.where(answered, answer, walk.at)
    score = jnp.where(best > 0, _of(nodes.value, best), -jnp.inf)
    survivor = jnp.where(best > 0, best, -1)
    return RecipeResult(nodes, survivor[:, None], score[:, None], best)


def _going(walk: _Walk, config: Retry) -> jax.Array:
    """bool[B]: the walks that have not ended."""
    return ~walk.done & within(walk.nodes, config.budget)


def _attempts(prior: jax.Array, config: Retry) -> jax.Array:
    """f32[B, K]: the prior of a node, but for actions beyond its attempts."""
    early = jnp.arange(prior.shape[-1]) < config.attempts
    return jnp.where(early[None], prior, -jnp.inf)


def _of(rows: jax.Array, node: jax.Array) -> jax.Array:
    """[B, N, ...] at node ids i32[B]."""
    return read(rows, node[:, None])[:, 0]


def _attempt(
    params: Params, key: jax.Array, walk: _Walk, expand_fn: ExpandFn, config: Retry
) -> _Walk:
    """Draws one child at each node that has an attempt left; then the walks move."""
    going = _going(walk, config)
    left = _of(walk.left, walk.at)
    draws = going & jnp.any(left > -jnp.inf, axis=-1)
    first = jnp.argmax(left > -jnp.inf, axis=-1)[:, None].astype(jnp.int32)
    logprior = jnp.take_along_axis(left, first, axis=-1)
    action = jnp.where(draws[:, None], first, -1)
    path = walk.path[:, None]
    drawn, page = draw(
        params,
        jax.random.fold_in(key, walk.draws),
        walk.nodes.store,
        path,
        action,
        expand_fn,
        budget=config.budget,
    )
    made = draws[:, None] & ~drawn.twin
    nodes, child = keep(walk.nodes, made, path, action, logprior, drawn, page)
    tried = jnp.where(jnp.arange(left.shape[-1])[None] == action, -jnp.inf, left)
    left = write(walk.left, walk.at[:, None], tried[:, None])
    deeper = (walk.depth + 1 < config.depth)[:, None]
    below = jnp.where(deeper, _attempts(drawn.prior[:, 0], config), -jnp.inf)
    left = write(left, child, below[:, None])
    accepted = made & (drawn.worth >= config.threshold)
    walk = walk._replace(draws=walk.draws + 1, nodes=nodes, left=left)
    return _move(walk, going, jnp.where(accepted, child, -1)[:, 0], config)


def _move(walk: _Walk, going: jax.Array, accepted: jax.Array, config: Retry) -> _Walk:
    """Down to the child accepted (i32[B], -1: none), or back, or on with the best."""
    nodes, at, depth = walk.nodes, walk.at, walk.depth
    level = jnp.arange(config.depth)[None]
    open_ = jnp.any(walk.left > -jnp.inf, axis=-1)  # bool[B, N]
    failed = going & (accepted < 0) & ~_of(open_, at)
    above = jnp.any(read(open_, walk.path), axis=-1)  # behind the path: the root
    back = failed & above & (walk.backtracks < config.backtracks)

    child = nodes.parent == at[:, None]
    best = ranked(nodes.value, child)[:, 0]
    settles = failed & ~back & jnp.any(child, axis=-1)
    worth = jnp.where(back, _of(nodes.value, best), _of(nodes.value, at))
    value = write(nodes.value, at[:, None], worth[:, None])

    down = (accepted >= 0) | settles
    target = jnp.where(accepted >= 0, accepted, best)
    new_depth = depth + down - back
    changed = jnp.where(down, new_depth, jnp.where(back, depth, config.depth))
    entry = jnp.where(down, target, -1)
    path = jnp.where(level == changed[:, None], entry[:, None], walk.path)
    # Nothing to try and nothing drawn below: finished, at full depth, or a dead end.
    leaf = ~_of(open_, target) & ~jnp.any(nodes.parent == target[:, None], axis=-1)
    return walk._replace(
        nodes=nodes.replace(value=value),
        at=jnp.where(back, _of(nodes.parent, at), jnp.where(down, target, at)),
        depth=new_depth,
        path=path,
        backtracks=walk.backtracks + back,
        done=walk.done | (down & leaf) | (failed & ~back & ~settles),
    )
