"""The text of nodes as rows, for guides that read it with a model.

In: the prompts of all problems and what a guide sees of M new nodes of each of B
problems. Out: B * M rows, prompt and path in one piece, right-padded. The stop token of
a finished path is left out.
"""

from collections.abc import Sequence
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from o1jax.types import NodeState


class Rows(NamedTuple):
    """R texts, each a prompt and what follows it."""

    tokens: jax.Array  # i32[R, T]  right-padded with 0
    prompt_length: jax.Array  # i32[R]
    length: jax.Array  # i32[R]     prompt and the rest together


def path_rows(
    prompts_tokens: np.ndarray,
    prompts_length: np.ndarray,
    state: NodeState,
    *,
    behind: Sequence[int] = (),
) -> Rows:
    """R = B * M rows of P + (D + 1) S + A places, for A tokens `behind` each text.

    prompts_tokens i32[Q, P] and prompts_length i32[Q]: a problem's prompt_id is its row
    there.
    """
    chex.assert_shape(prompts_length, (len(prompts_tokens),))
    B, M, depth, S = state.tokens.shape
    chex.assert_shape(state.length, (B, M, depth))
    problem = jnp.maximum(state.prompt_id, 0)
    prompt_length = jnp.asarray(prompts_length)[problem]
    stop = state.finished.astype(jnp.int32)
    cut = jnp.maximum(state.length[..., -1] - stop, 0)
    length = state.length.at[..., -1].set(cut)

    spread = lambda x: jnp.broadcast_to(x[:, None], (B, M, *x.shape[1:]))
    join = lambda *parts: jnp.concatenate(parts, axis=-1).reshape(B * M, -1)
    added = np.asarray(behind, np.int32)
    tokens, whole = packed(
        join(
            spread(jnp.asarray(prompts_tokens)[problem]),
            state.tokens.reshape(B, M, depth * S),
            jnp.broadcast_to(added, (B, M, len(added))),
        ),
        join(
            spread(_first(prompt_length, prompts_tokens.shape[1])),
            _first(length, S).reshape(B, M, depth * S),
            jnp.ones((B, M, len(added)), bool),
        ),
    )
    return Rows(tokens, spread(prompt_length).reshape(-1), whole)


def wanted(state: NodeState) -> jax.Array:
    """bool[B, M]: there is such a node.

    A root's path is of one step, which is empty; any other empty step means that no
    node was wanted there.
    """
    _, _, depth = state.length.shape
    there = (state.length[..., -1] > 0) | (depth == 1)
    return (state.prompt_id >= 0)[:, None] & there


def packed(tokens: jax.Array, kept: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The kept tokens of each row moved to the left, 0 behind them, and their number.

    tokens i32[R, T], kept bool[R, T] -> i32[R, T], i32[R].
    """
    chex.assert_equal_shape([tokens, kept])
    place = jnp.where(kept, jnp.cumsum(kept, axis=1) - 1, tokens.shape[1])
    row = jnp.arange(len(tokens))[:, None]
    left = jnp.zeros_like(tokens).at[row, place].set(tokens, mode="drop")
    return left, jnp.sum(kept, axis=1, dtype=jnp.int32)


def _first(length: jax.Array, size: int) -> jax.Array:
    """bool[..., size]: the first `length` places."""
    slot = jnp.arange(size).reshape(*[1] * length.ndim, size)
    return slot < length[..., None]
