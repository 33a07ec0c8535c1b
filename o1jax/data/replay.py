"""What was learned from lately: a bounded store of rows and the weights that made them.

In: pytrees of rows [N, ...], such as a TokenBatch, and the version of the policy they
come from. Out: rows drawn in a seeded order. The store is a ring of fixed shapes, so it
is saved with a checkpoint like any other array, and comes back exactly.
"""

from typing import Any

import jax
import numpy as np

NEVER = -1  # version of a place that holds no row yet


class Replay:
    """The newest `capacity` rows; the oldest are forgotten first."""

    def __init__(self, blank: Any, capacity: int) -> None:
        """blank: a pytree of arrays [_, ...] with the shapes and types of rows."""
        if capacity < 1:
            raise ValueError(f"capacity is {capacity}; it must be at least 1")
        self.capacity = capacity
        empty = lambda x: np.zeros((capacity, *np.shape(x)[1:]), np.asarray(x).dtype)
        self._rows = jax.tree.map(empty, blank)
        self._version = np.full(capacity, NEVER, np.int32)
        self._added = 0  # rows ever; the next one goes to place added mod capacity

    def __len__(self) -> int:
        return min(self._added, self.capacity)

    @property
    def rows(self) -> Any:
        """The rows held, in no particular order."""
        return jax.tree.map(lambda x: x[: len(self)], self._rows)

    @property
    def version(self) -> np.ndarray:
        """i32[N]: of the weights that each row comes from."""
        return self._version[: len(self)]

    def add(self, rows: Any, version: int) -> None:
        """Takes rows [N, ...]; of more than `capacity` the last ones are kept."""
        count = size(rows)
        newest = np.arange(max(0, count - self.capacity), count)
        places = (self._added + newest) % self.capacity

        def write(held: np.ndarray, new: np.ndarray) -> None:
            held[places] = np.asarray(new)[newest]

        jax.tree.map(write, self._rows, rows)
        self._version[places] = version
        self._added += count

    def state(self) -> dict[str, Any]:
        """Copies of its arrays; their shapes never change."""
        arrays = {"rows": self._rows, "version": self._version}
        return jax.tree.map(np.copy, arrays) | {"added": np.int32(self._added)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Becomes the store whose `state()` this was."""
        self._rows = jax.tree.map(np.array, state["rows"])
        self._version = np.array(state["version"])
        self._added = int(state["added"])


def size(rows: Any) -> int:
    """N of a pytree of rows [N, ...]."""
    return len(jax.tree.leaves(rows)[0])


def shuffled(count: int, wanted: int, rng: np.random.Generator) -> np.ndarray:
    """i64[wanted] indices below `count`: all once, in random order, then again."""
    passes = -(-wanted // count)
    orders = [rng.permutation(count) for _ in range(passes)]
    return np.concatenate(orders)[:wanted]


def take(rows: Any, index: np.ndarray) -> Any:
    """Rows at the index, of every array."""
    return jax.tree.map(lambda x: np.asarray(x)[index], rows)
