"""Rows filled with the tokens of records, in an order that stops and goes on exactly.

In: a source and a function from record to tokens. Out: numpy batches, an iterator with
a small JSON state. Every process makes the same global batch and keeps its own block of
rows, so the state does not depend on how many there are. Whole pieces are packed
first-fit, since cutting documents at row ends costs quality: Ding et al. 2024,
https://arxiv.org/abs/2404.10830
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from o1jax.config import configurable
from o1jax.data.datasets import ENDLESS, Source
from o1jax.types import TokenBatch

State = dict[str, Any]  # JSON-able
_MAX_DROPS = 10_000  # in a row, before we conclude that nothing will ever fit


@configurable
@dataclass(frozen=True)
class BatchConfig:
    """The shape of a batch, and what may go into a row."""

    rows: int = 64  # of the global batch, over all processes
    length: int = 128  # tokens of a row
    packed: bool = False  # several examples a row; documents are always packed
    on_overflow: Literal["error", "drop"] = "error"  # an example longer than a row
    epochs: int = 0  # passes over a finite source; 0 means without end

    def __post_init__(self) -> None:
        for name, least in (("rows", 1), ("length", 2), ("epochs", 0)):
            if (value := getattr(self, name)) < least:
                raise ValueError(f"BatchConfig.{name} is {value}; at least {least}")
        if self.on_overflow not in ("error", "drop"):
            raise ValueError(
                f'BatchConfig.on_overflow is {self.on_overflow!r}; choose "error" or '
                '"drop"'
            )


class Document(NamedTuple):
    """Tokens of one record; the first `given` of them have no weight in the loss."""

    ids: np.ndarray
    given: int
    silent: np.ndarray | None = None  # bool per token: no weight there either


class _Piece(NamedTuple):
    """Piece `number` of a record's document, short enough for a row."""

    record: int
    number: int
    ids: np.ndarray
    given: int
    silent: np.ndarray | None = None


class BatchStream:
    """An iterator of `TokenBatch`es; made by `sft_batches` or `packed_batches`.

    The state is where to read on and which pieces are waiting for a row, so that
    `set_state(get_state())` on a new stream gives the batches that would have followed.
    """

    def __init__(
        self,
        source: Source,
        document: Callable[[Any], Document],
        config: BatchConfig,
        *,
        packed: bool,
        cut: bool,
        seed: int,
        process_index: int,
        process_count: int,
        identity: State,
    ) -> None:
        if len(source) == 0:
            raise ValueError("the source of the batches is empty")
        if config.rows % process_count:
            raise ValueError(
                f"BatchConfig.rows is {config.rows}, which {process_count} processes "
                "cannot share evenly"
            )
        if config.epochs and len(source) == ENDLESS:
            raise ValueError("BatchConfig.epochs is set, but the source has no end")
        self._source, self._document, self._config = source, document, config
        self._packed, self._cut, self._seed = packed, cut, seed
        share = config.rows // process_count
        self._mine = slice(process_index * share, (process_index + 1) * share)
        self._identity = identity | {
            "rows": config.rows,
            "length": config.length,
            "packed": packed,
            "epochs": config.epochs,
            "seed": seed,
            "records": len(source),
        }
        self._read = functools.lru_cache(maxsize=1)(self._read_record)
        self._order = functools.lru_cache(maxsize=2)(self._permutation)
        self._record = self._number = 0  # the next piece to read
        self._waiting: list[_Piece] = []
        self._dropped = 0

    def __iter__(self) -> Iterator[TokenBatch]:
        return self

    def __next__(self) -> TokenBatch:
        """The next batch: this process's rows. The last one of a bounded stream is
        filled up with padding.
        """
        rows, length = self._config.rows, self._config.length
        tokens = np.zeros((rows, length), np.int32)
        segment = np.zeros((rows, length), np.int32)
        position = np.zeros((rows, length), np.int32)
        weight = np.zeros((rows, length), np.float32)
        free = np.full(rows, length)
        segments = np.zeros(rows, np.int32)

        def place(piece: _Piece) -> None:
            """Into the first row with room, or to wait for the next batch."""
            size = len(piece.ids)
            row = int(np.argmax(free >= size))
            if free[row] < size:
                self._waiting.append(piece)
                return
            start = length - free[row]
            here = slice(start, start + size)
            segments[row] += 1
            tokens[row, here] = piece.ids
            segment[row, here] = segments[row]
            position[row, here] = np.arange(size)
            weight[row, start + piece.given : start + size] = 1
            if piece.silent is not None:
                weight[row, here][piece.silent] = 0
            free[row] = free[row] - size if self._packed else 0

        waiting, self._waiting = self._waiting, []
        for piece in waiting:  # the oldest first, so that none waits for ever
            place(piece)
        # Stop once as many pieces found no room as there are rows: what is left free
        # then is small, and each of them has a row of its own in the next batch.
        while free.any() and len(self._waiting) < rows:
            if (piece := self._next_piece()) is None:
                break
            place(piece)
        if not segments.any():
            raise StopIteration
        return TokenBatch(
            tokens=tokens[self._mine],
            segment=segment[self._mine],
            position=position[self._mine],
            weight=weight[self._mine],
        )

    @property
    def dropped(self) -> int:
        """Examples left out so far because they are longer than a row."""
        return self._dropped

    def get_state(self) -> State:
        """The position behind the last batch, and what stream it belongs to."""
        return {
            "record": self._record,
            "piece": self._number,
            "waiting": [[piece.record, piece.number] for piece in self._waiting],
            "dropped": self._dropped,
            "stream": dict(self._identity),
        }

    def set_state(self, state: State) -> None:
        """Go on from `get_state()`; ValueError if that was of another stream."""
        for name, here in self._identity.items():
            if (there := state["stream"].get(name)) != here:
                raise ValueError(
                    f"the saved data position is of another stream: {name} was "
                    f"{there!r} and is {here!r}"
                )
        self._record, self._number = state["record"], state["piece"]
        self._dropped = state["dropped"]
        self._waiting = [self._piece(r, n) for r, n in state["waiting"]]

    def _next_piece(self) -> _Piece | None:
        """The next piece in order of records; None behind the last one."""
        last = self._config.epochs * len(self._source)
        for _ in range(_MAX_DROPS):
            if last and self._record >= last:
                return None
            if (piece := self._piece(self._record, self._number)) is not None:
                self._number += 1
                return piece
            self._dropped += self._number == 0
            self._record, self._number = self._record + 1, 0
        raise ValueError(
            f"{_MAX_DROPS} examples in a row are longer than BatchConfig.length, which "
            f"is {self._config.length}"
        )

    def _piece(self, record: int, number: int) -> _Piece | None:
        """None if the record has no such piece, or is too long to have any.

        A cut document's next piece begins with the last token of the one before, as
        context without weight: so each token but BOS is predicted exactly once.
        """
        ids, given, silent = self._read(record)
        length = self._config.length
        if len(ids) > length and not self._cut:
            if self._config.on_overflow == "error":
                raise ValueError(
                    f"record {self._index(record)} takes {len(ids)} tokens, but "
                    f"BatchConfig.length is {length}"
                )
            return None
        start = number * (length - 1)
        if number and start + 1 >= len(ids):
            return None
        own = slice(start, start + length)
        return _Piece(
            record,
            number,
            ids[own],
            1 if number else given,
            None if silent is None else silent[own],
        )

    def _read_record(self, record: int) -> Document:
        return self._document(self._source[self._index(record)])

    def _index(self, record: int) -> int:
        """Where record number `record` of the stream lies in the source."""
        if len(self._source) == ENDLESS:
            return record
        epoch, place = divmod(record, len(self._source))
        return int(self._order(epoch)[place])

    def _permutation(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self._seed, epoch]).permutation(len(self._source))
