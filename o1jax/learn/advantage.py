"""How much better a response was than what was to be expected of its question.

In: rewards f32[Q, G] of G responses to each of Q questions. Out: advantages of the same
shape. Source of the leave-one-out baseline: Kool et al. 2019; for language models
Ahmadian et al. 2024, arXiv 2402.14740.
"""

import chex
import jax
import jax.numpy as jnp


def leave_one_out(reward: jax.Array) -> jax.Array:
    """r_i - mean of the question's other rewards: unbiased, for the baseline of a
    response does not depend on it. ValueError for a single response a question.
    """
    chex.assert_rank(reward, 2)
    chex.assert_type(reward, jnp.float32)
    G = reward.shape[1]
    if G < 2:
        raise ValueError("a leave-one-out baseline needs two responses a question")
    others = (jnp.sum(reward, axis=1, keepdims=True) - reward) / (G - 1)
    return reward - others
