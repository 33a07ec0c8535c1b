"""The search as a whole: bandits, a recursive reference, budgets, masks, the mesh."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec
from toys import Game, bandit, depths, expand_fn, random_game, root_of, search

from o1jax.search.gumbel import Gumbel
from o1jax.search.mcts import Mcts, mcts
from o1jax.search.select import Puct, Ucb, Widening

KEY = jax.random.key(0)
SIXTEEN = Mcts(simulations=16)


@pytest.mark.parametrize("rule", ["puct", "ucb", "gumbel"])
def test_the_best_arm_of_a_bandit_is_found_against_the_prior(rule):
    # Arm 2 pays most, the prior prefers arm 0 by e to 1.
    game = bandit(np.array([1.0, 0.0, 0.0, 0.0]), np.array([0.1, 0.2, 0.9, 0.3]))
    result = search(game, KEY, jnp.zeros(3, jnp.int32), Mcts(simulations=64, rule=rule))
    assert result.best.tolist() == [2, 2, 2]
    assert jnp.argmax(result.weights, axis=-1).tolist() == [2, 2, 2]
    # Arms are finished: four pages, whatever the number of simulations.
    assert result.counts.rows.tolist() == [4, 4, 4]
    assert result.counts.simulations.tolist() == [64, 64, 64]
    assert result.counts.computed_rows == 64 * 3


def test_the_improved_policy_of_gumbel_is_better_than_the_prior():
    # 4 of 8 arms are visited once; with exact values no bandit may get worse.
    rng = np.random.default_rng(0)
    prior, reward = rng.normal(size=(2, 64, 8))
    probability = np.exp(prior) / np.exp(prior).sum(-1, keepdims=True)
    before = (probability * reward).sum(-1)  # the exact value of the root
    game = jax.vmap(bandit)(jnp.array(prior), jnp.array(reward), jnp.array(before))
    config = Mcts(simulations=4, rule="gumbel", gumbel=Gumbel(considered=4))
    state = jnp.zeros((64, 1), jnp.int32)
    # One game a problem, so here alone the search is vmapped.
    one = lambda game, key, state: mcts(
        game, key, root_of(game, state), state, expand_fn, config
    )
    keys = jax.random.split(KEY, 64)
    result = jax.jit(jax.vmap(one))(game, keys, state)
    after = np.sum(result.weights[:, 0] * reward, axis=-1)
    assert (after > before).all()
    chosen = np.take_along_axis(reward, np.asarray(result.best), 1)[:, 0]
    assert chosen.mean() > before.mean() + 0.5


def two_levels() -> Game:
    """13 states: a root, 3 children, 9 finished ones of known reward."""
    rng = np.random.default_rng(3)
    child = np.zeros((13, 3), int)
    child[0], child[1:4] = [1, 2, 3], np.arange(4, 13).reshape(3, 3)
    return Game(
        jnp.asarray(child),
        jnp.asarray(0.5 * rng.normal(size=(13, 3)), jnp.float32),
        jnp.asarray(rng.random(13), jnp.float32),
        jnp.asarray(rng.random(13), jnp.float32),
        jnp.asarray([1.0] * 4 + [0.0] * 9),
    )


def recursive_search(game: Game, simulations: int) -> tuple[list[int], int]:
    """Visits of the root's children, states looked at: a search of one tree."""
    game = jax.tree.map(np.asarray, game)
    visits, total, seen = {}, {}, set()

    def simulate(state):
        if state in seen and game.discount[state]:
            children = [int(c) for c in game.child[state]]
            n = 1 + sum(visits.get(c, 0) for c in children)
            value = (game.value[state] + sum(total.get(c, 0) for c in children)) / n
            q = {c: total[c] / visits[c] for c in children if c in visits}
            low, high = min([value, *q.values()]), max([value, *q.values()])
            prior = np.exp(game.prior[state]) / np.exp(game.prior[state]).sum()
            weight = math.sqrt(n) * (1.25 + math.log((n + 19653) / 19652))
            score = [
                (q.get(c, low) - low) / max(high - low, 1e-8)
                + weight * p / (1 + visits.get(c, 0))
                for c, p in zip(children, prior)
            ]
            best = children[int(np.argmax(score))]
            below = game.reward[best] + game.discount[best] * simulate(best)
            visits[best] = visits.get(best, 0) + 1
            total[best] = total.get(best, 0) + below
            return below
        seen.add(state)
        return game.value[state]

    simulate(0)
    for _ in range(simulations):
        simulate(0)
    return [visits.get(int(c), 0) for c in game.child[0]], len(seen)


def test_two_levels_equal_a_recursive_search():
    game = two_levels()
    result = search(game, KEY, jnp.zeros(1, jnp.int32), Mcts(simulations=40))
    visits, looked_at = recursive_search(game, 40)
    assert result.tree.child_visits[0, 0].tolist() == visits
    # Every state once, finished ones never again; the root was given.
    assert result.counts.rows == looked_at - 1 < 12


def test_rows_do_not_leak_into_each_other():
    game = random_game(4)
    state = jnp.array([5, 6, 7, 8])
    valid = jnp.array([[1, 1, 1, 1], [0, 1, 0, 1], [0, 0, 1, 0], [0, 0, 0, 0]]) > 0
    together = search(game, KEY, state, SIXTEEN, valid)
    for row in range(4):
        copies = jnp.full(4, row)
        alone = search(game, KEY, state[copies], SIXTEEN, valid[jnp.array([row] * 4)])
        for a, b in zip(jax.tree.leaves(together.tree), jax.tree.leaves(alone.tree)):
            np.testing.assert_array_equal(a[row], b[0])
    visits = together.tree.child_visits[:, 0]
    assert (visits[~valid] == 0).all()
    assert visits.sum(-1).tolist() == [16, 16, 16, 0]
    assert visits[2].tolist() == [0, 0, 16, 0]
    # A row without a child is finished before it begins, and says nothing.
    assert together.counts.simulations.tolist() == [16, 16, 16, 0]
    assert together.counts.rows[3] == 0 and together.weights[3].sum() == 0
    assert together.value[3] == game.value[8]
    assert not jnp.isnan(together.weights).any()


def test_a_finished_root_is_not_searched():
    game = random_game(4)
    game = game._replace(discount=game.discount.at[6].set(0.0))
    result = search(game, KEY, jnp.array([5, 6, 7, 8]), SIXTEEN)
    assert result.counts.simulations.tolist() == [16, 0, 16, 16]


@pytest.mark.parametrize("rule", ["puct", "gumbel"])
def test_leaves_at_once_are_all_counted(rule):
    game = random_game(4)
    config = Mcts(simulations=32, leaves=4, rule=rule)
    result = search(game, KEY, jnp.arange(8), config)
    assert (result.tree.edges.pending == 0).all()
    assert (result.tree.child_visits[:, 0].sum(-1) == 32).all()
    assert (result.tree.visits[:, 0] == 33).all()
    assert (result.counts.rows == result.tree.used - 1).all()
    assert (result.counts.rows <= 32).all()
    assert result.counts.rows.mean() > 24  # walks of an iteration part
    # Every page is that of the child its node stands for.
    parent, action, store = result.tree.parent, result.tree.action, result.tree.store
    for tree in range(8):
        for node in range(1, int(result.tree.used[tree])):
            up = store[tree, parent[tree, node]]
            assert store[tree, node] == game.child[up, action[tree, node]]


def test_virtual_loss_spreads_the_walks():
    game, config = random_game(4), Mcts(simulations=32, leaves=4)
    spread = search(game, KEY, jnp.arange(8), config)
    peaked = search(game, KEY, jnp.arange(8), replace(config, virtual_loss=0.0))
    assert spread.counts.rows.sum() > peaked.counts.rows.sum() + 20


def test_a_full_pool_ends_its_tree_and_no_other():
    # Root 0: its children are finished, four pages are all it needs. Root 5 goes on.
    game = random_game(4)
    ends = jnp.isin(jnp.arange(4096), game.child[0])
    assert not ends[5]
    game = game._replace(discount=jnp.where(ends, 0.0, game.discount))
    config = replace(SIXTEEN, simulations=32, nodes=9)
    result = search(game, KEY, jnp.array([0, 5]), config)
    assert result.counts.exhausted.tolist() == [False, True]
    assert result.counts.rows.tolist() == [4, 8]
    assert result.counts.simulations[0] == 32
    assert 8 <= result.counts.simulations[1] < 32
    visits = result.tree.child_visits[:, 0].sum(-1)
    assert visits.tolist() == result.counts.simulations.tolist()


def test_widening_grows_nodes_with_their_visits_and_starves_nobody():
    game = random_game(8)
    config = Mcts(simulations=64, widening=Widening(first=1.0, power=0.5))
    tree = search(game, KEY, jnp.arange(4), config).tree
    children = np.sum(tree.child >= 0, axis=-1)
    assert (children <= np.ceil(np.sqrt(tree.visits))).all()
    # The root grew more than once, and yet the walks went deep: each was a new node.
    assert children[:, 0].max() > 2
    assert (tree.used == 65).all()
    assert depths(tree.parent).max(1).min() >= 5


# Each one compiles. Tests above show what the switches missing here do, test_select.py
# what the numbers inside a rule do to its scores.
CHANGES = {
    "rule": dict(rule="ucb"),
    "max_depth": dict(max_depth=1),
    "pb_c_init": dict(puct=Puct(pb_c_init=8.0)),
    "dirichlet_fraction": dict(puct=Puct(dirichlet_fraction=0.9)),
    "power": dict(widening=Widening(first=1.0, power=0.9)),
    "exploration": dict(rule="ucb", ucb=Ucb(exploration=9.0)),
    "gumbel": dict(rule="gumbel"),
    "considered": dict(rule="gumbel", gumbel=Gumbel(considered=2)),
    "scale": dict(rule="gumbel", gumbel=Gumbel(scale=0.0)),
}


def test_every_switch_of_the_config_changes_the_result():
    game, state = random_game(4), jnp.arange(6)
    everything = {
        name: search(game, KEY, state, replace(SIXTEEN, **change))
        for name, change in {"as it is": {}, **CHANGES}.items()
    }
    seen = {}
    for name, result in everything.items():
        mark = np.concatenate(
            [result.weights, result.tree.child_visits[:, 0]]
        ).tobytes()
        assert mark not in seen, f"{name} gives what {seen.get(mark)} gives"
        seen[mark] = name


def test_without_revisits_finished_nodes_are_passed_by():
    """One path: the root, state 1 of value 0.4, and the finished state 2 that pays 0.5.

    Return of the walks: 0.4, 0.5, then 0.5 again, or 0.4 - 1 where walks are stuck.
    """
    game = Game(
        child=jnp.array([[1], [2], [2]]),
        prior=jnp.zeros((3, 1)),
        value=jnp.array([0.0, 0.4, 0.0]),
        reward=jnp.array([0.0, 0.0, 0.5]),
        discount=jnp.array([1.0, 1.0, 0.0]),
    )
    root, config = jnp.zeros(1, jnp.int32), Mcts(simulations=3)
    tree = search(game, KEY, root, config).tree
    np.testing.assert_allclose(tree.value[0, :2], [1.4 / 4, 1.4 / 3], rtol=1e-6)
    tree = search(game, KEY, root, replace(config, revisit=False)).tree
    np.testing.assert_allclose(tree.value[0, :2], [0.3 / 4, -0.6], rtol=1e-6)
    assert tree.visits[0, :3].tolist() == [4, 3, 1]


def test_without_revisits_a_search_goes_on_to_what_is_new():
    config = Mcts(simulations=48, revisit=False, virtual_loss=10.0)
    root = jnp.zeros(1, jnp.int32)
    assert search(two_levels(), KEY, root, config).tree.used == 13  # all of them
    again = replace(config, revisit=True)
    assert search(two_levels(), KEY, root, again).tree.used < 13
    # A node whose admitted children are finished widens out of turn.
    narrow = replace(config, widening=Widening(first=1.0, power=0.0))
    assert search(two_levels(), KEY, root, narrow).tree.used == 5
    assert search(two_levels(), KEY, root, replace(narrow, revisit=True)).tree.used == 3


def test_on_a_mesh_each_shard_searches_its_own_trees():
    game, state = random_game(4), jnp.arange(8)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    rows, all_ = PartitionSpec("data"), PartitionSpec()

    def shard(game, key, state):
        result = mcts(game, key, root_of(game, state), state, expand_fn, SIXTEEN)
        return result.tree.child_visits[:, 0], result.value

    shard = jax.shard_map(
        shard,
        mesh=mesh,
        in_specs=(all_, all_, rows),
        out_specs=rows,
        check_vma=False,
    )
    program = jax.jit(shard).lower(game, KEY, state).compile()
    text = program.as_text()
    for collective in ("all-reduce", "all-gather", "all-to-all", "collective-permute"):
        assert collective not in text
    visits, value = program(game, KEY, state)
    whole = search(game, KEY, state, SIXTEEN)
    np.testing.assert_array_equal(visits, whole.tree.child_visits[:, 0])
    np.testing.assert_allclose(value, whole.value, rtol=1e-6)
