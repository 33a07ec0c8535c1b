"""Arrays of a checkpoint, read piece by piece in bounded memory.

In: an array's metadata and how many bytes of memory may be used. Out: boxes that cover
it, each with its elements. A box is one chunk or several whole ones, so that none is
decoded twice; the next box is read while the last one is worked on. A chunk can only
be decoded whole: an array with one that is too large for the memory is refused.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tensorstore as ts

from o1jax.inspect.checkpoint_item import Array
from o1jax.inspect.checkpoint_store import reason

GIB = 1 << 30
BEST_BYTES = 64 << 20  # of a box: large enough for parallel decoding
# Decoding holds a chunk compressed, decoded and copied out, and the next one besides.
COPIES = 5

Box = tuple[slice, ...]


class Piece(NamedTuple):
    """Part of an array."""

    box: Box
    data: np.ndarray


class ReadError(RuntimeError):
    """Why an array, or the rest of it, can't be read, in one line."""


class TooLarge(ReadError):
    """Nothing is wrong with the array, but it needs more memory than is allowed."""


def plan(arrays: Sequence[Array], memory: int) -> Iterator[Box]:
    """Boxes that suit arrays of one shape, to be read side by side.

    TooLarge where a chunk exceeds the memory, ReadError where metadata is lost.
    """
    if any(array.zarr is None for array in arrays):
        raise ReadError("its metadata is lost")
    # Whole chunks of all, where those of one are multiples of those of the others.
    shapes = [array.zarr.read_shape for array in arrays]
    chunk = tuple(min(max(c), n) for *c, n in zip(*shapes, arrays[0].shape))
    one = sum(array.nbytes for array in arrays) // max(arrays[0].size, 1)
    need = COPIES * math.prod(chunk) * one
    if need > memory:
        gib = math.prod(chunk) * one / GIB
        enough = math.ceil(10 * need / GIB) / 10
        raise TooLarge(f"one chunk is {gib:.2f} GiB: needs --memory {enough:.1f}")
    best = min(BEST_BYTES, memory // 16)
    return boxes(arrays[0].shape, chunk, best // max(one, 1))


def read_pieces(array: Array, boxes: Iterable[Box]) -> Iterator[Piece]:
    """The elements of some boxes of an array. ReadError where it is damaged."""
    # Keep the database's nodes: without a cache each chunk would read them anew.
    context = ts.Context({"cache_pool": {"total_bytes_limit": 16 << 20}})
    try:
        store = ts.open(array.spec, open=True, read=True, context=context).result()
        coming = None
        for box in boxes:
            last, coming = coming, (box, store[box].read())
            if last:
                yield Piece(last[0], last[1].result())
                last = None  # let go of it before the next is waited for
        if coming:
            yield Piece(coming[0], coming[1].result())
    except ValueError as error:
        raise ReadError(reason(error)) from None


def boxes(shape: tuple[int, ...], chunk: tuple[int, ...], most: int) -> Iterator[Box]:
    """Boxes of whole chunks that cover a shape, of `most` elements or one chunk."""
    if 0 in shape:
        return
    side = [min(c, n) for c, n in zip(chunk, shape)]
    for axis in reversed(range(len(shape))):
        fit = max(most // math.prod(side), 1)
        side[axis] = min(side[axis] * fit, shape[axis])
        if side[axis] < shape[axis]:
            break  # a box must stay one: the axes before it are cut too
    counts = [math.ceil(n / s) for n, s in zip(shape, side)]
    for index in np.ndindex(*counts):
        yield tuple(
            slice(i * s, min((i + 1) * s, n)) for i, s, n in zip(index, side, shape)
        )
