"""Learning from pairs, and ranking candidates by pairwise comparison.

In: a reward model and pairs of which one is better, or scores of several candidates.
Out: sums for an objective of the Bradley-Terry likelihood (Ouyang et al. 2022,
https://arxiv.org/abs/2203.02155), or each candidate's Borda count, as in LLaMA-Berry
(Zhang et al. 2024, https://arxiv.org/abs/2410.02884).
"""

from typing import Literal, Protocol, get_args

import chex
import jax
import jax.numpy as jnp

from o1jax.reward.aggregate import at_last, log_product
from o1jax.reward.losses import RewardObjective, Sums, bootstrap, pair_loss
from o1jax.reward.model import RewardModel
from o1jax.types import Params

TextScore = Literal["last", "sum", "product"]


class PairRows(Protocol):
    """What is read of R pairs: data.pairs.PairBatch. Side 0 is the chosen one."""

    tokens: jax.Array  # i32[R, 2, T]
    prompt_length: jax.Array  # i32[R]
    length: jax.Array  # i32[R, 2]
    step_end: jax.Array  # bool[R, 2, T]
    weight: jax.Array  # f32[R]
    margin: jax.Array  # f32[R]


def text_score(scores: jax.Array, step_end: jax.Array, how: TextScore) -> jax.Array:
    """One score f32[...] a text from log-odds f32[..., T] at step ends.

    last: of the last step, as a scalar head's or a cumulative implicit reward's; sum:
    of the log-odds; product: log P(every step is right), of a model whose scores are
    such log-odds. 0 for a text with no step. Scores may have leading axes more (heads).
    """
    if how not in get_args(TextScore):
        raise ValueError(f"a text's score must be {', '.join(get_args(TextScore))}")
    chex.assert_type(scores, jnp.float32)
    step_end = jnp.broadcast_to(step_end, scores.shape)
    if how == "last":
        return at_last(scores, step_end)
    if how == "product":
        return log_product(scores, step_end)
    return jnp.sum(scores, axis=-1, where=step_end)


def preference_objective(
    model: RewardModel, how: TextScore = "last"
) -> RewardObjective:
    """Bradley-Terry: P(chosen is better) = sigmoid(its score - the other's - margin).

    One forward reads both sides. Of several heads each learns from its own bootstrap of
    the pairs, those with the same chosen text together, and the loss is their mean.
    """
    heads = model.config.heads

    def resampled(batch: PairRows) -> jax.Array:
        """f32[K, R]"""
        rows = bootstrap(batch.tokens[:, 0], batch.length[:, 0], heads)
        return rows * batch.weight[None]

    def weight(batch: PairRows) -> jax.Array:
        return jnp.sum(resampled(batch)) / heads

    def total(params: Params, batch: PairRows) -> tuple[jax.Array, Sums]:
        R = batch.tokens.shape[0]
        chex.assert_shape([batch.weight, batch.margin, batch.prompt_length], (R,))
        rows = lambda x: jnp.reshape(x, (2 * R, *x.shape[2:]))
        step_end = rows(batch.step_end)
        scores = model.score(
            params,
            rows(batch.tokens),
            jnp.repeat(batch.prompt_length, 2),
            rows(batch.length),
            step_end,
        )
        text = jnp.reshape(text_score(scores, step_end, how), (heads, R, 2))
        of_head = lambda s, w: pair_loss(s[:, 0], s[:, 1], w, batch.margin)
        of_heads = jax.vmap(of_head)(text, resampled(batch))
        return jax.tree.map(lambda x: jnp.mean(x, axis=0), of_heads)

    return RewardObjective(weight, total)


def win_probability(scores: jax.Array) -> jax.Array:
    """f32[..., M, M]: P(i beats j) = sigmoid(s_i - s_j) of scores f32[..., M].

    Of an ensemble take the mean over its heads: that may have cycles, so that no scores
    explain it.
    """
    chex.assert_type(scores, jnp.float32)
    return jax.nn.sigmoid(scores[..., :, None] - scores[..., None, :])


def borda(
    wins: jax.Array, *, valid: jax.Array | None = None, transitive: bool = False
) -> jax.Array:
    """f32[..., M]: how each candidate does against the others; the largest is best.

    The mean probability of beating another candidate, in [0, 1]; equal candidates get
    the same number, and argmax takes the first of them. -inf where not valid.

    transitive: LLaMA-Berry's enhanced count. Who beats another with probability above
    1/2 also beats everyone whom that one beats (the transitive closure, by Floyd and
    Warshall); counted are those beaten, and equal counts, such as those of a cycle, are
    ordered by the mean probability. (The paper orders them by comparing two at a time.)

    Args:
      wins: f32[..., M, M], P(i beats j); the diagonal is not read.
      valid: bool[..., M], which candidates there are; all if left out.
    """
    M = wins.shape[-1]
    chex.assert_axis_dimension(wins, -2, M)
    chex.assert_type(wins, jnp.float32)
    valid = jnp.broadcast_to(True if valid is None else valid, wins.shape[:-1])
    meet = valid[..., :, None] & valid[..., None, :] & _others(wins)
    others = jnp.maximum(jnp.sum(meet, axis=-1), 1).astype(jnp.float32)
    result = jnp.sum(wins, axis=-1, where=meet) / others
    if transitive:

        def through(k: jax.Array, beats: jax.Array) -> jax.Array:
            return beats | (beats[..., :, k, None] & beats[..., k, None, :])

        beats = jax.lax.fori_loop(0, M, through, meet & (wins > 0.5))
        count = jnp.sum(beats & meet, axis=-1).astype(jnp.float32)
        # The mean is at most 1, and 1 only where the count is the largest anyway.
        result = (count + result) / (others + 1.0)
    return jnp.where(valid, result, -jnp.inf)


def _others(wins: jax.Array) -> jax.Array:
    return jnp.broadcast_to(~jnp.eye(wins.shape[-1], dtype=bool), wins.shape)
