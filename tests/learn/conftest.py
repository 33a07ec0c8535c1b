"""A policy so small that it learns four sentences in a second."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from o1jax.policy.policy import PolicyConfig, build_policy
from o1jax.types import TokenBatch

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


@pytest.fixture(scope="session")
def make():
    return tiny


@pytest.fixture(scope="session")
def jit():
    """jax.jit into unoptimised machine code, which compiles in half the time."""
    options = {"xla_backend_optimization_level": 0}
    return functools.partial(jax.jit, compiler_options=options)


# Four documents and how many of their tokens are given (weight 0).
DOCUMENTS = [
    ([3, 9, 5, 11, 7, 1], 2),
    ([4, 8, 1], 1),
    ([10, 2, 6, 6, 1], 3),
    ([5, 3, 9, 1], 1),
]
ALONE = ((0,), (1,), (2,), (3,))


def pack(layout=ALONE, *, length=6):
    """A TokenBatch whose row r holds the documents layout[r], one behind the other."""
    shape = (len(layout), length)
    batch = {
        name: np.zeros(shape, np.int32) for name in ("tokens", "segment", "position")
    }
    weight = np.zeros(shape, np.float32)
    for row, documents in enumerate(layout):
        start = 0
        for number, (tokens, given) in enumerate((DOCUMENTS[d] for d in documents), 1):
            here = slice(start, start + len(tokens))
            batch["tokens"][row, here] = tokens
            batch["segment"][row, here] = number
            batch["position"][row, here] = np.arange(len(tokens))
            weight[row, start + given : here.stop] = 1
            start = here.stop
    return TokenBatch(weight=weight, **batch)


@pytest.fixture(scope="session")
def batch_of():
    return pack
