"""Seconds of some steps of a training loop, and a trace of them for xprof.

In: the steps of a stage, each inside `step`. Out: what the ones behind a warm-up took,
by the ledger's kinds of work. Where nobody watches, `step` only marks begin and end for
whatever profiler looks on.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax

from o1jax.loop.ledger import KINDS, Ledger


class Timed(NamedTuple):
    """What some steps of a stage took."""

    steps: int
    seconds: float  # of all of them
    kinds: dict[str, float]  # seconds by kind of work, those that were used
    flops: dict[str, float]

    @property
    def host(self) -> float:
        """Seconds that no kind of work accounts for."""
        return max(self.seconds - sum(self.kinds.values()), 0.0)


class Watch:
    """Looks at a stage; traces `steps` of its steps into `folder` after `warmup`."""

    def __init__(self, warmup: int, steps: int, folder: Path, ledger: Ledger) -> None:
        self._first, self._end = warmup, warmup + steps
        self._folder, self._count, self._tracing = folder, 0, False
        self._begin(ledger)
        self.timed: Timed | None = None

    def begins(self, ledger: Ledger) -> None:
        if self._count == self._first:
            jax.profiler.start_trace(self._folder)
            self._tracing = True
            self._begin(ledger)

    def ends(self, ledger: Ledger) -> None:
        self._count += 1
        if self._count == self._end:
            seconds = time.monotonic() - self._began
            self.close()
            self.timed = self._timed(seconds, ledger.state())

    def close(self) -> None:
        """Ends the trace if it is open: a process can have one at a time."""
        if self._tracing:
            self._tracing = False
            jax.profiler.stop_trace()

    def _timed(self, seconds: float, after: dict[str, Any]) -> Timed:
        flops = lambda state: {k: state["accounts"][k]["flops"] for k in KINDS}
        more = lambda new, old: {k: new[k] - old[k] for k in KINDS if new[k] > old[k]}
        return Timed(
            self._end - self._first,
            seconds,
            more(after["seconds"], self._before["seconds"]),
            more(flops(after), flops(self._before)),
        )

    def _begin(self, ledger: Ledger) -> None:
        self._began: float = time.monotonic()
        self._before: dict[str, Any] = ledger.state()


_watch: Watch | None = None


@contextmanager
def step(name: str, number: int, ledger: Ledger) -> Iterator[None]:
    """Around each step of a training loop."""
    with jax.profiler.StepTraceAnnotation(name, step_num=number):
        if _watch is not None:
            _watch.begins(ledger)
        yield
        if _watch is not None:
            _watch.ends(ledger)


@contextmanager
def watching(watch: Watch) -> Iterator[None]:
    """Inside, `step` tells this one."""
    global _watch
    _watch = watch
    try:
        yield
    finally:
        _watch = None
        watch.close()
