"""Judging a state by where it leads: a few more draws below it, then thrown away.

In: nodes just drawn, and their paths. Out: what the ends are worth, and the cost. The
draws are the first valid child of each node, that child's first and so on; a state
that ends earlier is judged by its end. Source: lookahead search in Snell et al. 2024,
arXiv 2408.03314 (greedy there).
"""

import jax
import jax.numpy as jnp

from o1jax.search.expand import ExpandFn
from o1jax.search.nodes import Nodes
from o1jax.search.recipe import Drawn, draw, write
from o1jax.types import Params


def look_ahead(
    params: Params,
    key: jax.Array,
    nodes: Nodes,
    path: jax.Array,
    drawn: Drawn,
    expand_fn: ExpandFn,
    *,
    wanted: jax.Array,
    depth: jax.Array,
    steps: int,
    scratch: int,
    budget: float,
) -> tuple[jax.Array, Nodes]:
    """Worth f32[B, M] after `steps` draws, and the nodes, which have paid for them.

    Args:
      path: i32[B, M, D] from the root to the nodes judged, which are at `depth`.
      drawn: what is known of them.
      wanted: bool[B, M].
      scratch: id from which on the store has (steps - 1) M pages to overwrite: the way
        is kept there while it is walked; the last draw needs no page.
    """
    count = path.shape[1]
    place = scratch + (steps - 1) * jnp.arange(count, dtype=jnp.int32)

    def step(i: jax.Array, carry: tuple) -> tuple:
        nodes, path, prior, going, worth = carry
        valid = prior > -jnp.inf
        going &= jnp.any(valid, axis=-1)
        action = jnp.where(going, jnp.argmax(valid, axis=-1), -1).astype(jnp.int32)
        own = jax.random.fold_in(key, i + 1)
        found, page = draw(
            params, own, nodes.store, path, action, expand_fn, budget=budget
        )
        page_id = jnp.where(going & (i < steps - 1), place[None] + i, -1)
        put = lambda rows, new: write(rows, page_id, new)
        nodes = nodes.replace(
            store=jax.tree.map(put, nodes.store, page),
            cost=nodes.cost + found.cost,
            reward_tokens=nodes.reward_tokens + found.reward_tokens,
            reread_tokens=nodes.reread_tokens + found.reread_tokens,
        )
        path = path.at[:, :, depth + 1 + i].set(page_id, mode="drop")
        worth = jnp.where(going, found.worth, worth)
        return nodes, path, found.prior, going, worth

    start = (nodes, path, drawn.prior, wanted, drawn.worth)
    nodes, _, _, _, worth = jax.lax.fori_loop(0, steps, step, start)
    return worth, nodes
