"""A child drawn twice is one node: later draws become visits of the first."""

import math
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toys import Game, root_of

from o1jax.search.expand import Leaf, expand, last_node
from o1jax.search.gumbel import Gumbel
from o1jax.search.mcts import Mcts, mcts
from o1jax.search.select import Widening
from o1jax.search.tree import PENDING, Edges, plant

KEY = jax.random.key(0)


class Page(NamedTuple):
    """Who a node is, and whose child: what the table needs to know its twins."""

    state: jax.Array
    parent: jax.Array
    action: jax.Array  # -1 at the root and in unused pages


def expand_fn(game, key, store, path, action):
    """The table; children of one node that are the same state are twins. Cost 2."""
    parent = last_node(path)
    up = jnp.take_along_axis(store.state, parent, axis=1)
    state = game.child[up, jnp.maximum(action, 0)]
    number = jnp.arange(store.state.shape[1])[None, None]
    there = (store.parent[:, None] == parent[..., None]) & (number > 0)
    there &= store.state[:, None] == state[..., None]
    there &= store.action[:, None] >= 0
    made = jnp.take_along_axis(store.action, jnp.argmax(there, axis=-1), axis=1)
    M = state.shape[1]
    same = (parent[:, :, None] == parent[:, None]) & jnp.tri(M, k=-1, dtype=bool)[None]
    same &= (state[:, :, None] == state[:, None]) & (action[:, None] >= 0)
    beside = jnp.take_along_axis(action, jnp.argmax(same, axis=-1), axis=1)
    twin = jnp.where(jnp.any(same, axis=-1), beside, -1)
    twin = jnp.where(jnp.any(there, axis=-1), made, twin)
    each = jnp.full(state.shape, 2.0)
    found = game(state)._replace(twin=twin, cost=each, reward_tokens=each + 1)
    return found, Page(state, parent, action)


# Unoptimised machine code compiles in half the time.
FAST = {"xla_backend_optimization_level": 0}


@partial(jax.jit, static_argnames="config", compiler_options=FAST)
def search(game, state, config, key=KEY):
    none = jnp.full(state.shape, -1)
    page = Page(state, none, none)
    return mcts(game, key, root_of(game, state), page, expand_fn, config)


def three_levels() -> Game:
    """A tree of 4 actions, of which two or three lead to the same child each time."""
    rng = np.random.default_rng(5)
    child, level, states = [], [0], 1
    for pattern in ([0, 0, 1, 2], [0, 0, 0, 1], [0, 0, 1, 2]):
        first = states
        for _ in level:
            child.append(states + rng.permutation(pattern))
            states += 1 + max(pattern)
        level = range(first, states)
    inner = len(child)
    child += [[0] * 4] * len(level)
    return Game(
        jnp.asarray(np.array(child)),
        jnp.asarray(rng.normal(size=(states, 4)), jnp.float32),
        jnp.asarray(rng.random(states), jnp.float32),
        jnp.asarray(0.2 * rng.random(states), jnp.float32),
        jnp.asarray([0.9] * inner + [0.0] * (states - inner)),
    )


GAME = three_levels()


def recursive_search(game: Game, simulations: int):
    """Visits and prior of the root's actions, rows drawn, value of the root."""
    game = jax.tree.map(np.asarray, game)
    prior, edges, totals, rows = {}, {}, {}, 0

    def simulate(state):
        nonlocal rows
        if state not in prior:
            p = np.exp(game.prior[state])
            prior[state] = dict(enumerate(p / p.sum()))
            edges[state] = {}  # action -> [visits, total]
            totals[state] = [1, game.value[state]]
            return game.value[state]
        if not game.discount[state]:
            return game.value[state]
        known, (n, total) = edges[state], totals[state]
        value = total / n
        to = lambda a: int(game.child[state, a])
        worth = lambda a: (
            game.reward[to(a)] + game.discount[to(a)] * known[a][1] / known[a][0]
        )
        q = {a: worth(a) for a in known}
        low, high = min([value, *q.values()]), max([value, *q.values()])
        weight = math.sqrt(n) * (1.25 + math.log((n + 19653) / 19652))
        score = {
            a: (q.get(a, low) - low) / max(high - low, 1e-8)
            + weight * p / (1 + (known[a][0] if a in known else 0))
            for a, p in prior[state].items()
        }
        action = max(score, key=lambda a: (score[a], -a))
        rows += action not in known
        twin = next((t for t in known if to(t) == to(action)), None)
        if action not in known and twin is not None:
            prior[state][twin] += prior[state].pop(action)
            action, below = twin, game.value[to(twin)]
            seen = totals[to(twin)]
            totals[to(twin)] = [seen[0] + 1, seen[1] + below]
        else:
            below = simulate(to(action))
        seen = known.setdefault(action, [0, 0.0])
        seen[0] += 1
        seen[1] += below
        gained = game.reward[to(action)] + game.discount[to(action)] * below
        totals[state] = [n + 1, total + gained]
        return gained

    simulate(0)
    for _ in range(simulations):
        simulate(0)
    visits = [edges[0].get(a, [0])[0] for a in range(4)]
    p = [prior[0].get(a, 0.0) for a in range(4)]
    return visits, p, rows, totals[0][1] / totals[0][0]


def test_it_is_the_recursive_search_that_finds_twins_as_it_draws():
    result = search(GAME, jnp.zeros(2, jnp.int32), Mcts(simulations=60))
    visits, prior, rows, value = recursive_search(GAME, 60)
    assert result.tree.child_visits[0, 0].tolist() == visits
    np.testing.assert_allclose(jnp.exp(result.tree.edges.logprior[0, 0]), prior, 1e-5)
    np.testing.assert_allclose(result.value[0], value, rtol=1e-5)
    assert result.tree.cost[0] == 2 * rows
    assert result.tree.reward_tokens[0] == 3 * rows  # the root was judged for nothing
    assert rows > result.counts.rows[0]  # some made no node


SEARCHES = {
    "puct": dict(leaves=4),
    "ucb": dict(rule="ucb"),
    "gumbel": dict(rule="gumbel", leaves=4, gumbel=Gumbel(considered=3)),
    "widening": dict(widening=Widening(first=1.0, power=0.7)),
}


@pytest.mark.parametrize("name", list(SEARCHES))
def test_counts_stay_consistent(name):
    config = Mcts(simulations=48, **SEARCHES[name])
    state = jnp.array([0, 1, 2, 0])
    result = search(GAME, state, config)
    tree = jax.tree.map(np.asarray, result.tree)
    assert (tree.edges.pending == 0).all()
    assert result.counts.simulations.tolist() == [48] * 4
    assert tree.child_visits[:, 0].sum(-1).tolist() == [48] * 4
    merged = 0
    for b in range(4):
        for node in range(tree.used[b]):
            below = tree.child[b, node]
            # Its first visit is its own, and so are those of its twins.
            assert tree.child_visits[b, node].sum() < tree.visits[b, node]
            prior = np.exp(tree.edges.logprior[b, node])
            np.testing.assert_allclose(prior.sum(), 1, rtol=1e-5)
            states = [tree.store.state[b, n] for n in below if n >= 0]
            assert len(set(states)) == len(states)  # no state twice
            gone = ~tree.edges.valid[b, node]
            merged += gone.sum()
            assert (below[gone] == -1).all()
            assert (tree.child_visits[b, node][gone] == 0).all()
            for n in below[below >= 0]:
                assert tree.parent[b, n] == node == tree.store.parent[b, n]
                assert tree.action[b, n] == tree.store.action[b, n]
    assert merged > 3
    assert (tree.cost >= 2 * (tree.used - 1)).all()
    assert tree.cost.sum() == 2 * ((tree.used - 1).sum() + merged)


def walks(edge, nodes, children):
    """Leaves and paths of four walks to new edges of the root of one tree."""
    edge = jnp.asarray(edge)[:, None]
    count = len(edge)
    leaves = Leaf(
        length=jnp.ones((count, 1), jnp.int32),
        deepest=jnp.ones(count, jnp.int32),
        new=jnp.ones((count, 1), bool),
        edge=edge,
        value=jnp.full((count, 1), 9.0),
    )
    nowhere = nodes * children
    paths = jnp.full((count, 3, 1), nowhere).at[:, 0].set(edge)
    return paths, leaves


def test_twins_of_one_call_by_hand():
    # Actions 0 .. 3 of probability .1, .2, .3, .4 lead to states 1, 1, 2, 1. Walks took
    # 3, 1, 1, 2: row 0 makes state 1, row 1 finds its twin at action 3 and walk 2,
    # which took the same edge, goes with it.
    game = Game(
        child=jnp.array([[1, 1, 2, 1]] * 3),
        prior=jnp.log(jnp.array([[0.1, 0.2, 0.3, 0.4]] * 3)),
        value=jnp.array([0.5, 0.7, 0.2]),
        reward=jnp.array([0.0, 0.3, 0.1]),
        discount=jnp.ones(3),
    )
    state = jnp.zeros(1, jnp.int32)
    page = Page(state, state - 1, state - 1)
    tree = plant(root_of(game, state), page, nodes=5)
    packed = tree.edges.packed.at[0, 0, :, PENDING].set(jnp.array([0.0, 2, 1, 1]))
    tree = tree.replace(edges=Edges(packed))
    paths, leaves = walks([3, 1, 1, 2], 5, 4)
    step = jax.jit(partial(expand, fn=expand_fn), compiler_options=FAST)
    tree, paths, leaves, found = step(game, KEY, tree, paths, leaves)
    assert paths[:, 0, 0].tolist() == leaves.edge[:, 0].tolist() == [3, 3, 3, 2]
    assert found.child[:, 0].tolist() == [1, 1, 1, 2]
    assert tree.used.tolist() == [3] and tree.cost.tolist() == [6.0]  # three rows
    np.testing.assert_allclose(found.value[:, 0], [0.7, 0.7, 0.7, 0.2])
    np.testing.assert_allclose(found.reward[:, 0], [0.3, 0.3, 0.3, 0.1])
    assert found.counted.all() and leaves.new.all() and not found.again.any()
    edges = Edges(tree.edges.packed[0, 0])
    np.testing.assert_allclose(jnp.exp(edges.logprior), [0.1, 0, 0.3, 0.6], rtol=1e-6)
    assert edges.pending.tolist() == [0, 0, 1, 3]
    # Next, action 0 turns out to be state 1 too, which is a node by then.
    packed = tree.edges.packed.at[0, 0, 3].set(
        jnp.array([-0.5, 5, 0, 0.9, 0.7, 0.3, 1, 1])
    )
    tree = tree.replace(edges=Edges(packed))
    paths, leaves = walks([0], 5, 4)
    tree, paths, leaves, found = step(game, KEY, tree, paths, leaves)
    assert paths[0, 0, 0] == 3 and tree.used.tolist() == [3]
    assert found.again.all() and not leaves.new.any()
    np.testing.assert_allclose(found.value, [[0.7]])  # raw, not the mean .9
    assert tree.edges.packed[0, 0, 0, 0] == -jnp.inf


def test_nonsense_about_twins_is_ignored():
    def confused(game, key, store, path, action):
        """Rows 0 and 1 name each other, 2 itself, 3 no action at all."""
        found, page = expand_fn(game, key, store, path, action)
        return found._replace(twin=jnp.array([[1, 0, 2, 7]])), page

    state = jnp.zeros(1, jnp.int32)
    game = GAME._replace(child=jnp.tile(jnp.arange(1, 5), (len(GAME.value), 1)))
    tree = plant(root_of(game, state), Page(state, state - 1, state - 1), nodes=9)
    paths, leaves = walks([0, 1, 2, 3], 9, 4)
    step = jax.jit(partial(expand, fn=confused), compiler_options=FAST)
    tree, paths, _, found = step(game, KEY, tree, paths, leaves)
    # The earlier row is the node.
    assert paths[:, 0, 0].tolist() == [0, 0, 2, 3]
    assert found.child[:, 0].tolist() == [1, 1, 2, 3] and tree.used == 4


def test_room_kept_for_a_twin_is_used_by_the_next():
    # A pool of 3, three leaves an iteration; three actions are states 1, 1, 2, which
    # are finished: two nodes hold all there is.
    game = Game(
        child=jnp.array([[1, 1, 2, 2]] * 3),
        prior=jnp.log(jnp.array([[0.4, 0.35, 0.25, 0.0]] * 3)),
        value=jnp.array([0.0, 0.5, 0.5]),
        reward=jnp.zeros(3),
        discount=jnp.array([1.0, 0.0, 0.0]),
    )
    config = Mcts(simulations=12, leaves=3, nodes=3)
    result = search(game, jnp.zeros(1, jnp.int32), config)
    # First iteration: actions 0, 1 have room, 2 has none; 1 is a twin, so a place is
    # left and the tree goes on without that walk.
    assert result.counts.simulations.tolist() == [11]
    assert not result.counts.exhausted.any() and result.tree.used.tolist() == [3]
    assert result.tree.child_visits[0, 0].sum() == 11


def test_a_budget_ends_each_tree_by_itself():
    # Every row costs 2. Three leaves, so at most 3 * 2 - 2 above the budget.
    state = jnp.array([0, 1, 2])
    base = Mcts(simulations=48, leaves=3)
    free = search(GAME, state, base)
    assert not free.counts.stopped.any() and (free.tree.cost > 12).all()
    result = search(GAME, state, replace(base, budget=10.0))
    assert result.counts.stopped.all() and not result.counts.exhausted.any()
    assert (result.tree.cost >= 10).all() and (result.tree.cost < 10 + 6).all()
    assert (result.counts.simulations < 48).all()
    # A budget that no tree reaches is none, one that some reach stops those alone.
    costs = np.sort(free.tree.cost)
    same = search(GAME, state, replace(base, budget=float(costs[-1]) + 1))
    jax.tree.map(np.testing.assert_array_equal, same.tree, free.tree)
    assert not same.counts.stopped.any()
    assert result.tree.live.all()  # a later search may have more to spend
