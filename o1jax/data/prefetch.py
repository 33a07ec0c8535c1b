"""Batches made ready in the background.

In: a stream with `get_state` and `set_state`. Out: the same batches from a thread that
runs a few ahead. `get_state` is the stream's state behind the batch last handed out,
not behind the last one made, so a checkpoint's data position is exact.
"""

import queue
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple, Self

from o1jax.data.stream import BatchStream, State
from o1jax.types import TokenBatch


class _Made(NamedTuple):
    batch: TokenBatch | None
    state: State
    error: Exception | None  # StopIteration at the end of the stream


class Prefetch:
    """Use as a context manager, or call `close`, so that the thread ends."""

    def __init__(self, stream: BatchStream, depth: int = 2) -> None:
        if depth < 1:
            raise ValueError(f"prefetch depth is {depth}; it must be at least 1")
        self._stream, self._depth = stream, depth
        self._thread: threading.Thread | None = None
        self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def __iter__(self) -> Iterator[TokenBatch]:
        return self

    def __next__(self) -> TokenBatch:
        """The next batch; raises here what the stream raised while making it."""
        if self._error is None and self._thread is None:
            raise ValueError("the prefetching stream is closed")
        if self._error is None:
            batch, self._state, self._error = self._ready.get()
        if self._error is not None:
            raise self._error
        return batch

    def get_state(self) -> State:
        """The stream's state just behind the batch last handed out."""
        return self._state

    def set_state(self, state: State) -> None:
        """Drop what was made ahead and go on from `state`."""
        self.close()
        self._stream.set_state(state)
        self._start()

    def close(self) -> None:
        """End the thread; what it made ahead is dropped."""
        if self._thread is None:
            return
        self._stop.set()
        while self._thread.is_alive():
            while not self._ready.empty():  # it may be waiting for room in the queue
                self._ready.get_nowait()
            self._thread.join(timeout=0.01)
        self._thread = None

    def _start(self) -> None:
        self._state = self._stream.get_state()
        self._error: Exception | None = None
        self._ready: queue.Queue[_Made] = queue.Queue(self._depth)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="prefetch", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        state = self._state
        while not self._stop.is_set():
            try:
                batch = next(self._stream)
            except Exception as error:  # whatever it is belongs to the reader
                self._ready.put(_Made(None, state, error))
                return
            state = self._stream.get_state()
            self._ready.put(_Made(batch, state, None))


def prefetch(stream: BatchStream, depth: int = 2) -> Prefetch:
    """Make up to `depth` batches ahead, in a thread."""
    return Prefetch(stream, depth)
