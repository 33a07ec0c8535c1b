"""Population searches: best-of-N, beam, DVTS, lookahead and revision are one walk.

In: evaluated roots and an ExpandFn, as for mcts(). Out: all nodes that were drawn, and
the W survivors of each problem. Level by level, every survivor that is not finished
draws K children, and the best of them survive. Finished survivors keep their place,
compete with their worth, and cost nothing more. Sources stand at the recipes below.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from o1jax.config import configurable
from o1jax.search.expand import ExpandFn
from o1jax.search.lookahead import look_ahead
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

Answer = Literal["last", "any"]


@configurable
@dataclass(frozen=True)
class Frontier:
    """A search by levels.

    A root draws width * children times. Where survivors compete, a draw equal to a
    sibling becomes no node and no survivor, so that the beam does not fill with copies;
    independent survivors are draws of their own, equal or not. Either way its tokens
    are paid for. Of equal scores the earlier draw survives: the outcome does not hang
    on rounding or on the machine, also with a guide that knows only 0 and 1.
    """

    width: int = 4  # survivors a problem
    children: int = 4  # draws for each survivor and level
    depth: int = 8  # levels at most
    independent: bool = False  # each survivor keeps the best of its own children
    # A candidate is judged by where so many further draws lead, or by its end if that
    # comes before. They are those of its child 0, that child's child 0 and so on; what
    # is drawn is thrown away, and paid for again if the candidate survives.
    lookahead: int = 0
    answer: Answer = "last"  # any: survivors are the best of all levels, not the last
    budget: float = 0.0  # cost from which a problem begins no further level; 0: none

    def __post_init__(self) -> None:
        for name in ("width", "children", "depth"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        for name in ("lookahead", "budget"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0")
        if self.answer not in get_args(Answer):
            raise ValueError(f"answer must be one of {', '.join(get_args(Answer))}")

    @property
    def candidates(self) -> int:
        """Draws of a level."""
        return self.width * self.children

    @property
    def pool(self) -> int:
        """Nodes of a problem: the root, and every candidate of every level."""
        return 1 + self.depth * self.candidates


def best_of_n(samples: int, *, depth: int = 1) -> Frontier:
    """N answers drawn side by side; the guide picks. Cobbe et al. 2021, 2110.14168.

    depth: steps of an answer at most; 1 where a step is a whole answer.
    """
    return Frontier(width=samples, children=1, depth=depth, independent=True)


def beam(width: int, children: int, *, depth: int, lookahead: int = 0) -> Frontier:
    """Step-level beam search by a guide: Xie et al. 2023, arXiv 2305.00633.

    With lookahead: Snell et al. 2024, arXiv 2408.03314, where the look ahead is greedy;
    here it is a draw as any other.
    """
    return Frontier(width=width, children=children, depth=depth, lookahead=lookahead)


def dvts(width: int, children: int, *, depth: int, lookahead: int = 0) -> Frontier:
    """Diverse verifier tree search: greedy searches side by side, which do not compete.

    Beeching, Tunstall & Rush 2024, "Scaling test-time compute with open models".
    """
    return Frontier(
        width=width,
        children=children,
        depth=depth,
        independent=True,
        lookahead=lookahead,
    )


def revision(chains: int, revisions: int) -> Frontier:
    """Answers revised in sequence, chains of them in parallel: Snell et al. 2024.

    For an ExpandFn whose steps are whole answers that see the answers before them. Each
    chain ends with the best of its answers, as the guide says.
    """
    return Frontier(
        width=chains, children=1, depth=revisions + 1, independent=True, answer="any"
    )


class _Front(NamedTuple):
    """The search between two levels."""

    level: jax.Array  # i32[]
    nodes: Nodes
    node: jax.Array  # i32[B, W]  the survivors; -1: none; the root before level 0
    score: jax.Array  # f32[B, W]
    prior: jax.Array  # f32[B, W, K]  log-probabilities; all -inf: nothing can follow
    path: jax.Array  # i32[B, W, D]  from the root to those survivors that go on
    found: jax.Array  # i32[B, W]  of `answer` any: the best so far, -1: none
    found_score: jax.Array  # f32[B, W]


def frontier(
    params: Params,
    key: jax.Array,
    root: NodeEval,
    page: Page,
    expand_fn: ExpandFn,
    config: Frontier,
) -> RecipeResult:
    """Searches from evaluated roots [B, ...]; arguments as of mcts().

    `best` is the survivor of the highest score, a finished one before any that is not
    (unless `answer` is any). On a mesh, call it inside shard_map over the data axes.
    """
    (batch, K), W = root.prior.shape, config.width
    if config.children > K:
        raise ValueError(f"children ({config.children}) is above the {K} of a node")
    scratch = config.candidates * max(config.lookahead - 1, 0)
    nodes = plant_nodes(root, page, nodes=config.pool, scratch=scratch)
    of_each = lambda x: jnp.broadcast_to(x[:, None], (batch, W, *x.shape[1:]))
    path = jnp.full((batch, W, config.depth + config.lookahead), -1, jnp.int32)
    none = jnp.full((batch, W), -1, jnp.int32), jnp.full((batch, W), -jnp.inf)
    front = _Front(
        level=jnp.int32(0),
        nodes=nodes,
        node=jnp.zeros((batch, W), jnp.int32),
        score=none[1],
        prior=of_each(root_prior(root)),
        path=path.at[:, :, 0].set(0),
        found=none[0],
        found_score=none[1],
    )
    front = jax.lax.while_loop(
        lambda front: (front.level < config.depth) & jnp.any(_going(front, config)),
        lambda front: _level(params, key, front, expand_fn, config),
        front,
    )
    if config.answer == "any":
        survivors, score = front.found, front.found_score
        ahead = ()
    else:
        survivors, score = jnp.where(front.node > 0, front.node, -1), front.score
        ahead = (read(front.nodes.finished, survivors),)
    score = jnp.where(survivors >= 0, score, -jnp.inf)
    order = ranked(score, survivors >= 0, *ahead)
    best = jnp.take_along_axis(survivors, order[:, :1], axis=1)[:, 0]
    # The scratch pages behind the nodes' have served.
    store = jax.tree.map(lambda x: x[:, : config.pool], front.nodes.store)
    nodes = front.nodes.replace(store=store)
    return RecipeResult(nodes, survivors, score, jnp.maximum(best, 0))


def _going(front: _Front, config: Frontier) -> jax.Array:
    """bool[B, W]: the survivors that draw children at this level."""
    first = jnp.arange(front.prior.shape[-1]) < config.children
    may = first | (front.level == 0)  # a root draws more than its first children
    open_ = jnp.any((front.prior > -jnp.inf) & may[None, None], axis=-1)
    return open_ & within(front.nodes, config.budget)[:, None]


def _level(
    params: Params,
    key: jax.Array,
    front: _Front,
    expand_fn: ExpandFn,
    config: Frontier,
) -> _Front:
    """Draws the candidates of a level, and chooses who survives it."""
    C, M = config.children, config.candidates
    of_parent = lambda x: jnp.repeat(x, C, axis=1)
    going = _going(front, config)
    number = jnp.arange(M, dtype=jnp.int32)
    action = jnp.where(front.level == 0, number, number % C)
    logprior = _logprior(front, of_parent(front.prior), action)
    wanted = of_parent(going) & (logprior > -jnp.inf)
    action = jnp.where(wanted, action[None], -1)
    path = of_parent(front.path)
    key = jax.random.fold_in(key, front.level)
    drawn, page = draw(
        params,
        key,
        front.nodes.store,
        path,
        action,
        expand_fn,
        budget=config.budget,
    )
    made = wanted if config.independent else wanted & ~drawn.twin
    nodes, node = keep(front.nodes, made, path, action, logprior, drawn, page)
    path = path.at[:, :, front.level + 1].set(node, mode="drop")
    score = drawn.worth
    if config.lookahead:
        score, nodes = look_ahead(
            params,
            key,
            nodes,
            path,
            drawn,
            expand_fn,
            wanted=made,
            depth=front.level + 1,
            steps=config.lookahead,
            scratch=config.pool,
            budget=config.budget,
        )
        nodes = nodes.replace(value=write(nodes.value, node, score))

    stays = jnp.where(going, -1, front.node)
    chosen = _survivors(stays, front.score, node, score, config)
    found, found_score = front.found, front.found_score
    if config.answer == "any":
        better = _survivors(found, found_score, node, score, config)
        found = _choose(found, node, better)
        found_score = _choose(found_score, score, better)
    survivor = _choose(stays, node, chosen)
    prior = _choose(front.prior, drawn.prior, chosen)
    return _Front(
        level=front.level + 1,
        nodes=nodes,
        node=survivor,
        score=_choose(front.score, score, chosen),
        # A place nobody took must not go on as who had it before.
        prior=jnp.where((survivor >= 0)[..., None], prior, -jnp.inf),
        path=_choose(front.path, path, chosen),
        found=found,
        found_score=found_score,
    )


def _logprior(front: _Front, prior: jax.Array, action: jax.Array) -> jax.Array:
    """f32[B, M]: of the action i32[M] at each parent, prior f32[B, M, K].

    If a root draws more often than it has priors, its draws weigh the same.
    """
    M, K = prior.shape[1:]
    at = jnp.minimum(action, K - 1)[None, :, None]
    own = jnp.take_along_axis(prior, at, axis=-1)[..., 0]
    if M <= K:
        return own
    known = (action < K)[None]
    alike = jnp.where(known & (own == -jnp.inf), -jnp.inf, -jnp.log(M))
    return jnp.where(front.level == 0, alike, own)


def _survivors(
    held: jax.Array,
    held_score: jax.Array,
    node: jax.Array,
    score: jax.Array,
    config: Frontier,
) -> jax.Array:
    """i32[B, W]: who is best of the held [B, W] and the candidates [B, M], in a row."""
    W, C = config.width, config.children
    there = jnp.concatenate([held, node], axis=1) >= 0
    score = jnp.concatenate([held_score, score], axis=1)
    if not config.independent:
        return ranked(score, there)[:, :W]
    own = W + jnp.arange(W * C, dtype=jnp.int32).reshape(W, C)
    group = jnp.concatenate([jnp.arange(W, dtype=jnp.int32)[:, None], own], axis=1)
    first = ranked(score[:, group], there[:, group])[..., :1]
    return jnp.take_along_axis(group[None], first, axis=-1)[..., 0]


def _choose(held: jax.Array, new: jax.Array, place: jax.Array) -> jax.Array:
    """[B, W, ...] and [B, M, ...] in a row, read at places i32[B, W]."""
    return read(jnp.concatenate([held, new], axis=1), place)
