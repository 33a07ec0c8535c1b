"""One path a row, of steps with their keys and values, as a stack.

In: steps that were drawn, and what is read behind each as it is kept. Out: the paths to
attend to. Taking a step back is a smaller depth: what lies deeper is not looked at, and
the next step is written over it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from o1jax.policy.context import Context
from o1jax.policy.policy import Pages


class Held(NamedTuple):
    """A step of each row, and what may follow it."""

    k: Pages  # L x [B, Hkv, S, E]
    v: Pages
    length: jax.Array  # i32[B]
    next: jax.Array  # f32[B, V]  log-probs of the token behind it
    draw: jax.Array  # i32[B]  which of the row's draws it is


class Path(NamedTuple):
    """Steps of B rows, at most D. Behind each of them stand A tokens more."""

    depth: jax.Array  # i32[B]
    k: Pages  # L x [B, Hkv, D, S + A, E]
    v: Pages
    length: jax.Array  # i32[B, D]  of the steps
    next: jax.Array  # f32[B, D, V]  log-probs behind each, and its A tokens
    draw: jax.Array  # i32[B, D]


def empty_path(pages: tuple[Pages, Pages], room: tuple[int, int, int], V: int) -> Path:
    """No steps, of B rows with room for (B, D, S + A); pages are like those to come."""
    B, D, W = room
    blank = lambda x: jnp.zeros((B, x.shape[1], D, W, x.shape[3]), x.dtype)
    level = jnp.zeros((B, D), jnp.int32)
    k, v = jax.tree.map(blank, pages)
    return Path(level[:, 0], k, v, level, jnp.zeros((B, D, V)), level)


def path_context(path: Path, tokens: int) -> tuple[Context, jax.Array]:
    """The paths to attend to, and the tokens i32[B] that they hold; S is `tokens`."""
    B, D = path.length.shape
    behind = path.k[0].shape[3] - tokens
    inside = (jnp.arange(D)[None] < path.depth[:, None])[..., None]
    step = inside & (jnp.arange(tokens)[None, None] < path.length[..., None])
    seen = jnp.concatenate([step, jnp.broadcast_to(inside, (B, D, behind))], axis=-1)
    flat = lambda x: x.reshape(*x.shape[:2], -1, x.shape[-1])
    k, v = jax.tree.map(flat, (path.k, path.v))
    return Context(k, v, seen.reshape(B, 1, -1)), jnp.sum(seen, axis=(1, 2))


def push(path: Path, step: Held, behind: tuple[Pages, Pages], where: jax.Array) -> Path:
    """Puts steps on the paths bool[B] that want one, with the pages behind them.

    `step.next` is to be that behind these too.
    """
    join = lambda x, y: jnp.concatenate([x, y], axis=2)
    depth, row = path.depth, jnp.arange(len(where))
    level = jnp.where(where, depth, path.length.shape[1])
    write = lambda x, new: x.at[row, :, level].set(new, mode="drop")
    pages = jax.tree.map(join, (step.k, step.v), behind)
    k, v = jax.tree.map(write, (path.k, path.v), pages)
    return Path(
        depth=depth + where,
        k=k,
        v=v,
        length=put(path.length, depth, where, step.length),
        next=put(path.next, depth, where, step.next),
        draw=put(path.draw, depth, where, step.draw),
    )


def at(rows: jax.Array, depth: jax.Array) -> jax.Array:
    """[B, D, ...] at i32[B]; at an end of the path where that is beyond it."""
    depth = jnp.clip(depth, 0, rows.shape[1] - 1)
    return rows[jnp.arange(len(depth)), depth]


def put(
    rows: jax.Array, depth: jax.Array, where: jax.Array, new: jax.Array | int
) -> jax.Array:
    """[B, D, ...] with others at i32[B], on rows bool[B]; nothing at D or beyond."""
    level = jnp.where(where, depth, rows.shape[1])
    return rows.at[jnp.arange(len(depth)), level].set(new, mode="drop")


def merge(where: jax.Array, new: Held, old: Held) -> Held:
    """The new ones on rows bool[B], else the old ones."""
    rows = lambda x: where.reshape(-1, *[1] * (x.ndim - 1))
    return jax.tree.map(lambda x, y: jnp.where(rows(x), x, y), new, old)
