"""A network that is a table, so that every number of a search can be known.

A state is a row of the table; what a node keeps as its page is its state. The same
table answers mctx.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from o1jax.search.expand import last_node
from o1jax.search.mcts import Mcts, mcts
from o1jax.search.tree import SearchResult
from o1jax.types import NodeEval


class Game(NamedTuple):
    """S states with K children each; the params of the network."""

    child: jax.Array  # i32[S, K]
    prior: jax.Array  # f32[S, K]  logits; -inf is invalid
    value: jax.Array  # f32[S]
    reward: jax.Array  # f32[S]  paid on the way into the state
    discount: jax.Array  # f32[S]  0: finished

    def __call__(self, state: jax.Array) -> NodeEval:
        return NodeEval(
            self.prior[state],
            self.value[state],
            self.reward[state],
            self.discount[state],
        )


def random_game(children: int, states: int = 4096, seed: int = 0) -> Game:
    """A graph so large that walks hardly meet."""
    rng = np.random.default_rng(seed)
    return Game(
        jnp.asarray(rng.integers(states, size=(states, children)), jnp.int32),
        jnp.asarray(rng.normal(size=(states, children)), jnp.float32),
        jnp.asarray(rng.normal(size=states), jnp.float32),
        jnp.asarray(0.3 * rng.normal(size=states), jnp.float32),
        jnp.full(states, 0.9),
    )


def bandit(prior: np.ndarray, reward: np.ndarray, value: float = 0.0) -> Game:
    """State 0 is the root; arm k leads to the finished state k + 1."""
    arms = len(reward)
    return Game(
        jnp.broadcast_to(jnp.arange(1, arms + 1), (arms + 1, arms)),
        jnp.broadcast_to(jnp.asarray(prior, jnp.float32), (arms + 1, arms)),
        jnp.full(arms + 1, value),
        jnp.asarray([0.0, *reward], jnp.float32),
        jnp.asarray([1.0] + [0.0] * arms),
    )


def expand_fn(game, key, store, path, action):
    """The table as an ExpandFn; an unwanted row gets nonsense that must not be used."""
    parent = jnp.take_along_axis(store, last_node(path), axis=1)
    state = game.child[parent, jnp.maximum(action, 0)]
    unwanted = action < 0
    found = game(state)
    nonsense = jax.tree.map(lambda x: jnp.full_like(x, 1e6), found)
    found = jax.tree.map(
        lambda x, y: jnp.where(
            unwanted.reshape(*unwanted.shape, *[1] * (x.ndim - unwanted.ndim)), y, x
        ),
        found,
        nonsense,
    )
    return found, jnp.where(unwanted, -1, state)


def root_of(game, state, valid=None):
    """The evaluated roots; `valid` bool[B, K] masks children."""
    root = game(state)
    if valid is not None:
        root = root._replace(prior=jnp.where(valid, root.prior, -jnp.inf))
    return root


@partial(jax.jit, static_argnames="config")
def search(game, key, state, config: Mcts, valid=None) -> SearchResult:
    """mcts from the given states."""
    return mcts(game, key, root_of(game, state, valid), state, expand_fn, config)


def depths(parent: np.ndarray) -> np.ndarray:
    """i32[B, N] from i32[B, N]; the root's and unused nodes' is 0."""
    parent = np.asarray(parent)
    depth = np.zeros_like(parent)
    for n in range(1, parent.shape[1]):
        up = np.take_along_axis(depth, np.maximum(parent[:, n : n + 1], 0), 1)[:, 0]
        depth[:, n] = np.where(parent[:, n] >= 0, up + 1, 0)
    return depth
