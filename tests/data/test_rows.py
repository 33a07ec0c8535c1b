import itertools
import json

import numpy as np
import pytest

from o1jax.data.batches import prefetch
from o1jax.data.rows import RowStream
from o1jax.types import StepLabels


def labels(count: int) -> StepLabels:
    """Row i is [i, i, i], i tokens long: any leaf tells which row it is."""
    row = np.arange(count, dtype=np.int32)
    wide = np.broadcast_to(row[:, None], (count, 3))
    return StepLabels(
        tokens=wide,
        prompt_length=row,
        length=row,
        step_end=wide > 1,
        label=wide.astype(np.float32),
        weight=wide.astype(np.float32),
    )


def stream(count: int = 5, **options) -> RowStream:
    return RowStream(
        labels(count), **{"rows": 2, "seed": 0, "identity": {"kind": "test"}} | options
    )


def ids(batches, count: int) -> list[list[int]]:
    return [batch.length.tolist() for batch in itertools.islice(batches, count)]


def test_a_batch_is_the_record_with_fewer_rows() -> None:
    batch = next(stream())
    assert isinstance(batch, StepLabels)
    i, wide = batch.length, np.repeat(batch.length[:, None], 3, axis=1)
    np.testing.assert_array_equal(batch.tokens, wide)
    np.testing.assert_array_equal(batch.label, wide)
    np.testing.assert_array_equal(batch.step_end, wide > 1)
    assert [x.dtype for x in (batch.tokens, batch.label, i)] == [
        np.int32,
        np.float32,
        np.int32,
    ]


def test_every_epoch_has_each_row_once_in_a_new_order() -> None:
    # 5 rows in batches of 2: the third batch is half of the next epoch.
    rows = np.concatenate(ids(stream(), 10)).reshape(4, 5)
    np.testing.assert_array_equal(np.sort(rows, axis=1), [range(5)] * 4)
    assert len({tuple(epoch) for epoch in rows}) == 4
    assert ids(stream(seed=1), 10) != ids(stream(), 10)
    at = stream()
    assert ids(at, 10) == ids(stream(), 10)
    assert at.epochs == 4


def test_a_batch_may_be_larger_than_the_data() -> None:
    first = ids(stream(2, rows=5), 2)
    assert [sorted(np.concatenate(first)[i : i + 2]) for i in (0, 2, 4)] == [[0, 1]] * 3


def test_a_resumed_stream_goes_on_exactly() -> None:
    at = stream()
    for _ in range(7):
        state = json.loads(json.dumps(at.get_state()))
        new = stream()
        new.set_state(state)
        following = next(at).length.tolist()
        assert ids(new, 1) == [following]


def test_processes_share_each_global_batch() -> None:
    whole = ids(stream(rows=4), 6)
    one, two = (
        ids(stream(rows=4, process_index=i, process_count=2), 6) for i in range(2)
    )
    assert [a + b for a, b in zip(one, two)] == whole
    state = stream(rows=4).get_state()
    stream(rows=4, process_index=1, process_count=2).set_state(state)


def test_prefetching_gives_the_same_batches_and_states() -> None:
    plain = stream()
    with prefetch(stream(), depth=3) as ahead:
        for _ in range(4):
            assert next(ahead).length.tolist() == next(plain).length.tolist()
            assert ahead.get_state() == plain.get_state()


@pytest.mark.parametrize(
    "other, message",
    [
        ({"seed": 1}, "seed was 1 and is 0"),
        ({"rows": 3}, "rows was 3 and is 2"),
        ({"count": 6}, "records was 6 and is 5"),
        ({"identity": {"kind": "x"}}, "kind was 'x' and is 'test'"),
        ({"identity": {}}, "kind was None and is 'test'"),
        ({"identity": {"kind": "test", "y": 1}}, "y was 1 and is None"),
    ],
)
def test_a_position_of_another_stream_is_refused(other, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stream().set_state(stream(**other).get_state())


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({}, "no arrays"),
        ({"a": np.zeros((0, 2))}, "no rows"),
        (
            {"a": np.zeros(3), "b": np.zeros((2, 3))},
            r"\['b'\] has 2 rows, \['a'\] has 3",
        ),
        ({"a": np.zeros(3), "b": np.float32(1)}, r"\['b'\] is a scalar"),
        ({"a": np.float32(1)}, r"\['a'\] is a scalar"),
    ],
)
def test_arrays_that_are_not_rows_are_named(arrays, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RowStream(arrays, rows=2, seed=0, identity={})


@pytest.mark.parametrize(
    "options, message",
    [
        ({"rows": 0}, "rows is 0"),
        ({"rows": 3, "process_count": 2}, "2 processes cannot share"),
    ],
)
def test_rows_that_cannot_be_shared_are_refused(options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stream(**options)
