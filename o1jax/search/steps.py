"""The language adaptor: trees whose edges are reasoning steps drawn from the policy.

In: a policy, prompts, and which tokens end a step or the answer. Out: the evaluated
roots and the ExpandFn that mcts() and the recipes take. A step is drawn when a walk
comes by; decoding it is the only time it is read, and gives its keys, values and heads
and the first tokens of the K steps behind it. A step equal to a sibling is its twin. A
node costs the tokens of its step, and no prefix is read twice. Prior: Hubert et al.
2021 (Sampled MuZero), where K draws from the policy weigh 1 / K each.
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from o1jax.policy.context import Context
from o1jax.policy.policy import Policy
from o1jax.rollout.branch import First, draw_step
from o1jax.rollout.drafted import StepDraft, draw_drafted_step
from o1jax.rollout.ends import StepEnds, at_tokens
from o1jax.rollout.sampling import sampling_logprobs
from o1jax.search.beginnings import (
    STEP,
    Steps,
    beginnings,
    beginnings_prior,
    begun,
    draft_uniforms,
    step_uniforms,
)
from o1jax.search.expand import ExpandFn, last_node
from o1jax.search.mcts import Mcts, mcts
from o1jax.search.pages import (
    GUIDES,
    Reader,
    StepPage,
    along,
    fold_keys,
    node_state,
    of_nodes,
    path_pages,
    pick,
    twins,
)
from o1jax.search.parts import at_depth, by_trees, trees_at_once
from o1jax.search.problems import Problems
from o1jax.search.tree import SearchResult
from o1jax.types import Guidance, Guide, NodeEval, Params, Prompts


class _Rows(NamedTuple):
    """What M new steps of each of b trees are drawn from."""

    tree: jax.Array  # i32[b]  among all that are stored
    problems: Problems  # [b, ...]
    path: jax.Array  # i32[b, M, D]
    lengths: jax.Array  # i32[b, M, D]  of the steps along it
    first: First  # [b, M]  their first tokens
    wanted: jax.Array  # bool[b, M]
    value: jax.Array  # f32[b, M]  of the value head before them
    uniform: jax.Array  # f32[b, M, S, ...]  all that is random about them


def _flat(x: jax.Array) -> jax.Array:
    """[b, M, ...] -> [b M, ...]."""
    return x.reshape(-1, *x.shape[2:])


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
    reader: Reader | None = None  # judges in place of both
    ends: StepEnds | None = None  # of steps, in place of step_end_ids
    # Proposes tokens. Where it has parameters of its own, params are the pair of the
    # policy's and the draft's.
    draft: StepDraft | None = None

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
        params = self.unstack(params)
        if key.ndim:
            keys, key = key, jax.random.fold_in(key[0], STEP)
        else:
            key, own = jax.random.split(key)
            rows = jnp.arange(prompts.length.shape[0])
            keys = jax.vmap(partial(jax.random.fold_in, own))(rows)
        problems, root, page = self.start(params, keys, prompts)
        return mcts(params, key, root, page, self.expand_fn(problems), config)

    def unstack(self, params: Params) -> Params:
        """Layers apart, which every method takes: a loop that cuts them out is slow."""
        if not self._paired:
            return self.policy.unstack(params)
        own, other = params
        return self.policy.unstack(own), self.draft.policy.unstack(other)

    def _parts(self, params: Params) -> tuple[Params, Params]:
        """The policy's and the draft's."""
        if self.draft is None:
            return params, None
        return self.draft.parts(params)

    @property
    def _paired(self) -> bool:
        return self.draft is not None and not self.draft.layers

    def start(
        self, params: Params, keys: jax.Array, prompts: Prompts
    ) -> tuple[Problems, NodeEval, StepPage]:
        """Reads the prompts. One whose prompt_id is -1 is finished: nothing follows."""
        B, P = prompts.tokens.shape
        chex.assert_shape([keys, prompts.length], (B,))
        own, other = self._parts(params)
        asked = prompts.tokens, prompts.length
        output, cache = self.policy.start(own, *asked, capacity=P)
        K, S, V = self.config.children, self.config.room, output.logits.shape[-1]
        if self.config.first == "top" and K > V:
            raise ValueError(f"children ({K}) is above the vocabulary's size ({V})")
        whole = lambda layers: tuple(jnp.concatenate(x, axis=2) for x in layers)
        problems = Problems(
            k=whole(cache.k),
            v=whole(cache.v),
            seen=jnp.arange(P)[None] < prompts.length[:, None],
            length=prompts.length,
            prompt_id=prompts.prompt_id,
            next=sampling_logprobs(output.logits, self.config.sampling),
        )
        if self._paired:
            _, cache = self.draft.policy.start(other, *asked, capacity=P)
            problems = problems._replace(draft=(whole(cache.k), whole(cache.v)))
        empty = lambda x: jnp.zeros((B, 1, x.shape[1], S, x.shape[3]), x.dtype)
        key = jax.random.key_data(keys)[:, None]
        none = prompts.prompt_id[:, None] < 0
        page = StepPage(
            k=tuple(empty(x) for x in problems.k),
            v=tuple(empty(x) for x in problems.v),
            draft=jax.tree.map(empty, problems.draft),
            tokens=jnp.zeros((B, 1, S), jnp.int32),
            logprob=jnp.zeros((B, 1, S)),
            length=jnp.zeros((B, 1), jnp.int32),
            entropy=jnp.zeros((B, 1)),
            finished=none,
            value=output.value[:, None],
            process=output.process[:, None],
            key=key,
            parent_key=jnp.zeros_like(key),
            action=jnp.full((B, 1), -1, jnp.int32),
            first=beginnings(self.config, key, problems.next),
        )
        if self.reader is None:
            path = jnp.zeros((B, 1, 0), jnp.int32)
            guidance = self._guidance(own, problems, page, path, page)
        else:
            guidance, shared, own = self.reader.start(prompts, S)
            problems = problems._replace(reader=shared)
            page = page.replace(reader=own)
        found = self._evaluation(guidance, page, page, ends=none), page
        return problems, *jax.tree.map(lambda x: x[:, 0], found)

    def expand_fn(self, problems: Problems) -> ExpandFn:
        """The contract of mcts(), grow() and the recipes, for trees of these problems.

        With `first` draw a root's action may be any number: 0 .. K - 1 are the draws of
        the search, the others further ones, all from the same distribution. After
        move() it has K, as any other node.
        """
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
        own, other = self._parts(self.unstack(params))
        config = self.config
        parent, child = last_node(path), jnp.maximum(action, 0)
        of_parent = lambda rows: of_nodes(rows, parent)
        keys = fold_keys(of_parent(store.key), child)
        uniform = step_uniforms(keys, config.room)
        first = begun(
            config, problems.next, store.first, parent, child, uniform[..., 0]
        )
        if self.draft is not None:
            uniform = draft_uniforms(keys, config.room)
        trees, leaves = action.shape
        rows = _Rows(
            tree=jnp.arange(trees),
            problems=problems._replace(reader=None),
            path=path,
            lengths=along(store.length, path),
            first=first,
            wanted=action >= 0,
            value=of_parent(store.value),
            uniform=uniform,
        )
        drawn, kept, read = by_trees(
            partial(self._draw, (own, other), store),
            rows,
            at_once=trees_at_once(trees, leaves, (own, other)),
        )
        last = pick(drawn.tokens, jnp.maximum(drawn.length - 1, 0))
        finished = jnp.isin(last, jnp.array(self.stop_ids)) & (drawn.length > 0)
        page = StepPage(
            k=drawn.k,
            v=drawn.v,
            tokens=drawn.tokens,
            logprob=drawn.logprob,
            length=drawn.length,
            entropy=drawn.entropy,
            finished=finished,
            # The value head speaks of what is to come and is trained up to the stop
            # token: a finished node has the value in front of that.
            value=jnp.where(finished, drawn.value_before, drawn.value),
            process=drawn.process,
            key=keys,
            parent_key=of_parent(store.key),
            action=action,
            first=beginnings(config, keys, _flat(drawn.next)),
            draft=kept,
        )
        seen = path[..., :0] if config.level == "solution" else path
        if self.reader is None:
            guidance = self._guidance(own, problems, store, seen, page)
        else:
            guidance, own = self.reader.read(problems, store, seen, page)
            page = page.replace(reader=own)
        ends = finished & (config.level != "solution")
        found = self._evaluation(guidance, store, page, ends=ends)
        if self.draft is not None:
            found = found._replace(reread_tokens=(read - drawn.length) * 1.0)
        return found, page

    def _draw(self, params: tuple, store: StepPage, rows: _Rows) -> tuple:
        """(the steps, what a draft keeps of them, tokens it read), all [b, M, ...]."""
        own, other = params
        (b, M, _), S = rows.path.shape, self.config.room
        begin = rows.problems.length[:, None] + jnp.sum(rows.lengths, axis=-1)
        on_path = jnp.arange(S)[None, None, None] < rows.lengths[..., None]
        first, position, uniform, wanted, value = jax.tree.map(
            _flat, (rows.first, begin, rows.uniform, rows.wanted, rows.value)
        )
        step = {
            "uniform": uniform,
            "wanted": wanted,
            "value": value,
            "vocab": rows.problems.next.shape[-1],
            "ends": self._ends(rows.problems.next.shape[-1]),
            "sampling": self.config.sampling,
        }

        def draw_behind(levels: int) -> tuple:
            """The steps, for paths of at most so many nodes."""
            near = rows.path[..., :levels]
            above = lambda pages: tuple(path_pages(x, near, rows.tree) for x in pages)
            seen = on_path[:, :, :levels].reshape(b * M, 1, levels * S)
            behind = lambda k, v: Context(above(k), above(v), seen)
            contexts = [rows.problems.context(leaves=M), behind(store.k, store.v)]
            if self.draft is None:
                drawn = draw_step(self.policy, own, first, position, contexts, **step)
                return drawn, (), drawn.length
            others = []
            if self._paired:
                others = [
                    rows.problems.draft_context(leaves=M),
                    behind(*store.draft),
                ]
            return draw_drafted_step(
                self.policy,
                own,
                self.draft,
                other,
                first,
                position,
                contexts,
                others,
                **step,
            )

        drawn = at_depth(draw_behind, rows.path)
        return jax.tree.map(lambda x: x.reshape(b, M, *x.shape[1:]), drawn)

    def _ends(self, vocab: int) -> StepEnds:
        if self.config.level == "solution":
            return at_tokens(self.stop_ids, vocab)
        ends = self.ends or at_tokens(self.step_end_ids, vocab)
        return ends.or_tokens(self.stop_ids)

    def _guidance(
        self,
        params: Params,
        problems: Problems,
        store: StepPage,
        path: jax.Array,
        page: StepPage,
    ) -> Guidance:
        """Asks the guide about new nodes [B, M]."""
        state = node_state(problems.prompt_id, store, path, page)
        return (self.guide or GUIDES[self.config.guide])(params, state)

    def _evaluation(
        self, guidance: Guidance, store: StepPage, page: StepPage, *, ends: jax.Array
    ) -> NodeEval:
        """What the engine is told of new nodes [B, M]; nothing follows where `ends`."""
        config, value, shape = self.config, guidance.value, page.length.shape
        return NodeEval(
            prior=jnp.where(
                ends[..., None], -jnp.inf, beginnings_prior(config, page.first)
            ),
            value=value,
            # Nothing follows the last node: its worth is paid on the way in.
            reward=jnp.where(ends, value, 0.0),
            discount=jnp.where(ends, 0.0, config.discount),
            twin=twins(store, page) if config.first == "draw" else None,
            cost=page.length.astype(jnp.float32),
            reward_tokens=jnp.broadcast_to(guidance.tokens, shape).astype(jnp.float32),
        )
