"""A reward from demonstrations: what tells an expert's responses from the policy's.

In: responses of both with their log-probs under the policy. Out: sums for an objective
of the discriminator D = exp(f) / (exp(f) + pi), whose f is a reward model's score, and
the reward it pays. At its best f is log p_expert. Adversarial inverse RL: Fu et al.
2017, https://arxiv.org/abs/1710.11248, here for whole responses or steps as single
actions (without its shaping term); the optimum: Finn et al. 2016, arXiv 1611.03852.
"""

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from o1jax.reward.aggregate import at_last
from o1jax.reward.losses import RewardObjective, Sums, bootstrap
from o1jax.reward.model import RewardModel
from o1jax.reward.preference import TextScore, text_score
from o1jax.types import Params, StepLabels


@flax.struct.dataclass(kw_only=True)
class Demonstrations:
    """Responses of the expert and of the policy."""

    labels: StepLabels  # label and weight at a row's last step end; label 1: expert
    logprob: jax.Array  # f32[B]  of the whole response under the policy

    @property
    def tokens(self) -> jax.Array:  # i32[B, T]
        return self.labels.tokens


def demonstrations(
    expert: StepLabels,
    expert_logprob: np.ndarray,
    sampled: StepLabels,
    sampled_logprob: np.ndarray,
) -> Demonstrations:
    """The rows of both, as numpy; what labels and weights they had is dropped.

    Each side weighs half of all, however many rows it has: else the best f would be off
    by the log of their ratio. The log-probs f32[rows] are under the policy that sampled
    now, also those of the expert's responses (implicit.response_logprob, summed).
    ValueError names the first row that has no step end.
    """
    sides = (expert, sampled)
    sizes = [len(side.tokens) for side in sides]
    if not all(sizes):
        raise ValueError(f"{sizes[0]} rows of the expert and {sizes[1]} of the policy")
    join = lambda *rows: np.concatenate([np.asarray(x) for x in rows])
    both = jax.tree.map(join, *sides)
    t = np.arange(both.step_end.shape[1])
    last = np.max(np.where(both.step_end, t, -1), axis=1)
    if (last < 0).any():
        row = int(np.argmax(last < 0))
        raise ValueError(f"row {row} of the demonstrations has no step end")
    at = t == last[:, None]
    is_expert = np.repeat([1.0, 0.0], sizes)
    share = np.repeat([sum(sizes) / (2 * size) for size in sizes], sizes)
    return Demonstrations(
        labels=both.replace(
            label=(at * is_expert[:, None]).astype(np.float32),
            weight=(at * share[:, None]).astype(np.float32),
        ),
        logprob=join(expert_logprob, sampled_logprob).astype(np.float32),
    )


def discriminator_loss(
    f: jax.Array, logprob: jax.Array, is_expert: jax.Array, weight: jax.Array
) -> tuple[jax.Array, Sums]:
    """Sums over f32[...] of whole responses, or of steps, each judged by its f.

        -y log D - (1 - y) log(1 - D),   log D - log(1 - D) = f - log pi

    Its best f is log(p_expert), where both sides weigh the same: a density, not only a
    ranking, and it says nothing where neither the expert nor the policy goes.

    Args:
      f: f32[...], unbounded.
      logprob: f32[...], log pi of the same response or step; no gradient goes there.
      is_expert: f32[...], 1 or 0.
      weight: f32[...].
    """
    chex.assert_equal_shape([f, logprob, is_expert, weight])
    chex.assert_type([f, logprob, is_expert, weight], jnp.float32)
    logit = reward(f, jax.lax.stop_gradient(logprob))
    loss = jnp.sum(weight * (jax.nn.softplus(logit) - is_expert * logit))
    right = (logit > 0) == (is_expert > 0.5)
    return loss, {"loss": loss, "accuracy": jnp.sum(weight, where=right)}


def reward(f: jax.Array, logprob: jax.Array) -> jax.Array:
    """f - log pi = log D - log(1 - D): what the policy is paid, f32[...].

    Its mean under the policy is E[f] plus the policy's entropy, so that the best policy
    is the expert's distribution and not its likeliest response.
    """
    return f - logprob


def demonstration_objective(
    model: RewardModel, how: TextScore = "last"
) -> RewardObjective:
    """The discriminator of whole responses, f being the model's score of a text.

    How a text's score is made of its steps: preference.text_score. Of several heads
    each learns from its own bootstrap of the rows, and the loss is their mean.
    """
    heads = model.config.heads

    def resampled(labels: StepLabels) -> jax.Array:
        """f32[K, B]"""
        weight = at_last(labels.weight, labels.step_end)
        return bootstrap(labels.tokens, labels.length, heads) * weight[None]

    def weight(batch: Demonstrations) -> jax.Array:
        return jnp.sum(resampled(batch.labels)) / heads

    def total(params: Params, batch: Demonstrations) -> tuple[jax.Array, Sums]:
        labels, B = batch.labels, batch.tokens.shape[0]
        chex.assert_shape(batch.logprob, (B,))
        scores = model.score(
            params,
            labels.tokens,
            labels.prompt_length,
            labels.length,
            labels.step_end,
        )
        f = jnp.reshape(text_score(scores, labels.step_end, how), (heads, B))
        is_expert = at_last(labels.label, labels.step_end)
        of_head = lambda f, w: discriminator_loss(f, batch.logprob, is_expert, w)
        of_heads = jax.vmap(of_head)(f, resampled(labels))
        return jax.tree.map(lambda x: jnp.mean(x, axis=0), of_heads)

    return RewardObjective(weight, total)
