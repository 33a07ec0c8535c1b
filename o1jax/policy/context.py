"""Attention of new tokens to keys and values that lie in several places.

In: the queries, keys and values of T new tokens a row, and contexts: stretches of keys
and values computed before, each with a mask of who may see what. Out: attention over
all of them together, as if they lay in one row. A tree search reads the prompt, the
steps of the ancestors and the step so far this way, each from where it is kept.
"""

import itertools
from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from o1jax.policy.attention import MASKED, soft_cap


class Context(NamedTuple):
    """Keys and values of all layers that the tokens of B rows may attend to.

    There may be fewer rows than B: each then serves B / rows neighbouring rows of
    queries, which is how the leaves of one tree share their prompt without a copy.
    """

    k: tuple[jax.Array, ...]  # L x [rows, K, S, E]
    v: tuple[jax.Array, ...]
    mask: jax.Array  # bool[B or 1, T or 1, S]  what each new token sees

    def layer(self, i: int) -> "Stretch":
        """One layer's part."""
        return self.k[i], self.v[i], self.mask


Stretch = tuple[jax.Array, jax.Array, jax.Array]


def attend_contexts(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    own: jax.Array,
    stretches: Sequence[Stretch],
    *,
    scale: float = 0.0,
    cap: float = 0.0,
    window: int = 0,
) -> jax.Array:
    """New tokens against stretches (k, v, mask) of one layer and one another.

    Args:
      q: [B, T, K, G, E]; k, v: [B, K, T, E], the layout of the stretches.
      own: bool[T, T], which of the new tokens (second axis) each one sees.
      scale, cap, window: as for attention.attend. A window counts the tokens that are
        seen: stretches and their slots come in the order of the text.

    Returns:
      [B, T, K, G, E] in q's dtype. Scores and softmax are f32.
    """
    B, T, K, G, E = q.shape
    chex.assert_shape([k, v], (B, K, T, E))
    q = q * (scale or E**-0.5)
    stretches = [*stretches, (k, v, own[None])]
    if window:
        stretches = _within(stretches, window, (B, T))
    scores = []
    for keys, _, mask in stretches:
        rows, _, S, _ = keys.shape
        # [rows, K, m T G, E]: batch dimensions in front, a plain product for each.
        queries = q.reshape(rows, B // rows * T, K, G, E).transpose(0, 2, 1, 3, 4)
        score = jnp.einsum(
            "bkqe,bkse->bkqs",
            queries.reshape(rows, K, -1, E),
            keys,
            preferred_element_type=jnp.float32,
        )
        score = soft_cap(score, cap)
        score = score.reshape(rows, K, B // rows, T, G, S).swapaxes(1, 2)
        score = score.reshape(B, K, T, G, S)
        scores.append(jnp.where(mask[:, None, :, None], score, MASKED))
    # One softmax over all of them, without laying them side by side, which on CPU costs
    # as much as a product: exp(s - max) of each, and their common sum at the end.
    highest = reduce(jnp.maximum, [jnp.max(s, axis=-1, keepdims=True) for s in scores])
    out, total = 0, 0
    for (_, values, _), score in zip(stretches, scores, strict=True):
        rows, _, S, _ = values.shape
        weight = jnp.exp(score - highest)
        total += jnp.sum(weight, axis=-1, keepdims=True)
        part = weight.astype(v.dtype).reshape(rows, B // rows, K, T * G, S)
        part = part.swapaxes(1, 2).reshape(rows, K, -1, S)
        mixed = jnp.einsum("bkqs,bkse->bkqe", part, values)
        mixed = mixed.reshape(rows, K, B // rows, T, G, E).swapaxes(1, 2)
        out += mixed.reshape(B, K, T, G, E)
    return (out / total).astype(q.dtype).transpose(0, 2, 1, 3, 4)


def _within(
    stretches: list[Stretch], window: int, shape: tuple[int, int]
) -> list[Stretch]:
    """The stretches, of which each token sees only the last `window` that it saw."""
    masks = [jnp.broadcast_to(m, (*shape, m.shape[-1])) for _, _, m in stretches]
    seen = jnp.concatenate(masks, axis=-1)
    count = jnp.cumsum(seen, axis=-1, dtype=jnp.int32)
    seen = seen & (count[..., -1:] - count < window)
    ends = list(itertools.accumulate(m.shape[-1] for m in masks))[:-1]
    parts = jnp.split(seen, ends, axis=-1)
    return [(k, v, part) for (k, v, _), part in zip(stretches, parts)]
