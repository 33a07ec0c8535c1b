"""A program for each quarter of a path's levels: the least that holds the deepest."""

import jax
import jax.numpy as jnp
import pytest

from o1jax.search.pages import at_depth


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
