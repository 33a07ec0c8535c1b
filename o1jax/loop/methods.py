"""The methods that answer a question by search, each at a given budget.

In: a Search config. Out: a function (params, keys, prompts, reward_params) -> Found, to
be jitted: the nodes of each problem's tree and those that may be the answer. A budget
of N is what N whole answers cost: best-of-N draws N of them, a beam draws N steps a
level, and a tree search goes on until it has drawn as many tokens.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from o1jax.config import ConfigError, configurable, nearest
from o1jax.loop.guides import Verifier
from o1jax.loop.self_evaluation import SelfEvaluation
from o1jax.reward.aggregate import Aggregate
from o1jax.reward.ensemble import Combine
from o1jax.search import frontier as population
from o1jax.search.frontier import Frontier
from o1jax.search.mcts import Mcts, mcts
from o1jax.search.nodes import Nodes, nodes_of
from o1jax.search.pages import GUIDES, Reader, spent
from o1jax.search.retry import Retry, retry
from o1jax.search.select import Widening
from o1jax.search.steps import Steps, StepSearch
from o1jax.types import Params, Prompts, Spent

Method = Literal["best_of_n", "beam", "dvts", "lookahead", "mcts", "retry", "revision"]
Select = Literal["max", "weighted", "majority", "borda"]
# A tree grows wider as it is visited more, and leaves alone what is finished.
TREE_SEARCH = Mcts(leaves=4, revisit=False, widening=Widening(first=2.0))


@configurable
@dataclass(frozen=True)
class Search:
    """A way to answer a question with more compute."""

    method: Method = "mcts"
    name: str = ""  # in tables; default: the method and its guide
    budget: int = 16  # compute of so many whole answers
    depth: int = 0  # steps of an answer at most; 0: as in worked training examples
    answer_tokens: float = 0.0  # of a whole answer; 0: as in worked training examples
    # Of the finished answers: max takes the one that the guide values most, weighted
    # the answer with the highest sum of values, majority the most frequent one, borda
    # the one that the heads of a reward model prefer to most others, two at a time.
    select: Select = "max"
    # One of these guides in place of Steps.guide: the task's check, the policy when
    # asked, or the reward model that a TrainReward stage of that name has trained.
    verifier: Verifier | None = None
    self_evaluation: SelfEvaluation | None = None
    reward: str = ""
    aggregate: Aggregate | None = None  # of its scores of steps; default: as trained
    combine: Combine = "mean"  # of an ensemble's heads; pessimistic: mean - lam std
    lam: float = 1.0
    lookahead: int = 1  # further steps before a candidate is judged (lookahead)
    revisions: int = 1  # of each first attempt (revision)
    steps: Steps = field(default_factory=Steps)
    mcts: Mcts = field(default_factory=lambda: TREE_SEARCH)
    retry: Retry = field(default_factory=Retry)

    def __post_init__(self) -> None:
        for option, known in (
            ("method", Method),
            ("select", Select),
            ("aggregate", Aggregate),
            ("combine", Combine),
        ):
            if option == "aggregate" and self.aggregate is None:
                continue
            if getattr(self, option) not in get_args(known):
                raise ValueError(
                    f"{option} must be one of {', '.join(get_args(known))}"
                )
        for option in ("budget", "lookahead"):
            if getattr(self, option) < 1:
                raise ValueError(f"{option} must be at least 1")
        for option in ("depth", "answer_tokens", "revisions", "lam"):
            if not getattr(self, option) >= 0:
                raise ValueError(f"{option} must not be negative")
        guides = ("verifier", "self_evaluation", "reward")
        given = [name for name in guides if getattr(self, name)]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are both set: choose one")

    @property
    def rows(self) -> int:
        """Rows of the network that a problem needs at once, or their room in memory."""
        return 8 * self.mcts.leaves if self.method == "mcts" else self.budget

    @property
    def attempts(self) -> bool:
        """Whether a node is a whole attempt, which sees those on its path."""
        return self.method == "revision" or self.steps.level == "solution"

    @property
    def guide(self) -> str:
        """What judges states, in words."""
        if self.reward:
            how = [self.aggregate or ""] + [self.combine] * (self.combine != "mean")
            return ", ".join(filter(None, [self.reward, *how]))
        if self.self_evaluation is not None:
            return "self-evaluation"
        if self.verifier is None:
            return self.steps.guide
        noise = self.verifier.noise
        return f"verifier, noise {noise:g}" if noise else "verifier"

    @property
    def judged(self) -> str:
        """The guide, and how the answer is chosen if it is not the guide's best."""
        return self.guide if self.select == "max" else f"{self.guide}, {self.select}"

    @property
    def label(self) -> str:
        """The method's name in tables."""
        return self.name or f"{self.method.replace('_', '-')} ({self.judged})"


class Found(NamedTuple):
    """What a method found for B problems."""

    nodes: Nodes  # without keys and values
    survivors: jax.Array | None  # i32[B, W]  may answer, -1: none; None: all nodes may
    spent: Spent  # f32[B] each; no FLOPs, which are left to who counts programs
    score: jax.Array | None = None  # f32[B, N, K]  of each node, by a reward's K heads


def with_guide(method: Search, guide: str, rewards: Sequence[str]) -> Search:
    """The method guided by what is named: a guide of Steps, the verifier, a stage.

    rewards: names of the stages that train reward models. ConfigError if none is meant.
    """
    known = [*GUIDES, "verifier", *rewards]
    if guide not in known:
        choices = ", ".join(known)
        raise ConfigError(
            f"guide must be one of {choices}, not {guide!r}{nearest(guide, known)}"
        )
    method = replace(method, verifier=None, self_evaluation=None, reward="", name="")
    if guide == "verifier":
        return replace(method, verifier=Verifier())
    if guide in GUIDES:
        return replace(method, steps=replace(method.steps, guide=guide))
    return replace(method, reward=guide)


Program = Callable[[Params, jax.Array, Prompts, Params], Found]


def build_program(
    search: StepSearch,
    config: Search,
    reward: Callable[[Params], Reader] | None = None,
) -> Program:
    """The method as a function of (params, keys [B], prompts, reward_params); jit it.

    reward: makes a reader of reward_params; it takes the place of any other guide.
    depth and answer_tokens of the config must be set.
    """
    tokens = config.budget * config.answer_tokens
    steps = search.config
    if config.method == "mcts":
        recipe = _tree_search(config, tokens)
        # Deep in a tree most draws are twins; at the root a large budget wants many.
        many = math.ceil(4 * math.sqrt(config.budget))
        steps = replace(steps, children=max(steps.children, many))
    elif config.method == "retry":
        recipe = _retry(config, tokens)
        steps = replace(steps, children=config.retry.attempts)
    else:
        frontier = _frontier(config)
        recipe = _population(frontier)
        steps = replace(steps, children=frontier.children)
    if config.method == "revision":
        whole = steps.tokens * config.depth
        steps = replace(steps, level="solution", tokens=whole)
    search = replace(search, config=steps)

    def program(
        params: Params, keys: jax.Array, prompts: Prompts, reward_params: Params = None
    ) -> Found:
        params, guided = search.unstack(params), search
        if reward is not None:
            guided = replace(search, reader=reward(reward_params))
        problems, root, page = guided.start(params, keys, prompts)
        key = jax.random.fold_in(keys[0], 2**20)  # of what is drawn for the batch
        found = recipe(params, key, root, page, guided.expand_fn(problems))
        store = found.nodes.store
        score = None if reward is None else store.reader.score
        store = store.replace(k=(), v=(), reader=(), draft=())
        return found._replace(nodes=found.nodes.replace(store=store), score=score)

    return program


def _found(nodes: Nodes, survivors: jax.Array | None) -> Found:
    """What a recipe found, with its account."""
    account = spent(nodes)
    return Found(nodes, survivors, account._replace(flops=jnp.zeros_like(nodes.cost)))


def _frontier(config: Search) -> Frontier:
    """The population of a budget."""
    budget, children = config.budget, min(config.steps.children, config.budget)
    if config.method == "best_of_n":
        return population.best_of_n(budget, depth=config.depth)
    if config.method == "revision":
        chains = max(1, budget // (1 + config.revisions))
        return population.revision(chains, config.revisions)
    ahead = config.lookahead if config.method == "lookahead" else 0
    width = max(1, budget // (children * (1 + ahead)))
    make = population.dvts if config.method == "dvts" else population.beam
    return replace(make(width, children, depth=config.depth), lookahead=ahead)


def _population(frontier: Frontier) -> Callable[..., Found]:
    def recipe(*arguments) -> Found:
        result = population.frontier(*arguments, frontier)
        return _found(result.nodes, result.survivors)

    return recipe


def _tree_search(config: Search, tokens: float) -> Callable[..., Found]:
    """More simulations than whole answers have steps: some find nothing new.

    A small budget is searched with fewer leaves at once, since the walks of an
    iteration do not learn from each other.
    """
    leaves = min(config.mcts.leaves, max(1, config.budget // 8))
    simulations = leaves * math.ceil(3 * config.budget * config.depth / leaves)
    engine = replace(
        config.mcts,
        simulations=simulations,
        leaves=leaves,
        nodes=min(simulations, math.ceil(tokens) + leaves) + 1,
        max_depth=config.depth,
        budget=tokens,
    )

    def recipe(*arguments) -> Found:
        return _found(nodes_of(mcts(*arguments, engine).tree), None)

    return recipe


def _retry(config: Search, tokens: float) -> Callable[..., Found]:
    walk = replace(config.retry, depth=config.depth, budget=tokens)

    def recipe(*arguments) -> Found:
        result = retry(*arguments, walk)
        return _found(result.nodes, result.survivors)

    return recipe
