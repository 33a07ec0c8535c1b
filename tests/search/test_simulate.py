"""The phases of an iteration, each on a tree small enough to know every number."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from toys import Game, expand_fn, last_node, random_game, root_of, search

from o1jax.search.expand import Expansion, Leaf, expand
from o1jax.search.mcts import Mcts
from o1jax.search.select import Puct, Widening, puct_score
from o1jax.search.simulate import backup, select
from o1jax.search.tree import VISITS, Edges, plant

NODES, CHILDREN, DEPTH = 6, 2, 4
jit_backup = jax.jit(partial(backup, virtual=False))


def score(node, edges):
    return puct_score(node, edges, Puct(), 0.0)


@partial(jax.jit, static_argnames="virtual")
def walk(tree, paths, m=0, virtual=False):
    return select(
        tree,
        paths,
        m,
        score,
        score,
        widening=Widening(),
        revisit=True,
        stuck_loss=0.0,
        virtual=virtual,
    )


def chain_game() -> Game:
    """0 -> 1, 2; 1 -> 3, 4; 2 is finished. The prior is even; state 1 pays best."""
    return Game(
        child=jnp.array([[1, 2], [3, 4], [2, 2], [3, 3], [4, 4]]),
        prior=jnp.zeros((5, 2)),
        value=jnp.array([0.5, 0.8, 0.0, 0.4, 0.2]),
        reward=jnp.array([0.0, 0.3, 0.1, 0.0, 0.0]),
        discount=jnp.array([1.0, 0.5, 0.0, 1.0, 1.0]),
    )


def planted(batch=2):
    game = chain_game()
    state = jnp.zeros(batch, jnp.int32)
    tree = plant(root_of(game, state), state, nodes=NODES)
    return game, tree, jnp.full((2, DEPTH, batch), -7)


@partial(jax.jit, static_argnames="virtual")
def iteration(game, tree, paths, virtual=False):
    tree, paths, leaf = walk(tree, paths, virtual=virtual)
    leaves = jax.tree.map(lambda x: x[None], leaf)
    key = jax.random.key(0)
    tree, _, leaves, found = expand(game, key, tree, paths[:1], leaves, expand_fn)
    return backup(tree, paths, 0, leaves, found, virtual=virtual), paths, leaf


@jax.jit
def expand_and_tell(game, tree, paths, leaves):
    """(tree, found, path, action): what expand gives, and what it asked for."""
    # The toy names no twins, so walks come back as they were (test_twins.py).
    asked = []

    def spy(game, key, store, path, action):
        asked.extend((path, action))
        return expand_fn(game, key, store, path, action)

    tree, _, _, found = expand(game, jax.random.key(0), tree, paths, leaves, spy)
    return tree, found, *asked


def test_select_stops_at_a_child_that_is_no_node_yet():
    _, tree, paths = planted()
    tree = tree.replace(live=jnp.array([True, False]))
    tree, paths, leaf = walk(tree, paths)
    nowhere = 2 * NODES * CHILDREN
    assert leaf.edge.tolist() == [0, 0]  # even scores: the first child
    assert leaf.new.tolist() == [True, False]
    assert leaf.length.tolist() == [1, 0]
    assert paths[0, 0].tolist() == [0, nowhere]
    assert (paths[1] == -7).all()  # the other walk's


def test_select_follows_the_tree_and_records_the_path():
    game, tree, paths = planted()
    for _ in range(2):
        tree, paths, leaf = iteration(game, tree, paths)
    # Child 0 has q = .3 + .5 * .8 = .7 against V = .6 and is taken again, so node 1
    # is expanded; its first edge is 1 * 2 + 0 = 2, in the second tree 6 * 2 more.
    assert leaf.length.tolist() == [2, 2]
    assert paths[0, :2].tolist() == [[0, 12], [2, 14]]
    assert tree.parent[0, :4].tolist() == [-1, 0, 1, -1]
    assert tree.action[0, :4].tolist() == [-1, 0, 0, -1]


def test_select_leaves_virtual_visits_and_backup_takes_them_back():
    game, tree, paths = planted()
    marked, paths, first = walk(tree, paths, 0, virtual=True)
    assert marked.edges.pending[:, 0].tolist() == [[1, 0], [1, 0]]
    _, paths, second = walk(marked, paths, 1, virtual=True)
    assert (first.edge[0], second.edge[0]) == (0, 1)  # the second walk differs
    done, _, _ = iteration(game, tree, paths, virtual=True)
    assert (done.edges.pending == 0).all()
    plain, _, _ = iteration(game, tree, paths)
    jax.tree.map(np.testing.assert_array_equal, done, plain)


def test_expand_gives_one_row_to_walks_that_meet_and_none_to_the_finished():
    game, tree, paths = planted(batch=3)
    # Tree 0: both walks at the new edge 0. Tree 1: two edges. Tree 2: nothing new.
    paths = jnp.array([[[0, 12, 24]], [[0, 13, 24]]])
    leaves = Leaf(
        length=jnp.ones((2, 3), jnp.int32),
        deepest=jnp.ones(2, jnp.int32),
        new=jnp.array([[True, True, False], [True, True, False]]),
        edge=paths[:, 0],
        value=jnp.full((2, 3), 9.0),
    )
    tree, found, path, action = expand_and_tell(game, tree, paths, leaves)
    assert path[..., 0].tolist() == [[0, -1], [0, 0], [-1, -1]]
    assert action.tolist() == [[0, -1], [0, 1], [-1, -1]]
    assert last_node(path).tolist() == [[0, 0], [0, 0], [0, 0]]
    assert tree.used.tolist() == [2, 3, 1]
    assert found.child[:, :2].tolist() == [[1, 1], [1, 2]]
    # Walks that meet back up the same evaluation; the finished leaf its own value.
    np.testing.assert_allclose(found.value, [[0.8, 0.8, 9.0], [0.8, 0.0, 9.0]])
    np.testing.assert_allclose(found.reward[:, :2], [[0.3, 0.3], [0.3, 0.1]])
    assert tree.store[:, :3].tolist() == [[0, 1, 0], [0, 1, 2], [0, 0, 0]]
    np.testing.assert_allclose(jnp.exp(tree.edges.logprior[0, 1]), [0.5, 0.5])


def test_expand_drops_the_leaf_that_finds_no_room():
    game, tree, paths = planted()
    tree = tree.replace(used=jnp.array([1, NODES]))
    tree, paths, leaf = walk(tree, paths)
    leaves = jax.tree.map(lambda x: x[None], leaf)
    after, found, _, _ = expand_and_tell(game, tree, paths[:1], leaves)
    assert found.counted.tolist() == [[True, False]]
    assert after.exhausted.tolist() == [False, True]
    assert after.live.tolist() == [True, False]
    after = jit_backup(after, paths, 0, leaves, found)
    assert after.root_visits.tolist() == [2, 1]
    np.testing.assert_array_equal(after.edges.packed[1], tree.edges.packed[1])


def test_backup_by_hand():
    game, tree, paths = planted()
    for _ in range(2):
        tree, paths, _ = iteration(game, tree, paths)
    # First: V(1) = .8, G = .3 + .5 * .8 = .7, V(0) = (.5 + .7) / 2 = .6.
    # Second, state 3: G_1 = 0 + 1 * .4, V(1) = (.8 + .4) / 2 = .6,
    # G_0 = .3 + .5 * .4 = .5, V(0) = (.6 * 2 + .5) / 3 = 1.7 / 3.
    np.testing.assert_allclose(tree.value[0, :3], [1.7 / 3, 0.6, 0.4], rtol=1e-6)
    np.testing.assert_allclose(tree.raw_value[0, :3], [0.5, 0.8, 0.4], rtol=1e-6)
    np.testing.assert_allclose(tree.reward[0, :3], [0.0, 0.3, 0.0], rtol=1e-6)
    assert tree.visits[0, :4].tolist() == [3, 2, 1, 0]
    assert tree.edges.packed[0, 0, 0, VISITS] == 2


def test_backup_of_a_leaf_that_exists_keeps_its_value():
    _, tree, paths = planted(batch=1)
    packed = tree.edges.packed.at[0, 0, 1].set(
        jnp.array([0.0, 3.0, 0.0, 0.7, 0.7, 0.1, 0.0, 5.0])
    )
    leaf = Leaf(*(jnp.array([x]) for x in ([1], 1, [False], [1], [0.7])))
    found = Expansion(
        child=jnp.zeros((1, 1)),
        value=jnp.array([[0.7]]),
        reward=jnp.full((1, 1), 1e6),
        discount=jnp.full((1, 1), 1e6),
        counted=jnp.array([[True]]),
    )
    paths = jnp.array([[[1]]])
    tree = tree.replace(edges=Edges(packed))
    tree = jit_backup(tree, paths, 0, leaf, found)
    # Finished: the return is its reward .1 alone; root (.5 + .1) / 2.
    np.testing.assert_allclose(
        tree.edges.packed[0, 0, 1], [0, 4, 0, 0.7, 0.7, 0.1, 0, 5], rtol=1e-6
    )
    np.testing.assert_allclose(tree.root_value, [0.3], rtol=1e-6)


def test_the_phases_in_turn_are_the_search():
    game = random_game(4)
    state = jnp.arange(3)
    tree = plant(root_of(game, state), state, nodes=17)
    paths = jnp.zeros((1, 17, 3), jnp.int32)
    # With virtual visits on, which a search of one leaf leaves out: no difference.
    for _ in range(16):
        tree, paths, _ = iteration(game, tree, paths, virtual=True)
    result = search(game, jax.random.key(0), state, Mcts(simulations=16))
    np.testing.assert_array_equal(tree.child_visits, result.tree.child_visits)
    np.testing.assert_allclose(tree.value, result.tree.value, rtol=1e-5, atol=1e-6)
