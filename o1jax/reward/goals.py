"""Labels for every goal at once: which answers are still within reach after a step.

In: a reward model whose read-out is "goal", StepLabels, and for each closed step the
goals that it leaves within reach. Out: an objective. One trace then teaches what is
possible for all the questions that might have been asked, where its own label is one
bit. Values of many goals in one network: Schaul et al. 2015 (UVFA); labels for goals
that were not asked for: Andrychowicz et al. 2017, arXiv 1707.01495. Simplified: the
task says what is within reach, so nothing is bootstrapped or relabelled by luck.
"""

from collections.abc import Sequence

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from o1jax.reward.losses import RewardObjective, Sums, check_labels
from o1jax.reward.model import RewardModel
from o1jax.types import Params, StepLabels


@flax.struct.dataclass(kw_only=True)
class GoalLabels:
    """Step labels, and what they would be for every other goal."""

    labels: StepLabels
    reach: jax.Array  # u8[B, J, ceil(G / 8)]  by np.packbits, of each closed step

    @property
    def tokens(self) -> jax.Array:
        """i32[B, T]: what is read."""
        return self.labels.tokens


def pack_goals(reach: np.ndarray) -> np.ndarray:
    """u8[..., ceil(G / 8)] of bool[..., G]."""
    return np.packbits(reach.astype(bool), axis=-1)


def unpack_goals(packed: jax.Array, goals: int) -> jax.Array:
    """f32[..., G], which `pack_goals` made of 0 and 1."""
    return jnp.unpackbits(packed, axis=-1, count=goals).astype(jnp.float32)


def goal_objective(
    model: RewardModel, goal_ids: Sequence[int], *, goal_weight: float = 10.0
) -> RewardObjective:
    """Cross-entropy of the question's own goal, and of all goals.

        sum_steps w [CE(z_own, y) + goal_weight / G sum_g CE(z_g, y_g)]

    goal_ids: the token of each goal. ValueError for a model without goals.
    """
    if model.goals is None:
        raise ValueError("learning from goals needs read-out goal")
    ids = jnp.asarray(np.asarray(goal_ids, np.int32))

    def weight(batch: GoalLabels) -> jax.Array:
        return jnp.sum(batch.labels.weight)

    def total(params: Params, batch: GoalLabels) -> tuple[jax.Array, Sums]:
        labels, reach = batch.labels, batch.reach
        check_labels(labels)
        B, T = labels.tokens.shape
        chex.assert_shape(reach, (B, None, (ids.size + 7) // 8))
        ends = jnp.where(labels.step_end, jnp.arange(T)[None], T)
        ends = jnp.sort(ends, axis=1)[:, : reach.shape[1]]
        own, every = model.goals(
            params, labels.tokens, labels.prompt_length, jnp.minimum(ends, T - 1)
        )
        at_ends = lambda x: jnp.where(
            ends < T, jnp.take_along_axis(x, jnp.minimum(ends, T - 1), axis=1), 0.0
        )
        w, y = at_ends(labels.weight), at_ends(labels.label)
        own_loss = jnp.sum(w * _cross_entropy(own, y))
        each = _cross_entropy(every[:, :, ids], unpack_goals(reach, ids.size))
        goal_loss = jnp.sum(w * jnp.mean(each, axis=-1))
        accuracy = jnp.sum(w, where=(own > 0) == (y >= 0.5))
        loss = own_loss + goal_weight * goal_loss
        sums = {"loss": own_loss, "goal_loss": goal_loss, "accuracy": accuracy}
        return loss, sums

    return RewardObjective(weight, total)


def _cross_entropy(z: jax.Array, y: jax.Array) -> jax.Array:
    return jax.nn.softplus(z) - y * z
