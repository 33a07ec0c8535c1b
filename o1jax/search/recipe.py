"""What the recipes share: children drawn, judged, and kept as nodes.

In: an ExpandFn and the nodes so far. Out: what it says of M children a problem, in the
terms in which recipes compare states, and the nodes with those children among them.
A state is worth what the guide says of it; a finished one what it was paid. Rewards
on the way there and discounts between levels are left to mcts().
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from o1jax.search.expand import ExpandFn, last_node
from o1jax.search.nodes import Nodes
from o1jax.search.tree import Page, Store, log_normalised, read_for
from o1jax.types import NodeEval, Params


class RecipeResult(NamedTuple):
    """What a recipe found, per problem. Ids are those of `nodes`."""

    nodes: Nodes
    survivors: jax.Array  # i32[B, W]  what it ended with; -1: none
    score: jax.Array  # f32[B, W]  their worth; -inf: none
    best: jax.Array  # i32[B]  the survivor to answer with; 0 (the root): none


class Drawn(NamedTuple):
    """What is known of M children of each problem; nothing of unwanted rows."""

    prior: jax.Array  # f32[B, M, K]  log-probabilities of their children
    worth: jax.Array  # f32[B, M]
    finished: jax.Array  # bool[B, M]
    twin: jax.Array  # bool[B, M]  equal to a sibling of a lower action number
    cost: jax.Array  # f32[B]  of all that was wanted
    reward_tokens: jax.Array  # f32[B]  read to judge it
    reread_tokens: jax.Array  # f32[B]  that a draft proposed in vain


def draw(
    params: Params,
    key: jax.Array,
    store: Store,
    path: jax.Array,
    action: jax.Array,
    expand_fn: ExpandFn,
    *,
    budget: float,
) -> tuple[Drawn, Page]:
    """Asks the network for the children `action` i32[B, M] of path i32[B, M, D].

    A row of action -1 is not wanted. A twin's evaluation and page are its own, so that
    a recipe for which it is a draw like any other can go on from it. ValueError if a
    budget is set and the network does not say what it costs.
    """
    evaluation, page = expand_fn(params, key, store, path, action)
    wanted = action >= 0
    chex.assert_shape([evaluation.value, evaluation.reward], action.shape)
    # A sibling that was looked at ahead of its turn reports itself, or a later action.
    twin = jnp.zeros(action.shape, bool)
    if evaluation.twin is not None:
        twin = wanted & (evaluation.twin >= 0) & (evaluation.twin < action)
    if evaluation.cost is None and budget:
        raise ValueError("budget is set, but the network does not report its cost")

    def total(of_row: jax.Array | None) -> jax.Array:
        of_row = 0.0 if of_row is None else of_row
        return jnp.sum(jnp.where(wanted, of_row, 0.0), axis=-1)

    finished = wanted & (evaluation.discount == 0)
    prior = log_normalised(evaluation.prior.astype(jnp.float32))
    return Drawn(
        prior=jnp.where((wanted & ~finished)[..., None], prior, -jnp.inf),
        worth=jnp.where(finished, evaluation.reward, evaluation.value),
        finished=finished,
        twin=twin,
        cost=total(evaluation.cost),
        reward_tokens=total(evaluation.reward_tokens),
        reread_tokens=total(evaluation.reread_tokens),
    ), page


def root_prior(root: NodeEval) -> jax.Array:
    """f32[B, K]: log-probabilities of the roots' children, none of a finished root."""
    prior = log_normalised(root.prior.astype(jnp.float32))
    return jnp.where((root.discount != 0)[:, None], prior, -jnp.inf)


def plant_nodes(root: NodeEval, page: Page, *, nodes: int, scratch: int = 0) -> Nodes:
    """The roots alone, with room for `nodes` nodes; the store has `scratch` more."""
    batch, _ = root.prior.shape
    chex.assert_shape([root.value, root.discount], (batch,))
    chex.assert_tree_shape_prefix(page, (batch,))
    full = lambda value, dtype: jnp.full((batch, nodes), value, dtype)
    value = full(0.0, jnp.float32).at[:, 0].set(root.value.astype(jnp.float32))
    rows = nodes + scratch
    return Nodes(
        parent=full(-1, jnp.int32),
        action=full(-1, jnp.int32),
        logprior=full(0.0, jnp.float32),
        visits=full(0, jnp.int32).at[:, 0].set(1),
        value=value,
        raw_value=value,
        finished=full(False, bool).at[:, 0].set(root.discount == 0),
        used=jnp.ones(batch, jnp.int32),
        cost=jnp.zeros(batch),
        reward_tokens=read_for(root),
        reread_tokens=jnp.zeros(batch),
        exhausted=jnp.zeros(batch, bool),
        store=jax.tree.map(
            lambda x: jnp.zeros((batch, rows, *x.shape[1:]), x.dtype).at[:, 0].set(x),
            page,
        ),
    )


def read(rows: jax.Array, node: jax.Array) -> jax.Array:
    """[B, N, ...] at node ids i32[B, M]; an id of -1 reads the root."""
    return rows[jnp.arange(rows.shape[0])[:, None], jnp.maximum(node, 0)]


def write(rows: jax.Array, node: jax.Array, new: jax.Array) -> jax.Array:
    """[B, N, ...] with new [B, M, ...] at node ids i32[B, M]; -1 writes nothing."""
    node = jnp.where(node >= 0, node, rows.shape[1])
    row = jnp.arange(rows.shape[0])[:, None]
    return rows.at[row, node].set(new.astype(rows.dtype), mode="drop")


def keep(
    nodes: Nodes,
    made: jax.Array,
    path: jax.Array,
    action: jax.Array,
    logprior: jax.Array,
    drawn: Drawn,
    page: Page,
) -> tuple[Nodes, jax.Array]:
    """The nodes with the children `made` bool[B, M] among them; ids i32[B, M], or -1.

    Ids follow the order of the rows, which is that of drawing.
    """
    node = nodes.used[:, None] + jnp.cumsum(made, axis=-1, dtype=jnp.int32) - 1
    node = jnp.where(made, node, -1)
    put = lambda rows, new: write(rows, node, new)
    return nodes.replace(
        parent=put(nodes.parent, last_node(path)),
        action=put(nodes.action, action),
        logprior=put(nodes.logprior, logprior),
        visits=put(nodes.visits, jnp.ones_like(node)),
        value=put(nodes.value, drawn.worth),
        raw_value=put(nodes.raw_value, drawn.worth),
        finished=put(nodes.finished, drawn.finished),
        used=nodes.used + jnp.sum(made, axis=-1, dtype=jnp.int32),
        cost=nodes.cost + drawn.cost,
        reward_tokens=nodes.reward_tokens + drawn.reward_tokens,
        reread_tokens=nodes.reread_tokens + drawn.reread_tokens,
        store=jax.tree.map(put, nodes.store, page),
    ), node


def within(nodes: Nodes, budget: float) -> jax.Array:
    """bool[B]: the problem may still draw; a budget of 0 is none."""
    if not budget:
        return jnp.ones(nodes.cost.shape, bool)
    return nodes.cost < budget


def ranked(score: jax.Array, *first: jax.Array) -> jax.Array:
    """i32[..., M]: places by score, best first; of equals, the one that comes first.

    Where a mask of `first` is True goes in front of where it is False, whatever the
    scores; the first mask outweighs those after it.
    """
    order = jnp.lexsort((-score, *(~mask for mask in reversed(first))), axis=-1)
    return order.astype(jnp.int32)
