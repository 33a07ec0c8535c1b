"""Several opinions of one text made into one.

In: probabilities f32[K, ...] of K heads. Out: f32[...]. Optimising against their mean
finds texts that one head overrates; the least, or the mean less what they disagree by,
does not reward that (Coste et al. 2023, arXiv 2310.02743).
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp

Combine = Literal["mean", "min", "pessimistic"]


def combine(probability: jax.Array, how: Combine, lam: float = 1.0) -> jax.Array:
    """One probability f32[...] of K opinions f32[K, ...], e.g. of `aggregate`.

    mean; min; pessimistic: mean - lam * standard deviation over the heads (of the
    population, so that one head is itself), at least 0.
    """
    if how not in get_args(Combine):
        raise ValueError(f"combine must be one of {', '.join(get_args(Combine))}")
    if how == "min":
        return jnp.min(probability, axis=0)
    mean = jnp.mean(probability, axis=0)
    if how == "mean":
        return mean
    return jnp.maximum(mean - lam * jnp.std(probability, axis=0), 0.0)
