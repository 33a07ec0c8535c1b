"""The queue of requests that flows through the rows of a sampler.

In: prompts. Out: what is known of each request so far, and which of them get the rows
that are free.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from o1jax.policy.policy import Policy
from o1jax.types import KVCache, Params, PolicyOutput, Prompts, Trajectory


class Requests(NamedTuple):
    """What is known of every request so far; the program's result."""

    tokens: jax.Array  # i32[Q, T]
    logprob: jax.Array  # f32[Q, T]
    value: jax.Array  # f32[Q, T]
    length: jax.Array  # i32[Q]
    finished: jax.Array  # bool[Q]

    def trajectory(self, prompts: Prompts) -> Trajectory:
        """With what was asked."""
        return Trajectory(
            tokens=self.tokens,
            prompt_length=prompts.length,
            length=self.length,
            logprob=self.logprob,
            value=self.value,
            finished=self.finished,
            prompt_id=prompts.prompt_id,
        )


def free_rows(
    request: jax.Array, waiting: jax.Array, Q: int, count: int
) -> tuple[jax.Array, jax.Array]:
    """`count` free rows, and the requests from number `waiting` on that get them.

    B and Q stand for none, where there are fewer.
    """
    B = request.shape[0]
    (slots,) = jnp.nonzero(request == Q, size=count, fill_value=B)
    queued = waiting + jnp.arange(count)
    queued = jnp.where((slots < B) & (queued < Q), queued, Q)
    return jnp.where(queued < Q, slots, B), queued


def unanswered(prompts: Prompts, T: int) -> Requests:
    """All requests, before anything was drawn; T: tokens of a row."""
    Q, P = prompts.tokens.shape
    return Requests(
        tokens=jnp.pad(prompts.tokens, ((0, 0), (0, T - P))),
        logprob=jnp.zeros((Q, T)),
        value=jnp.zeros((Q, T)),
        length=prompts.length,
        finished=jnp.zeros(Q, bool),
    )


def empty_start(
    policy: Policy, params: Params, rows: int, *, capacity: int
) -> tuple[PolicyOutput, KVCache]:
    """What Policy.start gives to so many rows, all zeros."""
    row = jnp.zeros((rows, 1), jnp.int32), jnp.ones(rows, jnp.int32)
    shapes = jax.eval_shape(lambda: policy.start(params, *row, capacity=capacity))
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
