"""Policies so small that a test sees every number, with no parameter at its default.

Tests get them through the fixture `make`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from o1jax.policy.policy import PolicyConfig, build_policy

TINY = dict(vocab=12, width=16, layers=2, heads=4, kv_heads=2, ff=24, cache_chunk=4)


@functools.cache
def tiny(**overrides):
    """(config, policy, params): grouped queries, f32, random heads and norms.

    Drawn by numpy, since `init` leaves the heads at 0 and the scales at 1, where a
    mistake in them cannot be seen.
    """
    config = PolicyConfig(**TINY | {"dtype": "float32"} | overrides)
    policy = build_policy(config)
    rng = np.random.default_rng(7)

    def fill(path, leaf):
        center = 1.0 if path[-1].key == "scale" else 0.0
        return jnp.asarray(rng.normal(center, 0.3, leaf.shape), leaf.dtype)

    shapes = jax.eval_shape(policy.init, jax.random.key(0))
    return config, policy, jax.tree_util.tree_map_with_path(fill, shapes)
