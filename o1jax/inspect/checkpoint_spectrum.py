"""A sketch of the singular values of each layer's matrix, in three passes over it.

In: the pieces of an array, in any order, three times. Out, for each layer: the leading
singular values, and the effective rank (sum s^2)^2 / sum s^4, which is n for n equal
values. Memory grows with the sides of the matrix, not with its area.

    Y1 = A^T Psi,   Y2 = A orth(Y1),   Y3 = A^T U with U = orth(Y2)

The singular values of Y3 are the leading ones (Halko et al. 2009, arXiv:0909.4061,
algorithm 4.4): lower bounds, tight where values stand out; of a matrix of pure noise
the largest comes out a sixth too small. The last pass also multiplies what U leaves of
random vectors; products of different ones estimate the rest of sum s^4 without bias
(Kong and Valiant 2016, arXiv:1602.00061). Left out: what couples U and the rest.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from o1jax.inspect.checkpoint_pieces import Box

RANK = 16  # columns of a basis, and random vectors beside it; half of the values shown
PASSES = 3
STACKED = re.compile(r"layers?|blocks?|h|scan\w*")


class Spectrum(NamedTuple):
    """Of the matrix of one layer."""

    values: tuple[float, ...]  # leading singular values, largest first
    effective_rank: float
    full_rank: int  # the most that it could be: the shorter side


def layer_axes(path: str, shape: tuple[int, ...]) -> int:
    """1 if axis 0 counts layers, which is what a path with `layers` says; else 0."""
    stacked = any(STACKED.fullmatch(key) for key in path.split("/"))
    return int(stacked and len(shape) > 1)


def model_width(shapes: Sequence[tuple[int, ...]]) -> int:
    """The size that most axes have: that of the residual stream."""
    counts = Counter(size for shape in shapes for size in shape if size > 1)
    return max(counts, key=lambda size: (counts[size], size), default=0)


def matrix_split(shape: tuple[int, ...], width: int) -> int:
    """The axis where columns begin: one side is the model's width, if it can be.

    Otherwise the matrix is as square as can be.
    """
    if width in (shape[0], shape[-1]):
        return 1 if shape[0] == width else len(shape) - 1
    sides = [
        abs(math.log(math.prod(shape[:axis]) / math.prod(shape[axis:])))
        for axis in range(1, len(shape))
    ]
    return 1 + sides.index(min(sides))


class SpectrumSketch:
    """Sketches of the layers of one array; its pieces are added PASSES times."""

    def __init__(self, shape: tuple[int, ...], layers: int, width: int = 0) -> None:
        """For an array whose first `layers` (0 or 1) axes count layers."""
        self._inner, self._layers = shape[layers:], layers
        self._split = matrix_split(self._inner, width)
        self._count = shape[0] if layers else 1
        self._random = np.random.default_rng(0)
        self._squares = np.zeros(self._count)  # |A|^2
        self._passes = 0
        self._left = True  # whether A is multiplied from the left, by rows
        drawn = self._gaussian()
        self._begin(np.broadcast_to(drawn, (self._count, *drawn.shape)))

    def add(self, box: Box, data: np.ndarray) -> None:
        """Take in the elements of a box: finite f32."""
        stack = box[0] if self._layers else slice(0, 1)
        inner = box[self._layers :]
        rows, columns = inner[: self._split], inner[self._split :]
        height = math.prod(s.stop - s.start for s in rows)
        pieces = data.reshape(stack.stop - stack.start, height, -1)
        for layer, matrix in zip(range(stack.start, stack.stop), pieces):
            if not self._passes:
                flat = matrix.ravel()
                self._squares[layer] += float(flat @ flat)
            if self._left:
                matrix, inside, outside = matrix.T, rows, columns
            else:
                inside, outside = columns, rows
            part = self._product[layer][outside]  # a view
            part += (matrix @ _flat(self._basis[layer][inside])).reshape(part.shape)

    def next_pass(self) -> None:
        """All pieces were added; they come again."""
        self._passes, self._left = self._passes + 1, not self._left
        bases = [np.linalg.qr(_flat(product))[0] for product in self._product]
        if self._passes == PASSES - 1:  # what the bases leave of random vectors
            drawn = _flat(self._gaussian())
            rests = [drawn - basis @ (basis.T @ drawn) for basis in bases]
            bases = [np.hstack(pair) for pair in zip(bases, rests)]
        self._begin(np.reshape(bases, (self._count, *self._side(self._left), -1)))

    def finish(self) -> tuple[Spectrum, ...]:
        """The sketch of every layer, after the last pass."""
        rows = math.prod(self._inner[: self._split])
        full = min(rows, math.prod(self._inner) // rows)
        return tuple(
            _spectrum(_flat(product).astype(np.float64), squares, full)
            for product, squares in zip(self._product, self._squares)
        )

    def _begin(self, basis: np.ndarray) -> None:
        self._basis = basis  # f32[layers, *side, columns]
        shape = (self._count, *self._side(not self._left), basis.shape[-1])
        self._product = np.zeros(shape, np.float32)

    def _side(self, left: bool) -> tuple[int, ...]:
        """The axes of the rows, or of the columns."""
        return self._inner[: self._split] if left else self._inner[self._split :]

    def _gaussian(self) -> np.ndarray:
        return self._random.standard_normal((*self._side(self._left), RANK), np.float32)


def _flat(array: np.ndarray) -> np.ndarray:
    """All axes but the last as one."""
    return array.reshape(-1, array.shape[-1])


def _spectrum(image: np.ndarray, squares: float, full: int) -> Spectrum:
    if not squares > 0:
        return Spectrum((), 0.0, full)
    lead = image.shape[1] - RANK
    values = np.linalg.svd(image[:, :lead], compute_uv=False)
    gram = image[:, lead:].T @ image[:, lead:]
    different = np.sum(gram**2) - np.sum(np.diagonal(gram) ** 2)
    fourth = np.sum(values**4) + max(different, 0) / (RANK * (RANK - 1))
    effective = float(np.clip(squares**2 / fourth, 1, full))
    return Spectrum(tuple(map(float, values[: RANK // 2])), effective, full)
