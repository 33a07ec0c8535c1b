"""Countdown without a language model: a policy that plays random legal moves.

Every state of some problems is a line of a table. A child is a legal move, drawn evenly
from its own key when it is asked for, as a language model draws a step. Its cost is 1.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from o1jax.search.expand import last_node
from o1jax.tasks.countdown import Countdown, legal_moves
from o1jax.types import NodeEval


class Plays(NamedTuple):
    """S states, the problems first; the params of the network."""

    moves: jax.Array  # i32[S]     legal ones; 0: one number is left
    child: jax.Array  # i32[S, A]  where they lead
    exact: jax.Array  # f32[S]     1 if the target can still be reached
    guide: jax.Array  # f32[S]     what the search is told


def plays(task: Countdown, problems: int, seed: int = 0) -> Plays:
    """Solvable problems, and all that can come of them; guided by the exact value."""
    rng = np.random.default_rng(seed)
    states = [task.start(task.make(rng)) for _ in range(problems)]
    ids = {state: i for i, state in enumerate(states)}
    below = []
    for state in states:  # grows while it is read
        moves = legal_moves(state.remaining, task.max_value)
        after = [state._replace(remaining=move.remaining) for move in moves]
        for new in after:
            if new not in ids:
                ids[new] = len(states)
                states.append(new)
        below.append([ids[new] for new in after])
    child = np.zeros((len(states), max(map(len, below))), np.int32)
    for row, to in zip(child, below):
        row[: len(to)] = to
    exact = jnp.array([task.value(state) for state in states], jnp.float32)
    moves = jnp.array([len(to) for to in below], jnp.int32)
    return Plays(moves, jnp.asarray(child), exact, exact)


def _evaluate(params: Plays, state: jax.Array, children: int) -> NodeEval:
    end, guide = params.moves[state] == 0, params.guide[state]
    prior = jnp.zeros((*state.shape, children))
    return NodeEval(
        prior=jnp.where(end[..., None], -jnp.inf, prior),
        value=guide,
        reward=jnp.where(end, guide, 0.0),
        discount=jnp.where(end, 0.0, 1.0),
        cost=jnp.ones(state.shape),
    )


def roots(params: Plays, problem: jax.Array, key: jax.Array, children: int) -> tuple:
    """The problems i32[B], evaluated, and their pages, each with a key of its own."""
    keys = jax.random.key_data(jax.random.split(key, len(problem)))
    return _evaluate(params, problem, children), {"state": problem, "key": keys}


def expand_fn(children: int):
    """The random player as an ExpandFn."""

    def draw(params: Plays, state: jax.Array, key: jax.Array, action: jax.Array):
        key = jax.random.fold_in(jax.random.wrap_key_data(key), action)
        move = jax.random.randint(key, (), 0, jnp.maximum(params.moves[state], 1))
        return params.child[state, move], jax.random.key_data(key)

    def expand(params: Plays, key, store, path, action):
        at = jnp.arange(path.shape[0])[:, None], last_node(path)
        one = lambda *x: draw(params, *x)
        state, own = jax.vmap(jax.vmap(one))(
            store["state"][at], store["key"][at], jnp.maximum(action, 0)
        )
        return _evaluate(params, state, children), {"state": state, "key": own}

    return expand
