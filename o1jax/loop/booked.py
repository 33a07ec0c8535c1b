"""A compiled function whose every call is booked in the ledger.

In: a function of arrays of fixed shapes. Out: the same, jitted, which adds the FLOPs of
each call, counted once, and the seconds until its result is there.
"""

import time
from collections.abc import Callable
from typing import Any

import jax

from o1jax.loop.ledger import count_flops
from o1jax.loop.workdir import Workdir


class Booked:
    """fn, compiled; `kind` is the account of the ledger."""

    def __init__(
        self,
        run: Workdir,
        kind: str,
        fn: Callable[..., Any],
        compiled: Callable[..., Any] | None = None,
    ) -> None:
        """compiled: fn jitted already, where donation or shardings matter."""
        self._run, self._kind, self._fn = run, kind, fn
        self._compiled = compiled or jax.jit(fn)
        self._flops: int | None = None

    def __call__(self, *arguments: Any, tokens: int) -> Any:
        """fn(*arguments), which puts `tokens` tokens through a network."""
        if self._flops is None:
            self._flops = count_flops(self._fn, *arguments).flops
        began = time.monotonic()
        result = jax.block_until_ready(self._compiled(*arguments))
        seconds = time.monotonic() - began
        self._run.ledger.add(
            self._kind, tokens=tokens, flops=self._flops, seconds=seconds
        )
        return result
