"""What the numbers of a checkpoint look like, array by array, in bounded memory.

In: the arrays of a checkpoint. Out, for each: norm, mean, least and largest, zeros, NaN
and infinities, outliers, slices that are all zero, a histogram of magnitudes, and for
parameters a sketch of each layer's singular values. An array is streamed in pieces; one
that can't be read leaves a line that says why, and the next one follows.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from o1jax.inspect.checkpoint_item import Array
from o1jax.inspect.checkpoint_pieces import (
    Box,
    ReadError,
    TooLarge,
    plan,
    read_pieces,
)
from o1jax.inspect.checkpoint_spectrum import (
    PASSES,
    Spectrum,
    SpectrumSketch,
    layer_axes,
    model_width,
)

OUTLIER = 6.0  # times the rms: 2 in a billion of a normal distribution
BLOCK = 1 << 20  # elements that are counted at once, so that they stay in cache
FLOATS = ("float", "bfloat")
Advance = Callable[[int], None]  # told how many bytes were read


class Dead(NamedTuple):
    """Slices of an array that are all zero, such as the row of a token."""

    axis: int
    count: int
    of: int  # with layers stacked along axis 0, of all layers


class ArrayStats(NamedTuple):
    """Statistics of an array; those of magnitudes leave NaN and infinities out."""

    path: str
    norm: float
    rms: float
    mean: float
    least: float | None  # None where no element is finite
    largest: float | None
    zeros: int
    nan: int
    inf: int
    outliers: int  # elements beyond OUTLIER times the rms, to 1 % of that bound
    dead: tuple[Dead, ...]
    magnitudes: dict[int, int]  # k -> elements with 2^k <= |x| < 2^(k+1)
    spectra: tuple[Spectrum, ...]  # a layer each; () if there is none


class StatsError(NamedTuple):
    """An array without statistics."""

    path: str
    reason: str
    damaged: bool  # False if it would only need more memory


def measure(
    arrays: Sequence[Array],
    params: Sequence[Array],
    *,
    memory: int,
    advance: Advance = lambda _: None,
) -> Iterator[ArrayStats | StatsError]:
    """Statistics of each array; spectra of those that are among the parameters."""
    weights = {array.path for array in params}
    width = model_width([array.shape for array in params])
    for array in arrays:
        try:
            yield _measure(
                array, width if array.path in weights else None, memory, advance
            )
        except ReadError as error:
            yield StatsError(array.path, str(error), not isinstance(error, TooLarge))


def work(array: Array, is_param: bool) -> int:
    """How many bytes measuring an array reads."""
    return array.nbytes * (PASSES if is_param and _has_matrix(array) else 1)


def _measure(
    array: Array, width: int | None, memory: int, advance: Advance
) -> ArrayStats:
    layers = layer_axes(array.path, array.shape)
    moments = Moments(array.shape, layers)
    sketch = None
    if width is not None and _has_matrix(array):
        sketch = SpectrumSketch(array.shape, layers, width)
    for turn in range(PASSES if sketch else 1):
        if turn:
            sketch.next_pass()
        for box, data in read_pieces(array, plan([array], memory)):
            advance(data.nbytes)
            values = as_float(data)
            if turn == 0:
                moments.add(box, values)
            if sketch:
                sketch.add(box, _finite(values).astype(np.float32, copy=False))
    return moments.finish(array.path, sketch.finish() if sketch else ())


def _has_matrix(array: Array) -> bool:
    inner = array.shape[layer_axes(array.path, array.shape) :]
    long_axes = [n for n in inner if n > 1]
    return array.dtype.startswith(FLOATS) and len(inner) > 1 and len(long_axes) > 1


def as_float(data: np.ndarray) -> np.ndarray:
    """f32 of anything narrower; f64 of the rest; the modulus of complex numbers."""
    if np.iscomplexobj(data):
        data = np.abs(data)
    if data.dtype in (np.float32, np.float64):
        return data
    wide = data.dtype.kind in "iu" and data.dtype.itemsize > 2
    return data.astype(np.float64 if wide else np.float32)


def _finite(values: np.ndarray) -> np.ndarray:
    """The same with zeros for NaN and infinities; not a copy where there are none."""
    flat = values.ravel()
    if math.isfinite(float(flat @ flat)):  # one pass over the memory
        return values
    return np.where(np.isfinite(values), values, 0)


class Moments:
    """Statistics of one array, to which its pieces are added."""

    def __init__(self, shape: tuple[int, ...], layers: int) -> None:
        """For an array whose first `layers` (0 or 1) axes count layers."""
        self._layers = layers
        self._count = self._nan = self._inf = self._zeros = 0
        self._sum = self._squares = 0.0
        self._least, self._largest = math.inf, -math.inf
        # Elements by the upper half of their f32: sign, exponent, 7 bits of mantissa.
        self._halves = np.zeros(1 << 16, np.int64)
        side = [shape[:layers] + (n,) for n in shape[layers:]]
        self._alive = [np.zeros(s, bool) for s in side] if len(side) > 1 else []

    def add(self, box: Box, values: np.ndarray) -> None:
        """Take in the elements of a box: f32 or f64."""
        flat, zeros = values.ravel(), 0
        for start in range(0, flat.size, BLOCK):
            zeros += self._add_block(flat[start : start + BLOCK])
        self._zeros += zeros
        for axis, alive in enumerate(self._alive, self._layers):
            place = (*box[: self._layers], box[axis])
            if not zeros:
                alive[place] = True
                continue
            keep = (*range(self._layers), axis)
            others = tuple(a for a in range(values.ndim) if a not in keep)
            alive[place] |= np.any(values, axis=others)

    def _add_block(self, block: np.ndarray) -> int:
        """Returns how many zeros there are."""
        with np.errstate(over="ignore"):
            halves = block.astype("<f4", copy=False).view("<u2")[1::2]
        counts = np.bincount(halves, minlength=1 << 16)
        if counts[0x7F80:0x8000].any() or counts[0xFF80:].any():  # exponent 255
            self._nan += int(np.isnan(block).sum())
            self._inf += int(np.isinf(block).sum())
            block = block[np.isfinite(block)]
        self._halves += counts
        self._count += block.size
        if not block.size:
            return 0
        exact = block.astype(np.float64)
        self._sum += float(exact.sum())
        self._squares += float(exact @ exact)
        self._least = min(self._least, float(block.min()))
        self._largest = max(self._largest, float(block.max()))
        if counts[0] or counts[0x8000]:  # zeros, and the least of the subnormals
            return block.size - int(np.count_nonzero(block))
        return 0

    def finish(self, path: str, spectra: tuple[Spectrum, ...]) -> ArrayStats:
        """The statistics of all that was added."""
        count = max(self._count, 1)
        rms = math.sqrt(self._squares / count)
        magnitudes = self._halves[: 1 << 15] + self._halves[1 << 15 :]
        lower = (np.arange(1 << 15, dtype=np.uint32) << 16).view(np.float32)
        beyond = np.isfinite(lower) & (lower >= OUTLIER * rms)
        octaves = magnitudes[: 255 << 7].reshape(255, 128).sum(1)
        octaves[0] -= self._zeros
        return ArrayStats(
            path=path,
            norm=math.sqrt(self._squares),
            rms=rms,
            mean=self._sum / count,
            least=self._least if self._count else None,
            largest=self._largest if self._count else None,
            zeros=self._zeros,
            nan=self._nan,
            inf=self._inf,
            outliers=int(magnitudes[beyond].sum()) if rms else 0,
            dead=tuple(
                Dead(axis, int(alive.size - alive.sum()), alive.size)
                for axis, alive in enumerate(self._alive, self._layers)
                if not alive.all()
            ),
            magnitudes={k - 127: int(n) for k, n in enumerate(octaves) if n},
            spectra=spectra,
        )
