"""A batch of search trees, as arrays of one static shape.

All that a walk reads at a node lies in one row: EDGE_FIELDS numbers for each of its K
children, so one gather a level suffices. An edge carries the statistics of the child it
leads to; the root, which no edge leads to, has its own. Counts and node ids are whole
numbers kept as f32, exact up to 2**24. Node 0 is the root; a parent's id is below its
children's.
"""

from typing import Any, NamedTuple

import chex
import flax.struct
import jax
import jax.numpy as jnp

from o1jax.types import NodeEval

Store = Any  # pytree of [B, N, ...]: what the network keeps of every node
Page = Any  # pytree of [B, ...]: the same of one node

# The fields of an edge, in their order.
LOGPRIOR, VISITS, PENDING, VALUE, RAW_VALUE, REWARD, DISCOUNT, CHILD = range(8)
EDGE_FIELDS = 8
NO_CHILD = -1.0
EMPTY_EDGE = (-jnp.inf, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, NO_CHILD)


@flax.struct.dataclass
class Edges:
    """Edges out of some nodes; the last axis of `packed` holds the fields."""

    packed: jax.Array  # f32[..., EDGE_FIELDS]

    @property
    def logprior(self) -> jax.Array:
        """Log-probability under the policy; -inf where there is no such child."""
        return self.packed[..., LOGPRIOR]

    @property
    def visits(self) -> jax.Array:
        """Simulations that came through and are backed up."""
        return self.packed[..., VISITS]

    @property
    def pending(self) -> jax.Array:
        """Virtual visits: walks of this iteration that are not backed up yet."""
        return self.packed[..., PENDING]

    @property
    def value(self) -> jax.Array:
        """Mean return from the child on."""
        return self.packed[..., VALUE]

    @property
    def raw_value(self) -> jax.Array:
        """The network's value of the child."""
        return self.packed[..., RAW_VALUE]

    @property
    def reward(self) -> jax.Array:
        """Paid on the edge."""
        return self.packed[..., REWARD]

    @property
    def discount(self) -> jax.Array:
        """Of the child's value; 0 if the child is finished."""
        return self.packed[..., DISCOUNT]

    @property
    def child(self) -> jax.Array:
        """Id of the child's node, or NO_CHILD."""
        return self.packed[..., CHILD]

    @property
    def valid(self) -> jax.Array:
        """bool: there is such a child."""
        return self.packed[..., LOGPRIOR] > -jnp.inf

    @property
    def qvalue(self) -> jax.Array:
        """Mean return of taking the edge; meaningless before the first visit."""
        return self.reward + self.discount * self.value


@flax.struct.dataclass(kw_only=True)
class Tree:
    """B trees with room for N nodes of K children."""

    edges: Edges  # f32[B, N, K, EDGE_FIELDS]
    root_visits: jax.Array  # f32[B]  1 for the root's own evaluation, then simulations
    root_value: jax.Array  # f32[B]  mean return from the root, its own value included
    root_raw_value: jax.Array  # f32[B]
    live: jax.Array  # bool[B]  may be searched: not finished, pool not exhausted
    exhausted: jax.Array  # bool[B]  a leaf found no room in the pool
    used: jax.Array  # i32[B]  nodes in use, the root included
    cost: jax.Array  # f32[B]  sum of NodeEval.cost
    reward_tokens: jax.Array  # f32[B]  sum of NodeEval.reward_tokens, the root's too
    reread_tokens: jax.Array  # f32[B]  sum of NodeEval.reread_tokens
    store: Store  # [B, N, ...]

    @property
    def child(self) -> jax.Array:
        """i32[B, N, K]: id of a child, or -1."""
        return self.edges.child.astype(jnp.int32)

    @property
    def child_visits(self) -> jax.Array:
        """i32[B, N, K]."""
        return self.edges.visits.astype(jnp.int32)

    @property
    def parent(self) -> jax.Array:
        """i32[B, N]: id of the parent; -1 for the root and for unused nodes."""
        return self._from_edge(self._edge_ids() // self.edges.packed.shape[2], -1)

    @property
    def action(self) -> jax.Array:
        """i32[B, N]: which child of its parent a node is; -1 as in `parent`."""
        return self._from_edge(self._edge_ids() % self.edges.packed.shape[2], -1)

    @property
    def visits(self) -> jax.Array:
        """i32[B, N]: of a node."""
        visits = self._from_edge(self.child_visits, 0)
        return visits.at[:, 0].set(self.root_visits.astype(jnp.int32))

    @property
    def value(self) -> jax.Array:
        """f32[B, N]: mean return from a node on."""
        return self._from_edge(self.edges.value, 0.0).at[:, 0].set(self.root_value)

    @property
    def raw_value(self) -> jax.Array:
        """f32[B, N]: the network's value of a node."""
        raw_value = self._from_edge(self.edges.raw_value, 0.0)
        return raw_value.at[:, 0].set(self.root_raw_value)

    @property
    def logprior(self) -> jax.Array:
        """f32[B, N]: log-probability of the edge into a node; 0 for the root."""
        return self._from_edge(self.edges.logprior, 0.0)

    @property
    def reward(self) -> jax.Array:
        """f32[B, N]: paid on the edge into a node; 0 for the root."""
        return self._from_edge(self.edges.reward, 0.0)

    @property
    def finished(self) -> jax.Array:
        """bool[B, N]: nothing follows the node. The root's is told by `live`."""
        return self._from_edge(self.edges.discount, 1.0) == 0

    def _edge_ids(self) -> jax.Array:
        _, nodes, children, _ = self.edges.packed.shape
        return jnp.arange(nodes * children).reshape(1, nodes, children)

    def _from_edge(self, per_edge: jax.Array, default: float) -> jax.Array:
        """[B, N, K] by edge -> [B, N] by the node that the edge leads to."""
        batch, nodes, _ = self.child.shape
        target = jnp.where(self.child >= 0, self.child, nodes)  # node N is dropped
        per_edge = jnp.broadcast_to(per_edge, target.shape)
        of_node = jnp.full((batch, nodes), default, per_edge.dtype)
        row = jnp.arange(batch)[:, None, None]
        return of_node.at[row, target].set(per_edge, mode="drop")


class Counts(NamedTuple):
    """What a search did, per tree."""

    simulations: jax.Array  # i32[B]  walks that were backed up
    rows: jax.Array  # i32[B]  new nodes; a row found to be a twin makes none
    computed_rows: jax.Array  # i32[]  rows given to the network, for all trees together
    exhausted: jax.Array  # bool[B]  the search ended early because the pool was full
    stopped: jax.Array  # bool[B]  the cost of the tree has reached the budget


class SearchResult(NamedTuple):
    """What a search found, per tree."""

    weights: jax.Array  # f32[B, K]  improved policy at the root, a target to learn
    value: jax.Array  # f32[B]  mean return from the root
    best: jax.Array  # i32[B]  the child to take; 0 where there is none
    tree: Tree
    counts: Counts


def log_normalised(logits: jax.Array) -> jax.Array:
    """log_softmax over the last axis where -inf stays -inf, even if all of them are."""
    valid = logits > -jnp.inf
    high = jnp.max(logits, axis=-1, keepdims=True, where=valid, initial=-1e38)
    shifted = jnp.where(valid, logits - high, 0.0)
    total = jnp.sum(jnp.exp(shifted), axis=-1, keepdims=True, where=valid)
    return jnp.where(valid, shifted - jnp.log(jnp.maximum(total, 1.0)), -jnp.inf)


def unvisited(prior: jax.Array) -> jax.Array:
    """Edges f32[..., K, EDGE_FIELDS] to children of logits `prior`, none visited."""
    empty = jnp.array(EMPTY_EDGE, jnp.float32)
    fresh = jnp.broadcast_to(empty, (*prior.shape, EDGE_FIELDS))
    return fresh.at[..., LOGPRIOR].set(log_normalised(prior.astype(jnp.float32)))


def read_for(root: NodeEval) -> jax.Array:
    """f32[B]: tokens that were read to judge the roots."""
    if root.reward_tokens is None:
        return jnp.zeros(root.value.shape)
    return root.reward_tokens.astype(jnp.float32)


def plant(root: NodeEval, page: Page, *, nodes: int) -> Tree:
    """Trees of the root alone, with room for `nodes` nodes.

    A root of discount 0 or without a valid child is finished: it is never searched.
    """
    batch, children = root.prior.shape
    chex.assert_shape([root.value, root.discount], (batch,))
    chex.assert_tree_shape_prefix(page, (batch,))
    edges = jnp.broadcast_to(
        jnp.array(EMPTY_EDGE, jnp.float32), (batch, nodes, children, EDGE_FIELDS)
    )
    edges = edges.at[:, 0].set(unvisited(root.prior))
    return Tree(
        edges=Edges(edges),
        root_visits=jnp.ones(batch),
        root_value=root.value.astype(jnp.float32),
        root_raw_value=root.value.astype(jnp.float32),
        live=(root.discount != 0) & jnp.any(root.prior > -jnp.inf, axis=-1),
        exhausted=jnp.zeros(batch, bool),
        used=jnp.ones(batch, jnp.int32),
        cost=jnp.zeros(batch),
        reward_tokens=read_for(root),
        reread_tokens=jnp.zeros(batch),
        store=jax.tree.map(
            lambda x: jnp.zeros((batch, nodes, *x.shape[1:]), x.dtype).at[:, 0].set(x),
            page,
        ),
    )
