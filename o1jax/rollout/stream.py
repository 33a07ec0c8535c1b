"""One text, read and continued token by token, for whoever watches it grow.

In: ids of a text. Out: tokens as they are drawn. What is kept of the text before is not
read again, so that a conversation pays for its new words only.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from o1jax.policy.policy import Policy
from o1jax.rollout.cached import contexts_of, write_pages
from o1jax.rollout.requests import empty_start
from o1jax.rollout.sampling import (
    SamplingConfig,
    draw,
    sampling_logprobs,
    token_logprob,
)
from o1jax.types import KVCache, Params

BLOCK = 64  # tokens are read in blocks of this size, doubled as often as needed


class Token(NamedTuple):
    """One that was drawn."""

    id: int
    logprob: float  # of the sampling distribution


class Stream:
    """Holds what was read of a text. `params` must be unstacked."""

    def __init__(
        self, policy: Policy, params: Params, sampling: SamplingConfig, capacity: int
    ) -> None:
        """capacity: tokens of the text and what continues it."""
        self.capacity = capacity
        self._policy, self._params, self._sampling = policy, params, sampling
        self._held: list[int] = []  # tokens that the cache holds
        self._cache: KVCache | None = None  # none, or given away to a call
        self._read = jax.jit(self._read_block, donate_argnums=1)
        self._step = jax.jit(self._read_token, donate_argnums=1)

    def tokens(self, ids: Sequence[int], key: jax.Array, limit: int) -> Iterator[Token]:
        """Continues the text `ids` by at most `limit` tokens, without an end.

        ValueError where there is no room for them.
        """
        if len(ids) + limit > self.capacity:
            raise ValueError(
                f"a text of {len(ids)} tokens leaves no room for {limit} more: "
                f"{self.capacity} in all"
            )
        uniforms = np.asarray(jax.random.uniform(key, limit))
        drawn = self._prompt(list(ids), uniforms[0])
        for number in range(limit):
            yield drawn
            if number + 1 < limit:
                drawn = self._next(drawn.id, uniforms[number + 1])

    def _prompt(self, ids: list[int], uniform: np.ndarray) -> Token:
        if self._cache is None:
            shape = {"capacity": self.capacity}
            _, self._cache = empty_start(self._policy, self._params, 1, **shape)
            self._held = []
        same = 0
        for here, there in zip(ids[:-1], self._held):  # the last one is read anyway
            if here != there:
                break
            same += 1
        new = ids[same:]
        size = BLOCK
        while size < len(new):
            size *= 2
        block = np.zeros((1, size), np.int32)
        block[0, : len(new)] = new
        count = np.array([len(new)], np.int32)
        held = np.array([same], np.int32)
        drawn = self._call(self._read, block, count, held, uniform[None])
        self._held = ids
        return drawn

    def _next(self, token: int, uniform: np.ndarray) -> Token:
        drawn = self._call(self._step, np.array([token], np.int32), uniform[None])
        self._held.append(token)
        return drawn

    def _call(self, program: Callable[..., Any], *rest: np.ndarray) -> Token:
        """Of a call that is interrupted nothing is left."""
        cache, self._cache = self._cache, None
        cache, token, logprob = program(self._params, cache, *rest)
        drawn = Token(int(token), float(logprob))
        self._cache = cache
        return drawn

    def _read_block(
        self,
        params: Params,
        cache: KVCache,
        block: jax.Array,
        count: jax.Array,
        held: jax.Array,
        uniform: jax.Array,
    ) -> tuple[KVCache, jax.Array, jax.Array]:
        """`count` i32[1] tokens of block i32[1, T], behind the first `held` of all."""
        position = held[:, None] + jnp.arange(block.shape[1])[None]
        output, *pages = self._policy.extend(
            params,
            block,
            jnp.minimum(position, self.capacity - 1),
            contexts_of(cache, held),
            at=(count - 1)[:, None],
        )
        cache = write_pages(cache, tuple(pages), held)
        cache = cache.replace(length=held + count)
        return cache, *self._drawn(output.logits[:, 0], uniform)

    def _read_token(
        self, params: Params, cache: KVCache, token: jax.Array, uniform: jax.Array
    ) -> tuple[KVCache, jax.Array, jax.Array]:
        output, cache = self._policy.step(params, cache, token)
        return cache, *self._drawn(output.logits, uniform)

    def _drawn(
        self, logits: jax.Array, uniform: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        logprobs = sampling_logprobs(logits, self._sampling)
        token = draw(uniform, logprobs, self._sampling)
        return token[0], token_logprob(logprobs, token)[0]
