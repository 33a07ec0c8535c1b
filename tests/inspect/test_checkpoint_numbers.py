"""Statistics, spectra and distances against numbers worked out here with numpy."""

import math

import numpy as np
import pytest
import tensorstore as ts

from o1jax.inspect.checkpoint import Checkpoint
from o1jax.inspect.checkpoint_diff import (
    Moved,
    MovedError,
    compare_arrays,
    compare_structure,
)
from o1jax.inspect.checkpoint_item import Array
from o1jax.inspect.checkpoint_pieces import GIB, ReadError, TooLarge, boxes, plan
from o1jax.inspect.checkpoint_spectrum import (
    PASSES,
    SpectrumSketch,
    matrix_split,
    model_width,
)
from o1jax.inspect.checkpoint_stats import Dead, StatsError, measure
from o1jax.inspect.checkpoint_store import parse_zarr

MEMORY = GIB // 8


@pytest.fixture
def stored(tmp_path):
    """(path, numbers, chunk) -> the array as a checkpoint holds it, in zarr2 files."""

    def store(path, data, chunk=None, folder="a"):
        spec = {
            "driver": "zarr",
            "kvstore": f"file://{tmp_path}/{folder}/{path}/",
            "metadata": {"compressor": {"id": "zstd"}},
        }
        dtype = ts.dtype(data.dtype.name)
        layout = {"grid_origin": [0] * data.ndim}
        if chunk:
            layout["chunk"] = {"shape": chunk}
        schema = {"shape": data.shape, "dtype": dtype, "create": True}
        array = ts.open(spec, chunk_layout=ts.ChunkLayout(layout), **schema).result()
        array.write(data).result()
        document = array.spec().to_json()["metadata"] | {"zarr_format": 2}
        zarr = parse_zarr(document)
        return Array(path, path, zarr, 1, 1, None, None, (), spec | {"create": False})

    return store


def one(array, memory=MEMORY, is_param=True):
    (stats,) = measure([array], [array] if is_param else [], memory=memory)
    return stats


def test_boxes_cover_a_shape_once_in_whole_chunks():
    shape, chunk = (7, 10, 6), (3, 4, 6)
    for most in (1, 72, 150, 300, 1000):
        seen = np.zeros(shape, int)
        for box in boxes(shape, chunk, most):
            seen[box] += 1
            size = math.prod(s.stop - s.start for s in box)
            assert size <= max(most, 72)  # a chunk is read whole
            assert all(s.start % c == 0 for s, c in zip(box, chunk))
        assert (seen == 1).all()
    assert list(boxes((), (), 5)) == [()]
    assert list(boxes((3, 0), (3, 1), 5)) == []


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "int32"])
def test_moments_are_those_of_all_finite_elements(stored, dtype):
    data = np.random.default_rng(0).standard_normal((30, 40)) * 50
    data = data.astype(ts.dtype(dtype).numpy_dtype)
    exact = data.astype(np.float64)
    stats = one(stored("x", data, [7, 40]))
    assert stats.norm == pytest.approx(np.linalg.norm(exact))
    assert stats.rms == pytest.approx(np.sqrt(np.mean(exact**2)))
    assert stats.mean == pytest.approx(exact.mean())
    assert (stats.least, stats.largest) == (exact.min(), exact.max())
    assert stats.zeros == np.sum(exact == 0)
    octave = np.floor(np.log2(np.abs(exact[exact != 0]))).astype(int)
    assert stats.magnitudes == dict(zip(*np.unique(octave, return_counts=True)))


def test_what_is_not_finite_is_counted_and_left_out(stored):
    data = np.array([[1, np.nan, -2], [np.inf, 2, -np.inf]], np.float32)
    stats = one(stored("x", data))
    assert (stats.nan, stats.inf, stats.norm) == (1, 2, 3.0)
    assert (stats.least, stats.largest) == (-2, 2)
    nothing = one(stored("y", np.full((2, 2), np.nan, np.float32)))
    assert (nothing.nan, nothing.least, nothing.norm) == (4, None, 0)


def test_outliers_are_beyond_six_times_the_rms(stored):
    # Two of 20, one a little beyond the bound and one within, in 10,000 elements:
    # rms^2 = (9,996 + 2 * 400 + 6.4^2 + 6.2^2) / 10,000 = 1.0875, 6 rms = 6.257.
    data = np.ones((100, 100), np.float32)
    data[0, :4] = 20, -20, 6.4, 6.2
    stats = one(stored("x", data))
    assert stats.rms == pytest.approx(math.sqrt(1.0875), rel=1e-4)
    assert stats.outliers == 3


def test_dead_rows_and_columns_are_counted_across_pieces(stored):
    data = np.ones((2, 6, 8), np.float32)  # two layers of 6 x 8
    data[0, 2] = data[1, 2] = data[1, 5] = 0  # rows; row 2 in both layers
    data[1, :, 7] = 0  # a column of the second layer
    stats = one(stored("layers/up", data, [2, 2, 3]))
    assert stats.dead == (Dead(1, 3, 12), Dead(2, 1, 16))
    assert one(stored("other/up", data)).dead == (Dead(1, 1, 6),)
    assert one(stored("bias", np.zeros(5, np.float32))).dead == ()


def exact_spectrum(matrix):
    values = np.linalg.svd(matrix, compute_uv=False)
    return values, np.sum(values**2) ** 2 / np.sum(values**4)


def test_leading_singular_values_and_effective_rank_of_each_layer(stored):
    random = np.random.default_rng(1)
    left, right = random.standard_normal((60, 4)), random.standard_normal((4, 45))
    # Layer 0: four directions and a little noise. Layer 1: noise alone.
    noise = random.standard_normal((2, 60, 45))
    data = noise * np.array([0.05, 1])[:, None, None]
    data[0] += left @ right
    stats = one(stored("params/layers/up", data.astype(np.float32), [1, 25, 20]))
    clear, flat = stats.spectra
    values, rank = exact_spectrum(data[0])
    np.testing.assert_allclose(clear.values[:4], values[:4], rtol=1e-3)
    assert clear.effective_rank == pytest.approx(rank, rel=0.02)
    values, rank = exact_spectrum(data[1])
    assert all(x <= y for x, y in zip(flat.values, values))  # lower bounds
    assert flat.values[0] > 0.8 * values[0]
    assert flat.effective_rank == pytest.approx(rank, rel=0.15)
    assert clear.full_rank == flat.full_rank == 45
    assert one(stored("x", data[0]), is_param=False).spectra == ()


def test_the_sketch_does_not_depend_on_how_the_matrix_is_cut():
    data = np.random.default_rng(2).standard_normal((3, 10, 4, 12)).astype(np.float32)
    found = []
    for chunk in (data.shape, (1, 5, 4, 12), (2, 3, 2, 5)):
        sketch = SpectrumSketch(data.shape, 1)
        for turn in range(PASSES):
            if turn:
                sketch.next_pass()
            for box in boxes(data.shape, chunk, 1):
                sketch.add(box, data[box])
        found.append([spectrum.values for spectrum in sketch.finish()])
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4)
    np.testing.assert_allclose(found[2], found[0], rtol=1e-4)


def test_matrices_have_the_models_width_on_one_side():
    shapes = [(500, 64), (64, 2, 176), (64, 4, 3, 16), (4, 16, 64), (176, 64), (64,)]
    assert model_width(shapes) == 64
    splits = [matrix_split(shape, 64) for shape in shapes if len(shape) > 1]
    assert splits == [1, 1, 1, 2, 1]
    assert matrix_split((2, 3, 7), 64) == 2  # 6 x 7


def test_a_chunk_that_exceeds_the_memory_is_refused_by_name(stored):
    small = stored("small", np.ones((4, 4), np.float32))
    large = stored("large", np.ones((1024, 1024), np.float32))
    results = list(measure([large, small], [], memory=8 << 20))
    assert results[0] == StatsError(
        "large", "one chunk is 0.00 GiB: needs --memory 0.1", damaged=False
    )
    assert results[1].norm == 4
    with pytest.raises(TooLarge):
        plan([large], 8 << 20)


def test_an_array_that_is_lost_does_not_stop_the_next(stored):
    lost = stored("lost", np.ones((4, 4), np.float32))._replace(zarr=None)
    (error, stats) = measure([lost, stored("x", np.ones(4))], [], memory=MEMORY)
    assert error == StatsError("lost", "its metadata is lost", damaged=True)
    assert stats.norm == 2
    with pytest.raises(ReadError):
        list(plan([lost], MEMORY))


def test_how_far_an_array_moved_by_hand(stored):
    a = np.array([[3.0, 4.0], [0.0, 2.0]], np.float32)  # two layers
    b = np.array([[3.0, 4.0], [1.5, 0.0]], np.float32)
    # The second moved by (1.5, -2), which is 2.5 long; |a|^2 = 9 + 16 + 4 = 29,
    # |b|^2 = 25 + 2.25, a.b = 25.
    pair = stored("layers/w", a, [1, 2]), stored("layers/w", b, [2, 1], folder="b")
    (moved,) = compare_arrays([pair], memory=MEMORY)
    assert moved == Moved(
        path="layers/w",
        distance=2.5,
        relative=pytest.approx(2.5 / math.sqrt(29)),
        cosine=pytest.approx(25 / math.sqrt(29 * 27.25)),
        largest=2.0,
        not_finite=0,
        layers=(0.0, 1.25),
    )


def test_distances_between_dtypes_from_zero_and_past_nan(stored):
    zero = stored("w", np.zeros(3, np.float32))
    other = np.array([1, np.nan, 2], ts.dtype("bfloat16").numpy_dtype)
    (moved,) = compare_arrays([(zero, stored("w", other, folder="b"))], memory=MEMORY)
    assert moved.distance == pytest.approx(math.sqrt(5))
    assert (moved.relative, moved.cosine, moved.not_finite) == (None, None, 1)
    large = stored("large", np.ones((1024, 1024), np.float32))
    (error,) = compare_arrays([(large, large)], memory=8 << 20)
    assert isinstance(error, MovedError) and not error.damaged


def test_what_differs_besides_the_numbers(stored):
    def checkpoint(arrays, **changes):
        whole = {
            "url": "",
            "number": 1,
            "writer": "",
            "format": "",
            "processes": 1,
            "written": "",
            "params": tuple(arrays),
            "optimizer": (),
            "other": (),
            "leaves": {},
            "documents": {},
            "config": None,
            "files": 1,
            "stored": 1,
            "problems": (),
        }
        return Checkpoint(**whole | changes)

    ones = np.ones((4, 6), np.float32)
    a = checkpoint(
        [stored("w", ones), stored("gone", ones), stored("wide", ones)],
        documents={"meta": {"position": {"record": 5, "kind": "sft"}}},
        config=("config.gin", "A.x = 1\nA.y = 'b'\n"),
    )
    b = checkpoint(
        [
            stored("w", ones, [2, 6], folder="b"),
            stored("wide", np.ones((4, 8), np.float32), folder="b"),
        ],
        documents={"meta": {"position": {"record": 9, "kind": "sft"}}},
        config=("config.gin", "A.x = 2\nA.y = 'b'\nA.z = ()\n"),
    )
    found = compare_structure(a, b)
    assert found.config == (("A.x", "1", "2"), ("A.z", "", "()"))
    assert found.documents == (("meta/position/record", "5", "9"),)
    assert found.arrays == (
        ("gone", "float32[4, 6]", ""),
        ("wide", "float32[4, 6]", "float32[4, 8]"),
    )
    assert [change.name for change in found.layout] == ["w", "wide"]
    assert compare_structure(a, a) == ((), (), (), ())
