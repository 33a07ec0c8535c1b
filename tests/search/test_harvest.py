"""Texts and finished paths of three trees made by hand: of 7 nodes, of 3, a root."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from forest import FOREST, NOTHING

from o1jax.search.harvest import (
    StepText,
    finished_paths,
    leaves,
    on_host,
    texts,
    trajectories,
)


def test_a_response_is_the_steps_of_its_path():
    # Tree 0, node 3 is below node 1; tree 1, node 2 below node 1. Tree 2 has nothing.
    found = trajectories(FOREST, np.array([[3, 5], [2, -1], [-1, -1]]))
    assert found.tokens.tolist() == [
        [[1, 2, 4, 5, 6], [3, 8, 9, 0, 0]],
        [[5, 6, 11, 0, 0], [0, 0, 0, 0, 0]],
        [[0, 0, 0, 0, 0], [0, 0, 0, 0, 0]],
    ]
    assert found.node.tolist() == [
        [[1, 1, 3, 3, 3], [2, 5, 5, -1, -1]],
        [[1, 2, 2, -1, -1], [-1] * 5],
        [[-1] * 5, [-1] * 5],
    ]
    # Token t of the tree has log-prob -t / 8 (see forest.py).
    np.testing.assert_array_equal(found.logprob, -found.tokens / 8)
    assert found.length.tolist() == [[5, 3], [3, 0], [0, 0]]
    assert found.finished.tolist() == [[True, True], [True, False], [False, False]]
    assert found.value.tolist() == [[1.0, 0.25], [1.0, 0.0], [0.0, 0.0]]


def test_an_attempt_behind_an_answer_is_a_response_by_itself():
    at = np.array([[3, 1, 5], [2, -1, -1], [-1, -1, -1]])
    found = trajectories(FOREST, at, alone=True)
    assert found.tokens[0].tolist() == [[4, 5, 6], [1, 2, 0], [8, 9, 0]]
    assert found.node[0].tolist() == [[3, 3, 3], [1, 1, -1], [5, 5, -1]]
    assert found.length.tolist() == [[3, 2, 2], [2, 0, 0], [0, 0, 0]]
    assert found.finished.tolist()[0] == [True, False, True]
    np.testing.assert_array_equal(found.logprob, -found.tokens / 8)


def test_texts_of_any_shape_and_of_a_fixed_width():
    found = texts(FOREST, 0, np.array([6, 0]), width=4)
    assert found.tokens.tolist() == [[9, 9, 9, 0], [0, 0, 0, 0]]
    assert found.length.tolist() == [3, 0]
    assert found.finished.tolist() == [False, False]
    assert texts(FOREST, 1, np.array(2)).tokens.tolist() == [5, 6, 11]
    with pytest.raises(ValueError, match="a text of 5 tokens does not fit width 4"):
        texts(FOREST, 0, np.array([6, 3]), width=4)


def test_a_response_ends_where_the_pool_does_not():
    # What lies behind the nodes in use is finished, of length 3, and must not show.
    assert FOREST.store.finished[1, 3:].all() and FOREST.store.length[1, 3] == 3
    found = finished_paths(FOREST)
    assert found.at.tolist() == [[3, 5, 4], [2, -1, -1], [-1, -1, -1]]


def test_finished_paths_come_best_first():
    found = finished_paths(FOREST)
    assert found.score.tolist() == [[1.0, 0.25, 0.0], [0.5, 0.0, 0.0], [0.0] * 3]
    assert found.visits.tolist() == [[2, 1, 1], [1, 0, 0], [0, 0, 0]]
    assert found.path.tolist() == [
        [[0, 1, 3], [0, 2, 5], [0, 1, 4]],
        [[0, 1, 2], [-1] * 3, [-1] * 3],
        [[-1] * 3] * 3,
    ]


def test_of_equal_scores_the_more_visited_comes_first_then_the_earlier():
    raw_value = np.where(FOREST.store.finished, 1.0, 0.0)
    visits = FOREST.visits.copy()
    visits[0, 4] = 3
    found = finished_paths(FOREST.replace(raw_value=raw_value, visits=visits))
    assert found.at[0].tolist() == [4, 3, 5]


def test_a_root_that_a_move_left_with_text_can_be_the_answer():
    length = FOREST.store.length.copy()
    length[2, 0] = 2
    found = finished_paths(FOREST.replace(store=FOREST.store._replace(length=length)))
    assert found.at[2].tolist() == [0, -1, -1]


def test_leaves_have_no_child():
    assert leaves(FOREST).tolist() == [[3, 4, 5, 6], [2, -1, -1, -1], [0, -1, -1, -1]]


def test_rows_of_the_store_behind_the_nodes_are_not_read():
    more = lambda x: np.concatenate([x, np.ones_like(x[:, :2])], axis=1)
    nodes = FOREST.replace(store=StepText(*map(more, FOREST.store)))
    assert finished_paths(nodes).at.tolist() == finished_paths(FOREST).at.tolist()
    assert on_host(nodes).store.tokens.shape == FOREST.store.tokens.shape


def test_trees_without_an_answer_have_no_finished_path():
    found = finished_paths(NOTHING)
    assert found.at.shape == (1, 0)
    assert found.path.shape[:2] == (1, 0)
    assert trajectories(NOTHING, found.at).tokens.shape == (1, 0, 1)


def test_only_what_is_read_is_fetched_from_the_device():
    class Unreadable:
        """Keys and values: asking for them is a mistake."""

    store = {name: jnp.asarray(x) for name, x in FOREST.store._asdict().items()}
    page = type("Page", (), {**store, "k": Unreadable(), "v": Unreadable()})
    nodes = jax.tree.map(jnp.asarray, FOREST).replace(store=page)
    found = on_host(nodes)
    assert isinstance(found.store, StepText)
    assert all(isinstance(x, np.ndarray) for x in jax.tree.leaves(found))
    np.testing.assert_array_equal(found.store.tokens, FOREST.store.tokens)
    assert finished_paths(nodes).at.tolist() == finished_paths(FOREST).at.tolist()
