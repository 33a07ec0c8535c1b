"""Reading prompts: once each, though several samples are drawn for it.

In: a queue of requests in which each prompt stands `samples` times in a row. Out: a
function that gives some of the requests the policy's output behind their prompt and a
cache that holds it. With several samples all prompts are read in front of the loop, and
a request copies its own from there.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from o1jax.policy.policy import Policy
from o1jax.rollout.cached import cache_of
from o1jax.types import KVCache, Params, PolicyOutput, Prompts


class Reader(NamedTuple):
    """Prompts of a queue, for a sampler."""

    # i32[R], indices into the queue -> output [R, ...], cache of R rows
    read: Callable[[jax.Array], tuple[PolicyOutput, KVCache]]
    once: int  # positions that were read in front of the loop, padding included
    each: int  # positions that a request reads in it


def prompt_reader(
    policy: Policy,
    params: Params,
    prompts: Prompts,
    *,
    samples: int,
    rows: int,
    capacity: int,
) -> Reader:
    """A reader into caches of `capacity` slots, for a sampler of `rows` rows.

    ValueError unless `samples` divides the queue. Prompts are not kept, but read for
    each request, where they would take more memory than the rows' own caches.
    """
    Q, P = prompts.tokens.shape
    if Q % samples:
        raise ValueError(f"{samples} samples a prompt do not divide {Q} requests")
    if samples == 1 or Q // samples * P > rows * capacity:

        def read_each(at: jax.Array) -> tuple[PolicyOutput, KVCache]:
            text = prompts.tokens[at], prompts.length[at]
            return policy.start(params, *text, capacity=capacity)

        return Reader(read_each, 0, P)

    text = prompts.tokens[::samples], prompts.length[::samples]
    output, held = policy.start(params, *text, capacity=P)
    start = lambda: policy.start(params, *text, capacity=capacity)[1]
    chunks = [x.shape[2] for x in jax.eval_shape(start).k[0]]
    joined = lambda pages: tuple(jnp.concatenate(x, axis=2) for x in pages)
    k, v = joined(held.k), joined(held.v)

    def copy(at: jax.Array) -> tuple[PolicyOutput, KVCache]:
        which = at // samples
        cache = cache_of((k, v), which, held.length[which], chunks)
        return jax.tree.map(lambda x: x[which], output), cache

    return Reader(copy, Q // samples * P, 0)
