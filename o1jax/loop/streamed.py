"""A checkpoint's parameters written and read a piece at a time.

In: paths, shapes and dtypes, then arrays, each a layer of a parameter or all of one.
Out: a checkpoint like any other, that orbax restores in any sharding. Orbax itself
wants whole arrays: it writes the skeleton, tensorstore puts the numbers in before the
step is committed, a chunk (or several) per layer.
"""

import contextlib
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import tensorstore as ts
from flax.traverse_util import unflatten_dict

from o1jax.loop.checkpoint import Checkpoints
from o1jax.loop.checkpoint_read import STEP_NAMES
from o1jax.types import TrainState

CHUNK = 32 << 20  # bytes of the largest chunk


class Leaf(NamedTuple):
    """A parameter."""

    shape: tuple[int, ...]
    dtype: np.dtype
    layered: bool = False  # its first axis is that of the layers


Pieces = Iterable[tuple[str, int | None, np.ndarray]]  # path below params, layer


def write_params(
    directory: Path, leaves: Mapping[str, Leaf], pieces: Callable[[], Pieces]
) -> None:
    """Writes step 0 of a run that has parameters and nothing else.

    `pieces` gives each layer of each leaf once; it is called in a thread. An error of
    it is raised as a CheckpointError.
    """
    skeleton = {path: np.zeros((), leaf.dtype) for path, leaf in leaves.items()}
    state = TrainState(
        step=np.zeros((), np.int32),
        params=unflatten_dict(skeleton, sep="/"),
        opt_state=(),
        key=jax.random.key(0),
    )
    with _Filled(directory, leaves, pieces) as checkpoints:
        checkpoints.save(0, state, {}, {})


class _Filled(Checkpoints):
    """Fills in the parameters just before a step is committed."""

    def __init__(
        self, directory: Path, leaves: Mapping[str, Leaf], pieces: Callable[[], Pieces]
    ) -> None:
        self._leaves, self._pieces = leaves, pieces
        super().__init__(directory, keep=1)

    def _before_commit(self) -> None:
        (written,) = self.directory.glob(f"{STEP_NAMES.build_name(self._writing)}.*")
        opened = {
            path: _create(Path(written), path, leaf)
            for path, leaf in self._leaves.items()
        }
        for path, layer, array in self._pieces():
            store = opened[path] if layer is None else opened[path][layer]
            store.write(array).result()
        super()._before_commit()


def _create(step: Path, path: str, leaf: Leaf) -> ts.TensorStore:
    chunks = list(leaf.shape)
    if leaf.layered:
        chunks[0] = 1
    # Further axes are cut from the front until a chunk is small enough.
    for axis in range(leaf.layered, len(chunks)):
        behind = math.prod(chunks[axis + 1 :]) * leaf.dtype.itemsize
        chunks[axis] = min(chunks[axis], max(1, CHUNK // behind))
    spec = _spec(step, path) | {
        "metadata": {
            "shape": list(leaf.shape),
            "chunks": chunks,
            "dtype": "bfloat16" if leaf.dtype.kind == "V" else leaf.dtype.str,
            "compressor": {"id": "zstd", "level": 1},
            "dimension_separator": ".",
        }
    }
    return ts.open(spec, create=True, delete_existing=True).result()


def _spec(step: os.PathLike, path: str) -> dict:
    inside = ".".join(["params", *path.split("/")])
    base: str | dict = f"{step}/state/"
    if "://" not in base:
        base = {"driver": "file", "path": f"{Path(step).absolute()}/state/"}
    kvstore = {"driver": "ocdbt", "base": base, "path": f"{inside}/"}
    return {"driver": "zarr", "kvstore": kvstore}


@contextlib.contextmanager
def reader(step: os.PathLike) -> Iterator[Callable[[str, int | None], np.ndarray]]:
    """Gives (path below params, layer) -> array, of a step.

    Chunks that hold several layers are kept until the next leaf is read.
    """
    opened: dict[str, ts.TensorStore] = {}

    def read(path: str, layer: int | None) -> np.ndarray:
        if path not in opened:
            opened.clear()
            # Layers of one chunk come from the cache: decoded once, not once a layer.
            cache = ts.Context({"cache_pool": {"total_bytes_limit": 1 << 40}})
            spec = _spec(step, path) | {"recheck_cached_data": "open"}
            opened[path] = ts.open(spec, read=True, context=cache).result()
        store = opened[path]
        return (store if layer is None else store[layer]).read().result()

    try:
        yield read
    finally:
        opened.clear()
