"""What a policy is to the rest of the code: a record of pure functions.

`policy.build_policy` makes one of a config, `lora.lora_policy` one around another; a
test may write one by hand. What each function takes and gives stands with those of a
transformer, in policy.py.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax

from o1jax.policy.chunks import Reader
from o1jax.policy.context import Context
from o1jax.types import KVCache, Params, PolicyOutput

Pages = tuple[jax.Array, ...]  # L x [B, K, T, E], keys or values of new tokens


class Init(Protocol):
    def __call__(self, key: jax.Array) -> Params: ...


class Forward(Protocol):
    def __call__(
        self,
        params: Params,
        tokens: jax.Array,
        *,
        position: jax.Array | None = None,
        segment: jax.Array | None = None,
    ) -> PolicyOutput: ...


class Start(Protocol):
    def __call__(
        self, params: Params, tokens: jax.Array, length: jax.Array, *, capacity: int
    ) -> tuple[PolicyOutput, KVCache]: ...


class Step(Protocol):
    def __call__(
        self, params: Params, cache: KVCache, token: jax.Array
    ) -> tuple[PolicyOutput, KVCache]: ...


class Extend(Protocol):
    def __call__(
        self,
        params: Params,
        tokens: jax.Array,
        position: jax.Array,
        contexts: Sequence[Context],
        *,
        at: jax.Array,
    ) -> tuple[PolicyOutput, Pages, Pages]: ...


class Read(Protocol):
    def __call__(
        self,
        params: Params,
        tokens: jax.Array,
        reader: Reader,
        *,
        position: jax.Array | None = None,
        segment: jax.Array | None = None,
    ) -> tuple[Any, jax.Array]: ...


class Policy(NamedTuple):
    """Pure functions; build one with `build_policy`."""

    init: Init
    unstack: Callable[[Params], Params]
    forward: Forward
    start: Start
    step: Step
    extend: Extend | None = None  # only a search needs it
    read: Read | None = None  # where logits are not made all at once


def read_rows(
    policy: Policy,
    params: Params,
    tokens: jax.Array,
    reader: Reader,
    *,
    position: jax.Array | None = None,
    segment: jax.Array | None = None,
) -> tuple[Any, jax.Array]:
    """(what `reader` finds in the logits of rows i32[B, T] and the tokens, values).

    By chunks of positions if PolicyConfig.logit_chunk says so: the same numbers.
    """
    if policy.read is not None:
        return policy.read(params, tokens, reader, position=position, segment=segment)
    output = policy.forward(params, tokens, position=position, segment=segment)
    return reader(output.logits, tokens), output.value
