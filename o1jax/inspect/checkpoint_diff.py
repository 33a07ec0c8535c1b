"""What differs between two checkpoints, such as two steps of a run.

In: the metadata of both. Out: fields of the config and of the documents that changed;
arrays that are only in one, or of another shape, dtype or sharding; and for every array
of one shape in both how far it moved, layer by layer where layers are stacked, streamed
in bounded memory.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from o1jax.inspect.checkpoint import Checkpoint
from o1jax.inspect.checkpoint_item import Array
from o1jax.inspect.checkpoint_pieces import ReadError, TooLarge, plan, read_pieces
from o1jax.inspect.checkpoint_spectrum import layer_axes
from o1jax.inspect.checkpoint_stats import Advance, as_float


class Change(NamedTuple):
    """Something with a name that is not the same in both; "" where it is absent."""

    name: str
    before: str
    after: str


class Structure(NamedTuple):
    """All that differs but for the elements of the arrays."""

    config: tuple[Change, ...]  # fields of the runs' configs
    documents: tuple[Change, ...]  # position of the data, ledger
    arrays: tuple[Change, ...]  # shape, dtype, or presence
    layout: tuple[Change, ...]  # sharding and chunks


class Moved(NamedTuple):
    """How far an array moved: distances leave out where either is not finite."""

    path: str
    distance: float  # |b - a|
    relative: float | None  # |b - a| / |a|; None if a is zero
    cosine: float | None  # of the angle between them; None if either is zero
    largest: float  # of |b - a| over the elements
    not_finite: int  # elements left out
    layers: tuple[float | None, ...]  # relative, of each; () if none are stacked


class MovedError(NamedTuple):
    """An array that could not be compared."""

    path: str
    reason: str
    damaged: bool  # False if it would only need more memory


def compare_structure(before: Checkpoint, after: Checkpoint) -> Structure:
    """What differs by the metadata."""
    a = {array.path: array for array in before.arrays}
    b = {array.path: array for array in after.arrays}
    return Structure(
        config=_changes(_fields(before.config), _fields(after.config)),
        documents=_changes(_flat(before.documents), _flat(after.documents)),
        arrays=_changes(
            {path: _shape(array) for path, array in a.items()} | before.leaves,
            {path: _shape(array) for path, array in b.items()} | after.leaves,
        ),
        layout=_changes(
            {path: _layout(array) for path, array in a.items() if path in b},
            {path: _layout(array) for path, array in b.items() if path in a},
        ),
    )


def compare_arrays(
    pairs: Sequence[tuple[Array, Array]],
    *,
    memory: int,
    advance: Advance = lambda _: None,
) -> Iterator[Moved | MovedError]:
    """How far each array moved, from the first of a pair to the second."""
    for before, after in pairs:
        try:
            yield _distance(before, after, memory, advance)
        except ReadError as error:
            yield MovedError(before.path, str(error), not isinstance(error, TooLarge))


def comparable(before: Checkpoint, after: Checkpoint) -> list[tuple[Array, Array]]:
    """The arrays that both have in one shape."""
    b = {array.path: array for array in after.arrays}
    return [
        (array, b[array.path])
        for array in before.arrays
        if array.path in b and array.shape == b[array.path].shape
    ]


def _distance(before: Array, after: Array, memory: int, advance: Advance) -> Moved:
    layers = layer_axes(before.path, before.shape)
    shape = before.shape[:1] if layers else (1,)
    # Sums a layer: |b - a|^2, |a|^2, |b|^2 and a.b
    sums = np.zeros((4, *shape))
    largest, not_finite = 0.0, 0
    boxes = list(plan([before, after], memory))
    read = read_pieces(before, boxes), read_pieces(after, boxes)
    for (box, data), (_, other) in zip(*read):
        advance(data.nbytes + other.nbytes)
        stack = box[0] if layers else slice(0, 1)
        count = stack.stop - stack.start
        a = as_float(data).reshape(count, -1)
        b = as_float(other).reshape(count, -1)
        finite = np.isfinite(a) & np.isfinite(b)
        if not finite.all():
            not_finite += int(finite.size - finite.sum())
            a, b = np.where(finite, a, 0), np.where(finite, b, 0)
        for layer, x, y in zip(range(stack.start, stack.stop), a, b):
            for start in range(0, x.size, 1 << 20):
                part = slice(start, start + (1 << 20))
                x64, y64 = x[part].astype(np.float64), y[part].astype(np.float64)
                step = y64 - x64
                sums[:, layer] += step @ step, x64 @ x64, y64 @ y64, x64 @ y64
                largest = max(largest, float(np.abs(step).max()))
    squares, a2, b2, ab = sums.sum(1)
    return Moved(
        path=before.path,
        distance=math.sqrt(squares),
        relative=_root(squares, a2),
        cosine=float(ab / math.sqrt(a2 * b2)) if a2 and b2 else None,
        largest=largest,
        not_finite=not_finite,
        layers=tuple(map(_root, sums[0], sums[1])) if layers else (),
    )


def _root(squares: float, of: float) -> float | None:
    return math.sqrt(squares / of) if of else None


def _changes(before: dict[str, str], after: dict[str, str]) -> tuple[Change, ...]:
    return tuple(
        Change(name, before.get(name, ""), after.get(name, ""))
        for name in {**before, **after}
        if before.get(name, "") != after.get(name, "")
    )


def _fields(config: tuple[str, str] | None) -> dict[str, str]:
    """Field -> value of a config in the form that a run writes: a line a field."""
    lines = config[1].splitlines() if config else []
    found = (line.partition(" = ") for line in lines if " = " in line)
    return {name.strip(): value.strip() for name, _, value in found}


def _flat(documents: dict[str, Any], path: str = "") -> dict[str, str]:
    """Every number and text of nested objects by its path; a list is one value."""
    found: dict[str, str] = {}
    for key, value in documents.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{path}{key}/")
        else:
            found[f"{path}{key}"] = repr(value)
    return found


def _shape(array: Array) -> str:
    return f"{array.dtype}{list(array.shape)}" if array.zarr else "lost"


def _layout(array: Array) -> str:
    if array.zarr is None:
        return "lost"
    chunk = " × ".join(map(str, array.zarr.chunk_shape))  # noqa: RUF001
    chunks = f"{array.chunks} chunks of {chunk or '1'}"
    if array.sharding is None or not array.sharding.mesh:
        return chunks
    return f"{array.sharding.text} on {array.sharding.mesh_text}, {chunks}"
