"""The replay holds the newest rows, knows whose they are, and comes back exactly."""

import numpy as np
import pytest

from o1jax.data.replay import NEVER, Replay, shuffled, size, take


def rows(*numbers):
    """A record of two arrays, [N, 2] and [N]."""
    n = np.array(numbers, np.int32)
    return {"tokens": np.stack([n, -n], axis=1).reshape(-1, 2), "weight": n * 0.5}


def held(replay):
    """{number: version}."""
    return dict(zip(replay.rows["tokens"][:, 0].tolist(), replay.version.tolist()))


def test_the_oldest_rows_are_forgotten_first():
    replay = Replay(rows(), 4)
    assert len(replay) == 0 and size(replay.rows) == 0
    replay.add(rows(1, 2, 3), version=0)
    assert held(replay) == {1: 0, 2: 0, 3: 0}
    replay.add(rows(), version=1)
    replay.add(rows(4, 5), version=2)
    assert held(replay) == {2: 0, 3: 0, 4: 2, 5: 2}
    # Rows stay together, whatever place they have.
    found = replay.rows
    np.testing.assert_array_equal(found["tokens"].sum(axis=1), 0)
    np.testing.assert_array_equal(found["weight"], found["tokens"][:, 0] * 0.5)
    replay.add(rows(*range(10, 17)), version=3)  # more than there is room for
    assert held(replay) == {13: 3, 14: 3, 15: 3, 16: 3}


def test_a_restored_replay_goes_on_as_the_first_one():
    one, other = Replay(rows(), 3), Replay(rows(), 3)
    one.add(rows(1, 2), version=5)
    state = one.state()
    assert [x.shape[:1] for x in state["rows"].values()] == [(3,), (3,)]
    assert state["version"].tolist() == [5, 5, NEVER]
    one.add(rows(3, 4), version=6)  # the saved copy must not follow
    other.set_state(state)
    assert held(other) == {1: 5, 2: 5}
    other.add(rows(3, 4), version=6)
    for a, b in zip(one.rows.values(), other.rows.values()):
        np.testing.assert_array_equal(a, b)
    assert held(one) == held(other) == {2: 5, 3: 6, 4: 6}
    # What it was restored from is not written to.
    assert state["version"].tolist() == [5, 5, NEVER]


def test_each_row_comes_once_before_any_comes_twice():
    rng = np.random.default_rng(0)
    order = shuffled(5, 12, rng)
    assert len(order) == 12
    for part in (order[:5], order[5:10]):
        assert sorted(part) == list(range(5))
    assert len(set(order[10:])) == 2
    np.testing.assert_array_equal(take(rows(7, 8, 9), order[:0])["weight"], [])


def test_a_replay_without_room_is_refused():
    with pytest.raises(ValueError, match="capacity is 0; it must be at least 1"):
        Replay(rows(), 0)
