"""States of known worth, for recipes: a tree written down by hand, as an ExpandFn.

A state is a line of the table. A node's page is its state, and `seen`, the sum of the
states on its path: an expansion along a path whose pages are not those of one walk from
the root answers nonsense.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from o1jax.search.expand import last_node
from o1jax.types import NodeEval


class Table(NamedTuple):
    """S states; the params of the network. The root has A actions, others K."""

    child: jax.Array  # i32[S, A]  -1: there is no such child
    value: jax.Array  # f32[S]
    finished: jax.Array  # bool[S]  then `value` is what it pays
    cost: jax.Array  # f32[S]  of drawing the state
    twin: jax.Array  # i32[S]  action of the sibling that it equals; -1: none


def table(
    children: dict[int, list[int]],
    value: list[float],
    *,
    finished: tuple[int, ...] = (),
    cost: list[float] | None = None,
    twin: dict[int, int] | None = None,
) -> Table:
    """A Table of the states named; any that is not named is a leaf without a child."""
    child = np.full((len(value), max(map(len, children.values()))), -1)
    for state, below in children.items():
        child[state, : len(below)] = below
    of = [(twin or {}).get(state, -1) for state in range(len(value))]
    return Table(
        jnp.asarray(child, jnp.int32),
        jnp.asarray(value, jnp.float32),
        jnp.isin(jnp.arange(len(value)), jnp.asarray(finished, jnp.int32)),
        jnp.asarray(cost or [1.0] * len(value), jnp.float32),
        jnp.asarray(of, jnp.int32),
    )


def _evaluate(params: Table, state: jax.Array, children: int) -> NodeEval:
    prior = jnp.where(params.child[state, :children] >= 0, 0.0, -jnp.inf)
    end, value = params.finished[state], params.value[state]
    return NodeEval(
        prior=prior,
        value=jnp.where(end, -7.0, value),  # of a finished state nobody may use it
        reward=jnp.where(end, value, 7.0),  # and this of one that is not
        discount=jnp.where(end, 0.0, 1.0),
        twin=params.twin[state],
        cost=params.cost[state],
        reward_tokens=3 * params.cost[state],
    )


def check_reward_tokens(params: Table, start: list[int], nodes) -> None:
    """Judging reads three tokens for each one drawn, kept or not, and for a root."""
    root = params.cost[jnp.asarray(start)]
    assert nodes.reward_tokens.tolist() == (3 * (nodes.cost + root)).tolist()


def roots(params: Table, state: list[int], children: int) -> tuple[NodeEval, dict]:
    """Evaluated roots, and their pages."""
    state = jnp.asarray(state, jnp.int32)
    evaluation = jax.vmap(lambda s: _evaluate(params, s, children))(state)
    return evaluation, {"state": state, "seen": state}


def expand_fn(children: int, report_cost: bool = True, unwanted: float = 99.0):
    """The table as an ExpandFn; an unwanted row gets what nobody may use."""

    def expand(params: Table, key, store, path, action):
        B, M, D = path.shape
        here = lambda rows, node: rows[jnp.arange(B)[:, None], jnp.maximum(node, 0)]
        last = last_node(path)
        wanted = action >= 0
        state = jnp.where(wanted, params.child[here(store["state"], last), action], -1)
        on_path = [
            jnp.where(path[:, :, d] >= 0, here(store["state"], path[:, :, d]), 0)
            for d in range(D)
        ]
        above = sum(on_path)
        right = above == here(store["seen"], last)
        found = jax.vmap(jax.vmap(lambda s: _evaluate(params, s, children)))(state)
        nonsense = lambda x: jnp.where(
            (wanted & right).reshape(B, M, *[1] * (x.ndim - 2)),
            x,
            jnp.full_like(x, unwanted),
        )
        found = jax.tree.map(nonsense, found)
        if not report_cost:
            found = found._replace(cost=None)
        return found, {"state": state, "seen": nonsense(above + state)}

    return expand


def states(result, node=None) -> list[list[int]]:
    """The states of node ids [B, W], -1 for none; by default of the survivors."""
    store = np.asarray(result.nodes.store["state"])
    node = np.asarray(result.survivors if node is None else node)
    found = np.take_along_axis(store, np.maximum(node, 0), axis=1)
    return np.where(node >= 0, found, -1).tolist()


def best(result) -> list[int]:
    """The state that each problem answers with; that of the root is none."""
    return [row[0] for row in states(result, result.best[:, None])]


def drawn(result, b: int) -> list[int]:
    """The states of a problem's nodes in their order, the root left out."""
    return result.nodes.store["state"][b, 1 : int(result.nodes.used[b])].tolist()


def check_nodes(nodes) -> None:
    """What holds of the nodes of any recipe, and that each has its own path's page."""
    nodes = jax.tree.map(np.asarray, nodes)
    for b, used in enumerate(nodes.used):
        assert nodes.parent[b, 0] == -1 and (nodes.parent[b, used:] == -1).all()
        for node in range(1, used):
            parent = nodes.parent[b, node]
            assert 0 <= parent < node and nodes.visits[b, node] == 1
            up, total = node, 0
            while up >= 0:
                total += nodes.store["state"][b, up]
                up = nodes.parent[b, up]
            assert nodes.store["seen"][b, node] == total


def random_table(seed: int, *, width: int, children: int, states: int = 400) -> Table:
    """States of random children; a third of them are finished, some children missing.

    Values are few, so that there are ties. State 0 is finished: a problem of padding.
    """
    rng = np.random.default_rng(seed)
    child = rng.integers(1, states, size=(states, width))
    child[rng.random(child.shape) < 0.1] = -1
    finished = rng.random(states) < 0.33
    finished[0], finished[1:9], child[1:9] = True, False, np.abs(child[1:9])
    twin = np.where(rng.random(states) < 0.1, 0, -1)
    return Table(
        jnp.asarray(child, jnp.int32),
        jnp.asarray(rng.integers(20, size=states) / 20, jnp.float32),
        jnp.asarray(finished),
        jnp.asarray(rng.integers(1, 4, size=states), jnp.float32),
        jnp.asarray(twin, jnp.int32),
    )
