"""Losses of reward models, as sums over steps, rows or pairs, with sums of metrics.

In: scores of steps and StepLabels, or scores of pairs. Out: what a learn Objective is
made of, so that microbatches and padding change nothing. Steps: Lightman et al. 2023,
arXiv 2305.20050; soft labels: Wang et al. 2023, arXiv 2312.08935; outcomes: Cobbe et
al. 2021, arXiv 2110.14168, whose joint language-model loss is an option; pairs: Ouyang
et al. 2022, arXiv 2203.02155.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import chex
import jax
import jax.numpy as jnp
import numpy as np

from o1jax.reward.aggregate import at_last, log_odds, log_product
from o1jax.reward.model import Readout, RewardModel
from o1jax.types import Params, StepLabels

Level = Literal["step", "outcome"]
Sums = dict[str, jax.Array]

# P(n <= k) of Poisson(1), k = 0, 1, ... jax.random.poisson compiles two loops instead.
POISSON = np.cumsum([math.exp(-1) / math.factorial(k) for k in range(9)], dtype="f4")


class RewardObjective(NamedTuple):
    """What learn.objectives.Objective is, which is not imported here.

    Of batches of one record: StepLabels, GoalLabels, PairRows or Demonstrations.
    """

    weight: Callable[[Any], jax.Array]
    total: Callable[[Params, Any], tuple[jax.Array, Sums]]


def reward_objective(
    model: RewardModel, *, level: Level = "step", language_weight: float = 0.0
) -> RewardObjective:
    """Learning from labels of steps, or from the label of each row's last step.

    One forward serves the scores and the language loss. Of several heads each learns
    from its own bootstrap of the rows, see `bootstrap`, and the loss is their mean.
    ValueError if the language loss is asked of a trunk that does not learn.
    """
    if level not in get_args(Level):
        raise ValueError(f"level must be one of {', '.join(get_args(Level))}")
    if language_weight and model.config.trunk == "frozen":
        raise ValueError("language_weight trains the trunk, but the trunk is frozen")
    heads, readout = model.config.heads, model.config.readout

    def resampled(labels: StepLabels) -> StepLabels:
        """weight [K, B, T], and everything else as it was."""
        check_labels(labels)
        rows = bootstrap(labels.tokens, labels.length, heads)
        return labels.replace(weight=rows[:, :, None] * labels.weight[None])

    def weight(labels: StepLabels) -> jax.Array:
        weight = resampled(labels).weight
        if level == "outcome":
            weight = at_last(weight, jnp.broadcast_to(labels.step_end, weight.shape))
        return jnp.sum(weight) / heads

    def total(params: Params, labels: StepLabels) -> tuple[jax.Array, Sums]:
        rows = labels.tokens, labels.prompt_length, labels.length, labels.step_end
        logprob = None
        if language_weight:
            scores, logprob = model.read(params, *rows)
        else:
            scores = model.score(params, *rows)

        def of_head(scores: jax.Array, weight: jax.Array) -> tuple[jax.Array, Sums]:
            own = labels.replace(weight=weight)
            if level == "step":
                loss, sums = step_loss(scores, own)
            else:
                loss, sums = outcome_loss(scores, own, readout)
            if logprob is not None:
                language = language_loss(logprob, own, level)
                loss = loss + language_weight * language
                sums = sums | {"loss": loss, "language_loss": language}
            return loss, sums

        scores = scores.reshape(heads, *labels.tokens.shape)
        of_heads = jax.vmap(of_head)(scores, resampled(labels).weight)
        return jax.tree.map(lambda x: jnp.mean(x, axis=0), of_heads)

    return RewardObjective(weight, total)


def check_labels(labels: StepLabels) -> None:
    """ValueError for labels that are not f32: whole numbers cut soft ones off."""
    for name in ("label", "weight"):
        dtype = getattr(labels, name).dtype
        if dtype != jnp.float32:
            raise ValueError(f"StepLabels.{name} is {dtype}, but must be float32")


def step_loss(scores: jax.Array, labels: StepLabels) -> tuple[jax.Array, Sums]:
    """Cross-entropy of scores f32[B, T], the log-odds z, with labels y in [0, 1].

        sum w (-y log sigmoid(z) - (1 - y) log sigmoid(-z))

    Least where sigmoid(z) is the mean label of what looks the same.
    """
    chex.assert_equal_shape([scores, labels.label, labels.weight])
    check_labels(labels)
    return _cross_entropy(scores, labels.label, labels.weight)


def outcome_logit(
    scores: jax.Array, step_end: jax.Array, readout: Readout
) -> jax.Array:
    """f32[..., B]: log-odds that a whole text is right, of scores f32[..., B, T].

    Of read-out logodds log(p / (1 - p)) with p the product over the steps, so that the
    outcome is the only label but each step has its say. The others read the text up to
    the last step and answer there.
    """
    if readout == "logodds":
        step_end = jnp.broadcast_to(step_end, scores.shape)
        return log_odds(log_product(scores, step_end))
    return at_last(scores, jnp.broadcast_to(step_end, scores.shape))


def outcome_loss(
    scores: jax.Array, labels: StepLabels, readout: Readout
) -> tuple[jax.Array, Sums]:
    """As step_loss, of whole texts: label and weight are those of the last step."""
    chex.assert_equal_shape([scores, labels.label, labels.weight])
    check_labels(labels)
    logit = outcome_logit(scores, labels.step_end, readout)
    label = at_last(labels.label, labels.step_end)
    return _cross_entropy(logit, label, at_last(labels.weight, labels.step_end))


def pair_loss(
    chosen: jax.Array,
    rejected: jax.Array,
    weight: jax.Array,
    margin: jax.Array | float = 0.0,
) -> tuple[jax.Array, Sums]:
    """Bradley-Terry over scores f32[R] of the better and the worse side.

    sum w (-log sigmoid(chosen - rejected - margin))
    """
    chex.assert_equal_shape([chosen, rejected, weight])
    chex.assert_type([chosen, rejected, weight], jnp.float32)
    gap = chosen - rejected
    loss = jnp.sum(weight * jax.nn.softplus(margin - gap))
    right = jnp.sum(weight, where=gap > 0)
    sums = {"pair_accuracy": right, "score_gap": jnp.sum(weight * gap)}
    return loss, {"loss": loss} | sums


def language_loss(
    token_logprob: jax.Array, labels: StepLabels, level: Level
) -> jax.Array:
    """f32[]: sum of w (-log P(text)) over the texts whose label is at least 1/2.

    A text is a step, or the whole response with the label of its last step. It is not
    divided by its tokens: with the label's loss this is the likelihood of both.
    """
    chex.assert_equal_shape([token_logprob, labels.label, labels.weight])
    right = jnp.where(labels.label >= 0.5, labels.weight, 0.0)
    if level == "outcome":
        weight = at_last(right, labels.step_end)[:, None]
    else:
        T = labels.step_end.shape[1]
        ends = jnp.where(labels.step_end, jnp.arange(T)[None], T)
        own = jax.lax.cummin(ends, axis=1, reverse=True)  # end of token t's step
        # Behind the last end that is the row's last place, which has no weight then.
        weight = jnp.take_along_axis(right, jnp.minimum(own, T - 1), axis=1)
    return -jnp.sum(weight * token_logprob)


def bootstrap(tokens: jax.Array, length: jax.Array, heads: int) -> jax.Array:
    """f32[K, B]: how often each head sees each row; 1 of a single head.

    Poisson(1), which many rows drawn with replacement tend to. Drawn from a hash of the
    row's tokens, so a row always counts the same, in whatever batch it comes.
    """
    B, T = tokens.shape
    if heads == 1:
        return jnp.ones((1, B))
    powers = jnp.cumprod(jnp.full(T, 0x9E3779B1, jnp.uint32))[None]
    inside = jnp.arange(T)[None] < length[:, None]
    terms = (tokens.astype(jnp.uint32) + 1) * powers
    hashes = jnp.sum(terms, axis=1, where=inside, dtype=jnp.uint32)

    def draws(row: jax.Array) -> jax.Array:
        u = jax.random.uniform(jax.random.fold_in(jax.random.key(0), row), (heads, 1))
        return jnp.sum(u > POISSON[None], axis=1, dtype=jnp.float32)

    return jax.vmap(draws, out_axes=1)(hashes)


def _cross_entropy(
    logit: jax.Array, label: jax.Array, weight: jax.Array
) -> tuple[jax.Array, Sums]:
    right, wrong = jax.nn.log_sigmoid(logit), jax.nn.log_sigmoid(-logit)
    loss = -jnp.sum(weight * (label * right + (1 - label) * wrong))
    agree = (logit > 0) == (label >= 0.5)
    return loss, {"loss": loss, "accuracy": jnp.sum(weight, where=agree)}
