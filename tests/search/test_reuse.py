"""After a move the subtree taken keeps its nodes, counts and pages."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from toys import expand_fn, random_game, search

from o1jax.search.mcts import Mcts, grow
from o1jax.search.reuse import advance

KEY = jax.random.key(0)
CONFIG = Mcts(simulations=32, nodes=100)


def subtree(tree, row: int, node: int) -> dict[tuple[int, ...], tuple]:
    """What is known of a node and all below it, by the actions that lead there."""
    visits, value, child = (
        np.asarray(x) for x in (tree.visits, tree.value, tree.child)
    )
    store, found = np.asarray(tree.store), {}

    def walk(node: int, path: tuple[int, ...]) -> None:
        at = (row, node)
        found[path] = (int(visits[at]), float(value[at]), int(store[at]))
        for action, below in enumerate(child[at]):
            if below >= 0:
                walk(below, (*path, action))

    walk(node, ())
    return found


def test_the_subtree_keeps_its_counts_and_pages():
    result = search(random_game(3), KEY, jnp.arange(4), CONFIG)
    after = jax.jit(advance)(result.tree, result.best)
    for row in range(4):
        node = int(result.tree.child[row, 0, result.best[row]])
        kept = subtree(after, row, 0)
        assert kept == subtree(result.tree, row, node)
        assert int(after.used[row]) == len(kept) == kept[()][0]
    assert after.live.all()
    # The rest of the pool is as good as new.
    unused = jnp.arange(100)[None] >= after.used[:, None]
    assert (after.child[unused] == -1).all() and (after.child_visits[unused] == 0).all()


def test_search_goes_on_where_it_was():
    game = random_game(3)
    first = search(game, KEY, jnp.arange(4), CONFIG)
    moved = advance(first.tree, first.best)
    config = Mcts(simulations=16, nodes=100, rule="gumbel")
    go_on = jax.jit(partial(grow, expand_fn=expand_fn, config=config))
    second = go_on(game, KEY, moved)
    assert (second.counts.simulations == 16).all()
    assert (second.counts.rows == 16).all()
    assert (second.tree.root_visits == moved.root_visits + 16).all()
    grown = second.tree.child_visits[:, 0] - moved.child_visits[:, 0]
    assert (grown.sum(-1) == 16).all()
    # Halving counts from here on: 3 children, 2 rounds, so 16 // (2 * 3) visits each.
    assert (grown >= 2).all()
    # What was visited most before the move does not count for the choice.
    chosen = jnp.take_along_axis(grown, second.best[:, None], axis=1)[:, 0]
    assert (chosen == grown.max(-1)).all()


def test_a_child_that_is_no_node_ends_the_tree():
    valid = jnp.array([[True, True, False]] * 4)
    result = search(random_game(3), KEY, jnp.arange(4), CONFIG, valid)
    after = advance(result.tree, jnp.array([0, 0, 2, 2]))
    assert after.live.tolist() == [True, True, False, False]
    assert after.used.tolist()[2:] == [0, 0]
