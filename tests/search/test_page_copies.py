"""The loop of a search leaves the pages of its trees where they are.

XLA on CPU copied all of them twice at every simulation, since the gather of a path and
the scatter of a new page liked other orders of their axes in memory.
"""

import math
import re

import jax
import jax.numpy as jnp

import o1jax.search.mcts as engine
from o1jax.search.mcts import Mcts, mcts
from o1jax.search.pages import path_pages
from o1jax.types import NodeEval

B, K = 3, 4
PAGE = 2, 1, 5  # heads, tokens, width of a head
CONFIG = Mcts(simulations=8, max_depth=4)


def expand_fn(params, key, store, path, action):
    """A child's page is the sum of those above it, plus one."""
    above = jnp.einsum("bhse->b", path_pages(store, path)).reshape(action.shape)
    page = jnp.broadcast_to(above[..., None, None, None] + 1, (*above.shape, *PAGE))
    zero = jnp.zeros_like(above)
    prior = jnp.zeros((*above.shape, K))
    return NodeEval(prior, jnp.sin(above), zero, zero + 1), page


def copies_of_all_pages() -> int:
    """How many are in the compiled search, told by the number of floats."""

    def search(page):
        zero = jnp.zeros(B)
        root = NodeEval(jnp.zeros((B, K)), zero, zero, zero + 1)
        result = mcts((), jax.random.key(0), root, page, expand_fn, CONFIG)
        return result.tree.child_visits

    program = jax.jit(search).lower(jnp.ones((B, *PAGE))).compile().as_text()
    copied = re.findall(r"f32\[([\d,]+)\]\S* copy\(", program)
    floats = [math.prod(map(int, dims.split(","))) for dims in copied]
    return floats.count(B * CONFIG.pool * math.prod(PAGE))


def test_no_simulation_copies_all_pages(monkeypatch):
    assert copies_of_all_pages() == 0
    # As they were kept before, with all their axes, they are.
    monkeypatch.setattr(engine, "lay_flat", lambda pages: pages)
    monkeypatch.setattr(engine, "on_flat_pages", lambda fn, store: fn)
    assert copies_of_all_pages() > 0
