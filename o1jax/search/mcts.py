"""Monte-Carlo tree search over a batch of problems, in one XLA program.

In: the evaluated roots and an ExpandFn, which alone knows what a state is. Out: visit
counts or an improved policy, the best child, and the trees. Each iteration walks down M
times per tree, evaluates the new leaves in one call of the network, and backs up.
"""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from o1jax.config import configurable
from o1jax.search import gumbel as gumbel_rule
from o1jax.search.expand import (
    ExpandFn,
    expand,
    lay_flat,
    on_flat_pages,
    shaped_as,
)
from o1jax.search.gumbel import Gumbel
from o1jax.search.select import (
    Node,
    Puct,
    Ucb,
    Widening,
    puct_score,
    ucb_score,
    with_noise,
)
from o1jax.search.simulate import ScoreFn, backup, select
from o1jax.search.tree import Counts, Edges, Page, SearchResult, Tree, plant
from o1jax.types import NodeEval, Params

Rule = Literal["puct", "ucb", "gumbel"]


@configurable
@dataclass(frozen=True)
class Mcts:
    """A tree search."""

    simulations: int = 32
    leaves: int = 1  # walks per tree and call of the network; 1 is sequential search
    rule: Rule = "puct"
    max_depth: int = 0  # edges from the root; 0: as many as the pool allows
    nodes: int = 0  # of the pool of a tree; 0: one a simulation, and the root
    budget: float = 0.0  # a tree of this cost is walked no further; 0: no limit
    # Walks into finished nodes again, as games have it. The worth of a finished text is
    # known, so a search over texts may pass it by; a node below which all is finished
    # is then worth virtual_loss less, to turn the next walks elsewhere.
    revisit: bool = True
    virtual_loss: float = 1.0  # a pending walk counts as having returned so much less
    puct: Puct = field(default_factory=Puct)
    ucb: Ucb = field(default_factory=Ucb)
    gumbel: Gumbel = field(default_factory=Gumbel)
    widening: Widening = field(default_factory=Widening)

    def __post_init__(self) -> None:
        for name in ("simulations", "leaves"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        if self.simulations % self.leaves:
            raise ValueError(
                f"simulations ({self.simulations}) must be a multiple of "
                f"leaves ({self.leaves})"
            )
        if self.rule not in get_args(Rule):
            raise ValueError(f"rule must be one of {', '.join(get_args(Rule))}")
        if self.max_depth < 0:
            raise ValueError("max_depth must be at least 1, or 0 for no limit")
        if self.nodes != 0 and not self.nodes >= 2:
            raise ValueError("nodes must be at least 2, or 0 for enough")
        if not self.budget >= 0:
            raise ValueError("budget must be above 0, or 0 for no limit")
        if self.virtual_loss < 0:
            raise ValueError("virtual_loss must be at least 0")
        if self.rule == "gumbel" and self.widening.first:
            raise ValueError(
                "widening needs rule puct or ucb: gumbel halves a fixed set"
            )

    @property
    def pool(self) -> int:
        """Nodes of a tree."""
        return self.nodes or self.simulations + 1


class _Scores(NamedTuple):
    """A rule as functions of a node and its edges."""

    root: ScoreFn
    interior: ScoreFn
    weights: ScoreFn  # f32[B, K]
    best: ScoreFn  # i32[B]


def _visit_share(node: Node, edges: Edges) -> jax.Array:
    """Visits as a distribution; the prior where nothing was visited."""
    total = jnp.sum(edges.visits, axis=-1, keepdims=True)
    share = edges.visits / jnp.maximum(total, 1.0)
    return jnp.where(total > 0, share, jnp.exp(edges.logprior))


def _most_visited(node: Node, edges: Edges) -> jax.Array:
    """The child of most visits; of equals, that of the higher value."""
    visits = jnp.where(edges.valid, edges.visits, -1.0)
    most = visits == jnp.max(visits, axis=-1, keepdims=True)
    score = jnp.where(most & edges.valid, edges.qvalue, -jnp.inf)
    return jnp.argmax(score, axis=-1).astype(jnp.int32)


def _scores(config: Mcts, key: jax.Array, root: Edges) -> _Scores:
    """The rule of the config. key: of the root's noise; root: its edges before."""
    loss = config.virtual_loss if config.leaves > 1 else 0.0
    if config.rule == "puct":
        score = lambda node, edges: puct_score(node, edges, config.puct, loss)
        return _Scores(score, score, _visit_share, _most_visited)
    if config.rule == "ucb":
        score = lambda node, edges: ucb_score(node, edges, config.ucb, loss)
        return _Scores(score, score, _visit_share, _most_visited)
    own = config.gumbel
    noise = own.scale * jax.random.gumbel(key, root.visits.shape, jnp.float32)
    table = jnp.asarray(gumbel_rule.halving_table(own.considered, config.simulations))
    start = root.visits
    return _Scores(
        lambda n, e: gumbel_rule.root_score(n, e, noise, start, table, own),
        lambda n, e: gumbel_rule.interior_score(n, e, own, loss),
        lambda n, e: gumbel_rule.improved_policy(n, e, own),
        lambda n, e: gumbel_rule.root_choice(n, e, noise, start, own),
    )


def mcts(
    params: Params,
    key: jax.Array,
    root: NodeEval,
    page: Page,
    expand_fn: ExpandFn,
    config: Mcts,
) -> SearchResult:
    """Searches from roots already evaluated: root [B, ...], page the pytree [B, ...].

    On a mesh call it inside shard_map over the data axes (check_vma=False), with a key
    per shard: it has no collective of its own.
    """
    tree = plant(root, page, nodes=config.pool)
    return grow(params, key, tree, expand_fn, config)


def grow(
    params: Params, key: jax.Array, tree: Tree, expand_fn: ExpandFn, config: Mcts
) -> SearchResult:
    """Adds config.simulations to trees that may hold some already (reuse.advance).

    Where config.budget ends a tree its cost is below budget + leaves * the dearest row,
    since an iteration is begun below the budget and always finished.
    """
    batch, nodes, _, _ = tree.edges.packed.shape
    max_depth = min(config.max_depth or nodes, nodes)
    virtual = config.leaves > 1
    key, noise_key = jax.random.split(key)
    roots = Edges(tree.edges.packed[:, 0])
    if config.rule == "puct":
        roots = with_noise(noise_key, roots, config.puct)
        tree = tree.replace(edges=Edges(tree.edges.packed.at[:, 0].set(roots.packed)))
    scores = _scores(config, noise_key, roots)
    before, flat_fn = tree, on_flat_pages(expand_fn, tree.store)
    tree = tree.replace(store=lay_flat(tree.store))

    def within(tree: Tree) -> Tree:
        """The trees with those ended that have spent their budget."""
        if not config.budget:
            return tree
        return tree.replace(live=tree.live & (tree.cost < config.budget))

    def walk(carry: tuple[Tree, jax.Array], m: jax.Array) -> tuple:
        tree, paths, leaf = select(
            *carry,
            m,
            scores.root,
            scores.interior,
            widening=config.widening,
            revisit=config.revisit,
            stuck_loss=config.virtual_loss,
            virtual=virtual,
        )
        return (tree, paths), leaf

    def iteration(carry: tuple) -> tuple:
        i, tree, paths = carry
        if virtual:
            (tree, paths), leaves = jax.lax.scan(
                walk, (tree, paths), jnp.arange(config.leaves)
            )
        else:
            (tree, paths), leaf = walk((tree, paths), 0)
            leaves = jax.tree.map(lambda x: x[None], leaf)
        tree, paths, leaves, found = expand(
            params, jax.random.fold_in(key, i), tree, paths, leaves, flat_fn
        )
        if virtual:
            tree = jax.lax.fori_loop(
                0,
                config.leaves,
                lambda m, tree: backup(tree, paths, m, leaves, found, virtual=True),
                tree,
            )
        else:
            tree = backup(tree, paths, 0, leaves, found, virtual=False)
        return i + 1, within(tree), paths

    iterations = config.simulations // config.leaves
    done, tree, _ = jax.lax.while_loop(
        lambda carry: (carry[0] < iterations) & jnp.any(carry[1].live),
        iteration,
        (
            jnp.int32(0),
            within(tree),
            jnp.zeros((config.leaves, max_depth, batch), jnp.int32),
        ),
    )
    # A later search may have another budget: only a full pool ends a tree for good.
    tree = tree.replace(
        live=before.live & ~tree.exhausted, store=shaped_as(before.store, tree.store)
    )
    node = Node(tree.root_visits, tree.root_value, tree.root_raw_value)
    edges = Edges(tree.edges.packed[:, 0])
    return SearchResult(
        weights=scores.weights(node, edges),
        value=tree.root_value,
        best=scores.best(node, edges),
        tree=tree,
        counts=Counts(
            simulations=(tree.root_visits - before.root_visits).astype(jnp.int32),
            rows=tree.used - before.used,
            computed_rows=done * batch * config.leaves,
            exhausted=tree.exhausted,
            stopped=(config.budget > 0) & (tree.cost >= config.budget),
        ),
    )
