import itertools
import threading
import time

import numpy as np
import pytest

from o1jax.data.batches import BatchConfig, BatchStream, prefetch, sft_batches
from o1jax.data.datasets import TaskSource
from o1jax.data.template import Template


@pytest.fixture
def make(task, tokenizer):
    def stream(length: int = 20) -> BatchStream:
        config = BatchConfig(rows=2, length=length, packed=True)
        source = TaskSource(task, 0, "train")
        return sft_batches(source, tokenizer, Template(), config, seed=0)

    return stream


def _tokens(stream, count: int) -> list[list[list[int]]]:
    return [batch.tokens.tolist() for batch in itertools.islice(stream, count)]


def _threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name == "prefetch"]


def test_the_batches_are_those_of_the_stream(make) -> None:
    with prefetch(make()) as ahead:
        assert _tokens(ahead, 10) == _tokens(make(), 10)


def test_the_state_is_that_of_the_batch_last_handed_out(make) -> None:
    plain = make()
    with prefetch(make(), depth=3) as ahead:
        assert ahead.get_state() == plain.get_state()
        for _ in range(4):
            next(ahead), next(plain)
            assert ahead.get_state() == plain.get_state()
        state = ahead.get_state()
        following = _tokens(ahead, 5)
        ahead.set_state(state)
        assert ahead.get_state() == state
        assert _tokens(ahead, 5) == following == _tokens(plain, 5)


def test_an_error_arrives_where_it_happened(make) -> None:
    # Examples take 6, 8, 10, 12, 14 tokens. Rows of 13 hold 6 and 8; 10 and 12 find no
    # room and wait, which ends the first batch. The second one reads the 14.
    with prefetch(make(length=13)) as ahead:
        first = next(ahead)
        assert (first.segment > 0).sum(1).tolist() == [6, 8]
        for _ in range(2):  # it is raised again, not waited for
            with pytest.raises(ValueError, match="record 4 takes 14 tokens"):
                next(ahead)


def test_a_bounded_stream_ends(task, tokenizer) -> None:
    examples = [task.example(0, "train", i) for i in range(5)]
    config = BatchConfig(rows=2, length=16, epochs=1)
    stream = sft_batches(examples, tokenizer, Template(), config, seed=0)
    with prefetch(stream) as ahead:
        batches = list(ahead)
        assert list(ahead) == []
    # 5 examples in rows of one: 2 + 2 + 1, the last row being padding
    assert [int(np.sum(b.segment[:, 0])) for b in batches] == [2, 2, 1]


def test_closing_ends_the_thread_even_with_a_full_queue(make) -> None:
    with prefetch(make(), depth=1) as ahead:
        next(ahead)
        while not ahead._ready.full():
            time.sleep(0.001)
        assert _threads() == ["prefetch"]
    assert _threads() == []
    ahead.close()  # a second time is harmless
    with pytest.raises(ValueError, match="closed"):
        next(ahead)


def test_a_position_of_another_stream_is_refused(make) -> None:
    state = make(length=32).get_state()
    with (
        prefetch(make()) as ahead,
        pytest.raises(ValueError, match="length was 32 and is 20"),
    ):
        ahead.set_state(state)
    with pytest.raises(ValueError, match="depth is 0"):
        prefetch(make(), depth=0)
