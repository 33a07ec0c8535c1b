"""Steps are drawn behind as few levels, and by as few rows, as a CPU does best with."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import o1jax.search.parts as parts
from o1jax.search.mcts import Mcts
from o1jax.search.parts import at_depth, by_trees, trees_at_once
from o1jax.search.steps import Steps, StepSearch
from o1jax.types import Prompts

SMALL = {"weight": jnp.zeros((8, 8))}
STEP_END, STOP = 10, 11


def levels_read(depth: int, room: int) -> int:
    """Of two trees of two walks, one of which is that deep."""
    level = jnp.arange(room)[None, None]
    path = jnp.where(level < jnp.array([[[0], [1]], [[depth], [0]]]), 0, -1)
    return int(jax.jit(lambda path: at_depth(jnp.int32, path))(path))


@pytest.mark.parametrize(
    "depth, levels", [(0, 2), (2, 2), (3, 4), (5, 6), (7, 8), (8, 8)]
)
def test_no_more_levels_than_the_deepest_path_needs(depth, levels):
    assert levels_read(depth, room=8) == levels


@pytest.mark.parametrize("depth, levels", [(1, 1), (2, 2), (3, 3)])
def test_few_levels(depth, levels):
    assert levels_read(depth, room=3) == levels


def test_one_program_where_compiling_is_dear(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert levels_read(1, room=8) == 8


@pytest.mark.parametrize(
    "trees, leaves, at_once",
    [
        (16, 1, 16),  # as many rows as are drawn at once anyway
        (64, 1, 16),
        (16, 8, 2),
        (4, 64, 1),  # a tree is not cut
        (10, 2, 5),
        (34, 1, 34),  # divisors of 34 are far from 16 rows
        (1, 3, 1),
    ],
)
def test_trees_make_groups_of_sixteen_rows(trees, leaves, at_once):
    assert trees_at_once(trees, leaves, SMALL) == at_once


def test_all_rows_share_what_comes_from_memory(monkeypatch):
    large = {"weight": jax.ShapeDtypeStruct((2048, 2049), jnp.float32)}
    assert trees_at_once(64, 1, large) == 64
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert trees_at_once(64, 1, SMALL) == 64


def test_groups_come_back_in_their_order():
    rows = jnp.arange(6), jnp.arange(12.0).reshape(6, 2)
    double = lambda x: jax.tree.map(lambda y: 2 * y, x)
    for at_once in (1, 3, 6):
        found = by_trees(double, rows, at_once)
        jax.tree.map(np.testing.assert_array_equal, found, double(rows))


def test_a_search_in_groups_is_the_search(make, monkeypatch):
    _, policy, params = make()
    searcher = StepSearch(policy, Steps(children=3, tokens=3), (STEP_END,), (STOP,))
    config = Mcts(simulations=12, leaves=2, max_depth=3)
    prompts = Prompts(
        tokens=np.random.default_rng(1).integers(0, 10, (6, 5)).astype(np.int32),
        length=np.array([2, 5, 1, 4, 3, 5], np.int32),
        prompt_id=np.arange(6, dtype=np.int32),
    )

    def trees(rows):
        monkeypatch.setattr(parts, "ROWS", rows)
        search = jax.jit(lambda *arguments: searcher.search(*arguments, config))
        program = search.lower(params, jax.random.key(0), prompts)
        return program.as_text(), program.compile()(
            params, jax.random.key(0), prompts
        ).tree

    (whole_text, whole), (text, grouped) = trees(64), trees(4)
    assert text != whole_text
    assert whole.used.max() > 6
    for x, y in zip(jax.tree.leaves(whole), jax.tree.leaves(grouped), strict=True):
        if np.issubdtype(x.dtype, np.floating):
            np.testing.assert_allclose(x, y, rtol=3e-5, atol=3e-5)
        else:
            np.testing.assert_array_equal(x, y)
