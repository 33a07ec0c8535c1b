"""The language adaptor: trees whose edges are reasoning steps drawn from the policy.

In: a policy, prompts, and which tokens end a step or the answer. Out: the evaluated
roots and the ExpandFn that mcts() takes. A node draws its K next steps at once when it
is made, because the rules want their prior and duplicates must be known before a walk
comes by: where the policy is sure of a step, the tree does not branch. Of steps not
taken up only the tokens are kept; the one that becomes a node is read once more, S
tokens in one pass that also gives its keys, values and heads. Prior: Hubert et al.
2021 (Sampled MuZero), where draws from the policy weigh 1 / K each.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Literal, NamedTuple, get_args

import chex
import jax
import jax.numpy as jnp

from o1jax.config import configurable
from o1jax.policy.context import Context
from o1jax.policy.policy import Policy
from o1jax.rollout.branch import draw_counts, draw_steps
from o1jax.rollout.sampling import SamplingConfig
from o1jax.search.expand import ExpandFn, last_node
from o1jax.search.mcts import Mcts, mcts
from o1jax.search.pages import (
    GUIDES,
    Guide,
    NodeState,
    StepPage,
    along,
    fold_keys,
    node_state,
    of_nodes,
    path_pages,
    pick,
)
from o1jax.search.reuse import advance
from o1jax.search.tree import SearchResult, Tree
from o1jax.types import NodeEval, Params, Prompts

Prior = Literal["draws", "logprob"]


@configurable
@dataclass(frozen=True)
class Steps:
    """How steps are drawn and judged."""

    children: int = 4  # next steps drawn at a node; duplicates become one child
    tokens: int = 16  # a step ends at a step-end or stop token, or when it is so long
    # draws: each weighs 1 / children, a duplicate's weight goes to its twin; logprob:
    # the policy's probabilities of the distinct steps (twins must not count again).
    prior: Prior = "draws"
    guide: str = "value"  # value, process, likelihood or constant
    discount: float = 1.0  # a step
    sampling: SamplingConfig = field(default_factory=SamplingConfig)

    def __post_init__(self) -> None:
        for name in ("children", "tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        if self.prior not in get_args(Prior):
            raise ValueError(f"prior must be one of {', '.join(get_args(Prior))}")
        if self.guide not in GUIDES:
            raise ValueError(f"guide must be one of {', '.join(GUIDES)}")
        if not 0 < self.discount <= 1:
            raise ValueError("discount must be in (0, 1]")


class Problems(NamedTuple):
    """What all nodes of a tree share: the prompt, read once."""

    k: tuple[jax.Array, ...]  # L x [B, Hkv, P, E]
    v: tuple[jax.Array, ...]
    seen: jax.Array  # bool[B, P]  where a token lies
    length: jax.Array  # i32[B]  tokens

    def context(self, leaves: int = 1) -> Context:
        """The prompts, for `leaves` rows of queries each."""
        return Context(self.k, self.v, jnp.repeat(self.seen, leaves, axis=0)[:, None])


@dataclass(frozen=True)
class StepSearch:
    """Searches over the steps of a policy; its methods are pure, to be jitted.

    On a mesh call them inside shard_map over the data axes (check_vma=False): they have
    no collective of their own.
    """

    policy: Policy
    config: Steps
    step_end_ids: tuple[int, ...]  # tokens that end a step
    stop_ids: tuple[int, ...]  # and those that end the answer with it
    guide: Guide | None = None  # judges nodes in place of the config's

    def __post_init__(self) -> None:
        if not self.stop_ids:
            raise ValueError("stop_ids is empty: nothing would end an answer")

    def search(
        self, params: Params, key: jax.Array, prompts: Prompts, config: Mcts
    ) -> SearchResult:
        """Reads the prompts and searches from them.

        The key may be one for each problem [B]. What is drawn for a problem depends on
        its own key alone (but for noise at the roots, which the engine draws by batch).
        A node's context has room for max_depth steps, so set that when it is known.
        """
        params = self.policy.unstack(params)
        if key.ndim:
            keys, key = key, jax.random.fold_in(key[0], self.config.children + 1)
        else:
            key, own = jax.random.split(key)
            rows = jnp.arange(prompts.length.shape[0])
            keys = jax.vmap(partial(jax.random.fold_in, own))(rows)
        problems, root, page = self.start(params, keys, prompts)
        return mcts(params, key, root, page, self.expand_fn(problems), config)

    def start(
        self, params: Params, keys: jax.Array, prompts: Prompts
    ) -> tuple[Problems, NodeEval, StepPage]:
        """Reads the prompts; the roots draw their steps. A prompt_id of -1 is none."""
        B, P = prompts.tokens.shape
        chex.assert_shape([keys, prompts.length], (B,))
        output, cache = self.policy.start(
            params, prompts.tokens, prompts.length, capacity=P
        )
        whole = lambda layers: tuple(jnp.concatenate(x, axis=2) for x in layers)
        seen = jnp.arange(P)[None] < prompts.length[:, None]
        problems = Problems(whole(cache.k), whole(cache.v), seen, prompts.length)
        S = self.config.tokens
        empty = lambda x: jnp.zeros((B, 1, x.shape[1], S, x.shape[3]), x.dtype)
        page = StepPage(
            k=tuple(empty(x) for x in problems.k),
            v=tuple(empty(x) for x in problems.v),
            tokens=jnp.zeros((B, 1, S), jnp.int32),
            logprob=jnp.zeros((B, 1, S)),
            length=jnp.zeros((B, 1), jnp.int32),
            finished=(prompts.prompt_id < 0)[:, None],
            value=output.value[:, None],
            process=output.process[:, None],
            reward_tokens=jnp.zeros((B, 1), jnp.int32),
            key=jax.random.key_data(keys)[:, None],
            next=None,
        )
        found = self._complete(
            params,
            page,
            node_state(page, jnp.zeros((B, 1, 0), jnp.int32), page),
            output.logits,
            prompts.length,
            ~page.finished,
            [problems.context()],
        )
        return problems, *jax.tree.map(lambda x: x[:, 0], found)

    def expand_fn(self, problems: Problems) -> ExpandFn:
        """The contract of mcts() and grow(), for trees of these problems."""
        return partial(self._expand, problems)

    def _expand(
        self,
        problems: Problems,
        params: Params,
        key: jax.Array,
        store: StepPage,
        path: jax.Array,
        action: jax.Array,
    ) -> tuple[NodeEval, StepPage]:
        """`key` is not used: nodes have their own, the same in any batch."""
        B, M, D = path.shape
        R, S = B * M, self.config.tokens
        parent = last_node(path)
        child = jnp.maximum(action, 0)
        step = jax.tree.map(lambda x: pick(of_nodes(x, parent), child), store.next)
        # An unwanted row may be of length 0: it reads its first slot.
        last = jnp.maximum(step.length - 1, 0)
        finished = jnp.isin(pick(step.tokens, last), jnp.array(self.stop_ids))

        lengths = along(store.length, path)
        begin = problems.length[:, None] + jnp.sum(lengths, axis=-1)
        slot = jnp.arange(S)
        on_path = slot[None, None, None] < lengths[..., None]
        contexts = [
            problems.context(leaves=M),
            Context(
                k=tuple(path_pages(x, path) for x in store.k),
                v=tuple(path_pages(x, path) for x in store.v),
                mask=on_path.reshape(R, 1, D * S),
            ),
        ]
        output, k, v = self.policy.extend(
            params,
            step.tokens.reshape(R, S),
            (begin[..., None] + slot[None, None]).reshape(R, S),
            contexts,
            at=jnp.stack([last, jnp.maximum(last - 1, 0)], axis=-1).reshape(R, 2),
        )
        inside = slot[None] < step.length.reshape(R, 1)
        contexts.append(Context(k, v, inside[:, None]))

        leaves = lambda x: x.reshape(B, M, *x.shape[1:])
        # The value head speaks of what is to come and is trained up to the stop token:
        # a finished node has the value in front of that.
        after, before = leaves(output.value)[..., 0], leaves(output.value)[..., 1]
        before = jnp.where(last > 0, before, of_nodes(store.value, parent))
        page = StepPage(
            k=jax.tree.map(leaves, k),
            v=jax.tree.map(leaves, v),
            tokens=step.tokens,
            logprob=step.logprob,
            length=step.length,
            finished=finished,
            value=jnp.where(finished, before, after),
            process=leaves(output.process)[..., 0],
            reward_tokens=jnp.zeros((B, M), jnp.int32),
            key=fold_keys(of_nodes(store.key, parent), child),
            next=None,
        )
        depth = jnp.sum(path >= 0, axis=-1)  # the deepest nodes draw nothing
        return self._complete(
            params,
            page,
            node_state(store, path, page),
            output.logits[:, 0],
            (begin + step.length).reshape(R),
            (action >= 0) & ~finished & (depth < D),
            contexts,
        )

    def _complete(
        self,
        params: Params,
        page: StepPage,
        state: NodeState,
        logits: jax.Array,
        position: jax.Array,
        open_: jax.Array,
        contexts: list[Context],
    ) -> tuple[NodeEval, StepPage]:
        """Draws the steps behind new nodes [B, M] where `open_`, and asks the guide."""
        B, M = open_.shape
        K, S = self.config.children, self.config.tokens
        own = fold_keys(page.key, jnp.full((B, M), K))  # the children have 0 .. K - 1
        uniform = jax.vmap(
            lambda data: jax.random.uniform(jax.random.wrap_key_data(data), (K, S))
        )(own.reshape(B * M, -1))
        drawn = draw_steps(
            self.policy,
            params,
            logits,
            position,
            contexts,
            uniform=uniform,
            open_=open_.reshape(B * M),
            end_ids=(*self.step_end_ids, *self.stop_ids),
            sampling=self.config.sampling,
        )
        drawn = jax.tree.map(lambda x: x.reshape(B, M, *x.shape[1:]), drawn)
        times = draw_counts(drawn)
        prior = jnp.log(times)
        if self.config.prior == "logprob":
            prior = jnp.where(times > 0, jnp.sum(drawn.logprob, axis=-1), -jnp.inf)
        guidance = (self.guide or GUIDES[self.config.guide])(params, state)
        value, read = guidance.value, jnp.broadcast_to(guidance.tokens, (B, M))
        evaluation = NodeEval(
            prior=prior,
            value=value,
            # Nothing follows a finished node: its worth is paid on the way in.
            reward=jnp.where(page.finished, value, 0.0),
            discount=jnp.where(page.finished, 0.0, self.config.discount),
        )
        return evaluation, page.replace(next=drawn, reward_tokens=read)


def move(problems: Problems, tree: Tree, action: jax.Array) -> tuple[Problems, Tree]:
    """Takes the step `action` i32[B] at each root; the trees below it are kept.

    reuse.advance, and what the old root's page holds is moved behind the prompt, where
    it takes S places. A guide sees the path from the new root on. To search on: grow().
    Nodes at the old max_depth drew nothing and stay leaves, so when moves are to come
    let max_depth be that of a whole answer.
    """
    root: StepPage = jax.tree.map(lambda x: x[:, 0], tree.store)
    slot = jnp.arange(root.tokens.shape[1])
    join = partial(jnp.concatenate, axis=2)
    problems = Problems(
        k=tuple(join(pair) for pair in zip(problems.k, root.k)),
        v=tuple(join(pair) for pair in zip(problems.v, root.v)),
        seen=jnp.concatenate(
            [problems.seen, slot[None] < root.length[:, None]], axis=1
        ),
        length=problems.length + root.length,
    )
    return problems, advance(tree, action)
