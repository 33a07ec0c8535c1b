"""Batches cut from arrays that are in memory, in a new seeded order every epoch.

In: a pytree of arrays [N, ...], such as StepLabels or a PairBatch. Out: an endless
iterator of the same pytree of `rows` rows, with a small JSON state that resumes it
exactly. As in data/stream.py, every process draws the same global batch and keeps its
own block of rows, so the state does not depend on how many there are.
"""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from o1jax.data.stream import State


class RowStream:
    """Row r of the stream is the (r mod N)-th of epoch r // N.

    So an epoch's last batch is filled up with the first rows of the next one, and each
    row comes once an epoch whatever the batch's size.
    """

    def __init__(
        self,
        arrays: Any,
        *,
        rows: int,
        seed: int,
        process_index: int = 0,
        process_count: int = 1,
        identity: Mapping[str, Any],
    ) -> None:
        """`identity`: JSON-able facts that tell this stream's rows from others."""
        if rows < 1:
            raise ValueError(f"rows is {rows}; it must be at least 1")
        if rows % process_count:
            raise ValueError(
                f"rows is {rows}, which {process_count} processes cannot share evenly"
            )
        self._arrays = jax.tree.map(np.asarray, arrays)
        self._records = _records(self._arrays)
        self._rows, self._seed = rows, seed
        share = rows // process_count
        self._mine = np.arange(process_index * share, (process_index + 1) * share)
        self._identity = dict(identity) | {
            "rows": rows,
            "seed": seed,
            "records": self._records,
        }
        self._order = functools.lru_cache(maxsize=2)(self._permutation)
        self._row = 0  # of the global stream, the next to hand out

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        """The next batch: this process's rows, as numpy arrays."""
        epoch, place = np.divmod(self._row + self._mine, self._records)
        at = [self._order(int(e))[p] for e, p in zip(epoch, place)]
        self._row += self._rows
        return jax.tree.map(lambda x: x[at], self._arrays)

    @property
    def epochs(self) -> float:
        """Passes over the rows so far."""
        return self._row / self._records

    def get_state(self) -> State:
        """The position behind the last batch, and what stream it belongs to."""
        return {"row": self._row, "stream": dict(self._identity)}

    def set_state(self, state: State) -> None:
        """Go on from `get_state()`; ValueError if that was of another stream."""
        there = state["stream"]
        for name in sorted(self._identity.keys() | there.keys()):
            if there.get(name) != self._identity.get(name):
                raise ValueError(
                    f"the saved data position is of another stream: {name} was "
                    f"{there.get(name)!r} and is {self._identity.get(name)!r}"
                )
        self._row = state["row"]

    def _permutation(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self._seed, epoch]).permutation(self._records)


def _records(arrays: Any) -> int:
    """N, which all leaves must agree on; ValueError names the one that does not."""
    leaves = jax.tree_util.tree_flatten_with_path(arrays)[0]
    sizes = {jax.tree_util.keystr(path): x.shape[:1] for path, x in leaves}
    if not sizes:
        raise ValueError("there are no arrays to cut rows from")
    first, size = next(iter(sizes.items()))
    for name, other in sizes.items():
        if not other:
            raise ValueError(f"{name} is a scalar: it has no rows")
        if other != size:
            raise ValueError(f"{name} has {other[0]} rows, {first} has {size[0]}")
    if not size[0]:
        raise ValueError("there are no rows to make batches of")
    return size[0]
