"""What a tree over text keeps of a node, and what is read from it.

A page holds one step: its tokens, keys and values, and the first tokens of the steps
that may follow it (the rest of them is drawn when a walk comes by). What is above a
step lies in its ancestors' pages, so N nodes of S tokens are one sequence of N * S
tokens. What a guide may look at is here too, and the account of tokens.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from o1jax.rollout.branch import First
from o1jax.search.nodes import Nodes
from o1jax.search.tree import Tree
from o1jax.types import Guidance, Guide, NodeState, Params, Prompts, Spent


@flax.struct.dataclass(kw_only=True)
class StepPage:
    """A node: the step that leads to it. The root's is empty, for it is the prompt."""

    k: tuple[jax.Array, ...]  # L x [..., Hkv, S, E]  of the step alone
    v: tuple[jax.Array, ...]
    tokens: jax.Array  # i32[..., S]
    logprob: jax.Array  # f32[..., S]
    length: jax.Array  # i32[...]
    entropy: jax.Array  # f32[...]  summed over the distributions its tokens are from
    finished: jax.Array  # bool[...]  the step ends with a stop token
    value: jax.Array  # f32[...]    value head behind the step, or before a stop token
    process: jax.Array  # f32[...]  process head at the step's last token, a logit
    key: jax.Array  # u32[..., 2]  of the node: what is drawn for it and below it
    parent_key: jax.Array  # u32[..., 2]  siblings have it in common
    action: jax.Array  # i32[...]  which child of its parent; -1: the root
    first: First  # [..., K]  of the steps that may follow
    reader: Any = ()  # a ReaderPage, where a Reader judges
    draft: Any = ()  # keys and values (k, v) of a draft of its own, where one proposes


class ReaderPrompt(NamedTuple):
    """What a reader has read of the prompt, for all nodes of a tree."""

    k: Any  # pytree of [B, Hkv, P, E]
    v: Any
    seen: jax.Array  # bool[B, P]
    last: jax.Array  # i32[B]  the prompt's last token
    goal: jax.Array  # i32[B]  the token that it asks for, where a reader wants it


class ReaderPage(NamedTuple):
    """What a reader has read of a node: the step that leads to it."""

    k: Any  # pytree of [..., Hkv, S, E]
    v: Any
    number: jax.Array  # f32[..., S, K]  of each token, by K heads
    score: jax.Array  # f32[..., K]  of the text up to and with the step


class Reader(NamedTuple):
    """A guide with a network of its own, whose keys and values lie in the pages.

    start(prompts, S) reads the prompts: what is known of a root, what all nodes of a
    tree share, and a root's page [B, 1, ...]. read(problems, store, path, page) reads
    the steps of new pages [B, M, ...] behind paths i32[B, M, D], each once. `problems`
    are problems.Problems, whose `reader` is what start gave.
    """

    start: Callable[[Prompts, int], tuple[Guidance, ReaderPrompt, ReaderPage]]
    read: Callable[[Any, StepPage, jax.Array, StepPage], tuple[Guidance, ReaderPage]]


def _likelihood(params: Params, state: NodeState) -> Guidance:
    """Geometric mean of the path's token probabilities, exp of the mean log-prob."""
    tokens = jnp.maximum(jnp.sum(state.length, axis=-1), 1)
    return Guidance(jnp.exp(jnp.sum(state.logprob, axis=(-2, -1)) / tokens))


def _certainty(params: Params, state: NodeState) -> Guidance:
    """exp of minus the mean entropy of the distributions the tokens were drawn from."""
    tokens = jnp.maximum(jnp.sum(state.length, axis=-1), 1)
    return Guidance(jnp.exp(-jnp.sum(state.entropy, axis=-1) / tokens))


# Internal guides: they cost no token, and their values lie in [0, 1] (the value head's
# where returns do).
GUIDES: dict[str, Guide] = {
    "value": lambda params, state: Guidance(state.value),
    "process": lambda params, state: Guidance(jax.nn.sigmoid(state.process)),
    "likelihood": _likelihood,
    "certainty": _certainty,
    "constant": lambda params, state: Guidance(jnp.full_like(state.value, 0.5)),
}


def of_nodes(
    rows: jax.Array, node: jax.Array, tree: jax.Array | None = None
) -> jax.Array:
    """[B, N, ...] read at node ids i32[b, ...] of the trees i32[b], or of all."""
    tree = jnp.arange(rows.shape[0]) if tree is None else tree
    return rows[tree.reshape(-1, *[1] * (node.ndim - 1)), node]


def along(rows: jax.Array, path: jax.Array) -> jax.Array:
    """[B, N, ...] read along paths i32[B, M, D]: [B, M, D, ...], 0 behind the path."""
    on = (path >= 0).reshape(*path.shape, *[1] * (rows.ndim - 2))
    return jnp.where(on, of_nodes(rows, jnp.maximum(path, 0)), 0)


def pick(x: jax.Array, index: jax.Array) -> jax.Array:
    """x [B, M, K, ...] at index i32[B, M] of its third axis."""
    index = index.reshape(*index.shape, *[1] * (x.ndim - 2))
    return jnp.take_along_axis(x, index, axis=2)[:, :, 0]


def fold_keys(data: jax.Array, number: jax.Array) -> jax.Array:
    """fold_in [B, M] on the numbers of keys: a tree's store holds plain arrays."""
    fold = lambda key, n: jax.random.fold_in(jax.random.wrap_key_data(key), n)
    return jax.random.key_data(jax.vmap(jax.vmap(fold))(data, number))


def path_pages(
    pages: jax.Array, path: jax.Array, tree: jax.Array | None = None
) -> jax.Array:
    """Keys or values of a layer along paths: [B, N, H, S, E] -> [b M, H, D S, E].

    path i32[b, M, D] in the trees i32[b], or in all of them in their order.
    """
    B, N, H, S, E = pages.shape
    b, M, D = path.shape
    # Rows laid flat, as mcts.grow() keeps them: then nothing is copied but the path.
    rows = of_nodes(pages.reshape(B, N, -1), jnp.maximum(path, 0), tree)
    return rows.reshape(b * M, D, H, S, E).swapaxes(1, 2).reshape(b * M, H, D * S, E)


def node_state(
    prompt_id: jax.Array, store: StepPage, path: jax.Array, page: StepPage
) -> NodeState:
    """The guide's view of pages [B, M, ...] below paths i32[B, M, D]."""
    behind = lambda rows, own: jnp.concatenate([along(rows, path), own[:, :, None]], 2)
    return NodeState(
        prompt_id=prompt_id,
        tokens=behind(store.tokens, page.tokens),
        logprob=behind(store.logprob, page.logprob),
        length=behind(store.length, page.length),
        entropy=behind(store.entropy, page.entropy),
        finished=page.finished,
        value=page.value,
        process=page.process,
    )


def twins(store: StepPage, page: StepPage) -> jax.Array:
    """i32[B, M]: the action of a sibling that has the same step as page [B, M, ...].

    A sibling among the nodes, or else among earlier rows of the page; -1: none. Unused
    pages are no siblings: their steps are of length 0, or their parents are gone.
    """

    def first(others: StepPage, among: jax.Array | bool) -> tuple[jax.Array, jax.Array]:
        equal = lambda mine, other: mine[:, :, None] == other[:, None]
        same = equal(page.length, others.length) & (page.length > 0)[:, :, None]
        same &= jnp.all(equal(page.parent_key, others.parent_key), axis=-1)
        same &= jnp.all(equal(page.tokens, others.tokens), axis=-1)
        same &= ~equal(page.action, others.action) & among
        at = jnp.argmax(same, axis=-1)
        return jnp.any(same, axis=-1), jnp.take_along_axis(others.action, at, axis=1)

    there, known = first(store, True)
    count = page.length.shape[1]
    beside, new = first(page, jnp.tri(count, k=-1, dtype=bool)[None])
    return jnp.where(there, known, jnp.where(beside, new, -1))


def spent(nodes: Nodes | Tree) -> Spent:
    """Tokens that the nodes of each tree cost, [B] each.

    Generated: all that were drawn, those of twins included. Nothing is read twice: a
    token's only reading is the one that decodes it; what a draft proposed in vain was
    read besides. The prompt's is not counted, and flops are left to who counts
    programs. Of a reused tree, take the difference to what was spent before.
    """
    return Spent(
        generated_tokens=nodes.cost,
        reread_tokens=nodes.reread_tokens,
        reward_tokens=nodes.reward_tokens,
    )
