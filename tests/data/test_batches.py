import dataclasses
import itertools
import json

import numpy as np
import pytest

from o1jax.data.batches import BatchConfig, packed_batches, prompts, sft_batches
from o1jax.data.datasets import TaskSource
from o1jax.data.template import Template
from o1jax.data.tokenizer import from_symbols, from_texts
from o1jax.tasks.task import Example

# Fixture ids: BOS 1, EOS 2, ; 4, = 5, digit d is 6 + d. Example "2 =" with steps 0 1 2
# is [1 8 5 | 6 4 7 4 8 4 2]: 3 tokens of prompt, then 2 * (2 + 1) + 1 of response.
FIELDS = ("tokens", "segment", "position", "weight")
TEXT = from_texts(["abc "], 265)  # 4 specials, newline, 256 bytes, a, b, c, space
DOCUMENTS = ["a" * n for n in (30, 3, 8, 1, 12, 0, 5, 6, 2, 19, 4)]


def _examples(task, count: int) -> list[Example]:
    return [task.example(0, "train", i) for i in range(count)]


def _same(one, two) -> bool:
    return all(np.array_equal(getattr(one, f), getattr(two, f)) for f in FIELDS)


def _segments(batch) -> list[list[int]]:
    """The documents that a row's segments mark off, in order of the rows."""
    return [
        tokens[segment == s].tolist()
        for tokens, segment in zip(batch.tokens, batch.segment)
        for s in range(1, segment.max() + 1)
    ]


def test_an_example_a_row_with_weight_on_the_response(task, tokenizer) -> None:
    source = TaskSource(task, 0, "train")
    config = BatchConfig(rows=2, length=8)
    batch = next(sft_batches(source, tokenizer, Template(), config, seed=0))
    np.testing.assert_array_equal(
        batch.tokens, [[1, 6, 5, 6, 4, 2, 0, 0], [1, 7, 5, 6, 4, 7, 4, 2]]
    )
    np.testing.assert_array_equal(
        batch.weight, [[0, 0, 0, 1, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1, 1, 1]]
    )
    np.testing.assert_array_equal(
        batch.segment, [[1, 1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1, 1, 1]]
    )
    np.testing.assert_array_equal(
        batch.position, [[0, 1, 2, 3, 4, 5, 0, 0], [0, 1, 2, 3, 4, 5, 6, 7]]
    )
    for field, dtype in zip(FIELDS, ("int32", "int32", "int32", "float32")):
        assert getattr(batch, field).dtype == dtype


def test_a_packed_row_by_hand(task, tokenizer) -> None:
    # Lengths 6, 8, 10, 12, 14, 6, 8 ... into 2 rows of 14, first fit:
    # row 0 takes 6 and 8; row 1 takes 10; 12 and 14 find no room and wait.
    source = TaskSource(task, 0, "train")
    config = BatchConfig(rows=2, length=14, packed=True)
    stream = sft_batches(source, tokenizer, Template(), config, seed=0)
    batch = next(stream)
    np.testing.assert_array_equal(batch.segment[0], [1] * 6 + [2] * 8)
    np.testing.assert_array_equal(batch.segment[1], [1] * 10 + [0] * 4)
    np.testing.assert_array_equal(batch.position[0], [*range(6), *range(8)])
    np.testing.assert_array_equal(batch.position[1], [*range(10), 0, 0, 0, 0])
    prompt, short, long = [0] * 3, [1] * 3, [1] * 5
    np.testing.assert_array_equal(batch.weight[0], prompt + short + prompt + long)
    assert stream.get_state()["waiting"] == [[3, 0], [4, 0]]
    np.testing.assert_array_equal(
        next(stream).segment.max(1),
        [1, 1],  # now those two have a row each
    )


@pytest.mark.parametrize("packed", [False, True])
def test_one_epoch_holds_every_example_once(task, tokenizer, packed: bool) -> None:
    examples, template = _examples(task, 23), Template()
    config = BatchConfig(rows=4, length=24, packed=packed, epochs=1)
    batches = list(sft_batches(examples, tokenizer, template, config, seed=0))
    encoded = [template.encode(tokenizer, example) for example in examples]
    found = [segment for batch in batches for segment in _segments(batch)]
    assert sorted(found) == sorted(prompt + response for prompt, response in encoded)
    weight = sum(batch.weight.sum() for batch in batches)
    assert weight == sum(len(response) for _, response in encoded)
    assert all(batch.tokens.shape == (4, 24) for batch in batches)


def test_an_endless_source_is_read_in_order(task, tokenizer) -> None:
    source, template = TaskSource(task, 0, "train"), Template()
    config = BatchConfig(rows=3, length=16)
    stream = sft_batches(source, tokenizer, template, config, seed=5)
    rows = [row for batch in itertools.islice(stream, 4) for row in _segments(batch)]
    encoded = [template.encode(tokenizer, source[i]) for i in range(12)]
    assert rows == [prompt + response for prompt, response in encoded]


def test_a_finite_source_has_a_new_order_each_epoch() -> None:
    tokenizer = from_symbols([";", *map(str, range(10))])
    examples = [Example(str(i), (str(i),), str(i), 1) for i in range(10)]
    config = BatchConfig(rows=5, length=8, epochs=2)

    def order(seed: int) -> list[int]:
        stream = sft_batches(examples, tokenizer, Template(), config, seed=seed)
        # a row is BOS i | i ; EOS, and digit i is 5 + i
        return [int(token) - 5 for batch in stream for token in batch.tokens[:, 1]]

    first, second = order(0)[:10], order(0)[10:]
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert order(1) != order(0)


def test_documents_lose_no_token_when_packed() -> None:
    length, source = 16, DOCUMENTS
    config = BatchConfig(rows=3, length=length, epochs=1)
    batches = list(packed_batches(source, TEXT, config, seed=0))
    expected = []
    for text in source:
        ids = [TEXT.bos_id, *TEXT.encode(text), TEXT.eos_id]
        # 16 tokens, then 15 new ones a piece behind a repeated one
        while len(ids) > length:
            expected.append(ids[:length])
            ids = ids[length - 1 :]
        expected.append(ids)
    found = [segment for batch in batches for segment in _segments(batch)]
    assert sorted(found) == sorted(expected)
    # Every character and every EOS is predicted once, BOS and repeated tokens never.
    weight = sum(batch.weight.sum() for batch in batches)
    assert weight == sum(len(text) + 1 for text in source)
    for batch in batches:
        starts = (batch.position == 0) & (batch.segment > 0)
        np.testing.assert_array_equal(batch.weight, (batch.segment > 0) & ~starts)


def test_a_mask_from_segments_keeps_documents_apart() -> None:
    config = BatchConfig(rows=2, length=16)
    batch = next(packed_batches(DOCUMENTS, TEXT, config, seed=0))
    t = np.arange(16)
    segment = batch.segment
    mask = (segment[:, :, None] == segment[:, None, :]) & (t[:, None] >= t)
    # Under a causal mask, a token sees as many tokens as its position says, and itself.
    seen = mask.sum(-1)[segment > 0]
    np.testing.assert_array_equal(seen, batch.position[segment > 0] + 1)
    assert segment.max() > 1  # some row holds several documents


def _streams(task, tokenizer):
    """Three kinds of stream, each made anew at every call."""
    template = Template()
    packed = BatchConfig(rows=2, length=20, packed=True)
    plain = dataclasses.replace(packed, packed=False)
    return {
        "plain": lambda **of: sft_batches(
            _examples(task, 7), tokenizer, template, plain, seed=3, **of
        ),
        "packed": lambda **of: sft_batches(
            TaskSource(task, 0, "train"), tokenizer, template, packed, seed=3, **of
        ),
        "text": lambda **of: packed_batches(DOCUMENTS, TEXT, packed, seed=3, **of),
    }


@pytest.mark.parametrize("kind", ["plain", "packed", "text"])
def test_a_saved_position_resumes_exactly(task, tokenizer, kind: str) -> None:
    make = _streams(task, tokenizer)[kind]
    stream, batches, states = make(), [], []
    for _ in range(25):  # "plain" and "text" cross several epochs
        states.append(json.loads(json.dumps(stream.get_state())))
        batches.append(next(stream))
    for at in range(0, 20):
        resumed = make()
        resumed.set_state(states[at])
        assert resumed.get_state() == states[at]
        for expected in batches[at : at + 5]:
            assert _same(next(resumed), expected)
    assert (kind == "plain") != any(state["waiting"] for state in states)
    if kind == "text":  # some position lies inside a cut document
        assert any(state["piece"] for state in states)


@pytest.mark.parametrize("kind", ["plain", "packed", "text"])
def test_processes_share_the_batch_of_one(task, tokenizer, kind: str) -> None:
    make = _streams(task, tokenizer)[kind]
    one = make()
    hosts = [make(process_index=p, process_count=2) for p in range(2)]
    for _ in range(6):
        parts = [next(host) for host in hosts]
        together = type(parts[0])(
            **{f: np.concatenate([getattr(p, f) for p in parts]) for f in FIELDS}
        )
        assert _same(together, next(one))
    # so a position saved by one process resumes on two
    assert hosts[0].get_state() == hosts[1].get_state() == one.get_state()


def test_too_long_examples_are_errors_or_counted(task, tokenizer) -> None:
    # Examples take 6, 8, 10, 12, 14 tokens; those with i % 5 in (3, 4) exceed 10.
    source, template = TaskSource(task, 0, "train"), Template()
    config = BatchConfig(rows=3, length=10)
    stream = sft_batches(source, tokenizer, template, config, seed=0)
    next(stream)
    with pytest.raises(ValueError, match=r"record 3 takes 12 tokens, but .* is 10"):
        next(stream)
    config = dataclasses.replace(config, on_overflow="drop")
    stream = sft_batches(source, tokenizer, template, config, seed=0)
    lengths = [len(s) for b in itertools.islice(stream, 3) for s in _segments(b)]
    assert lengths == [6, 8, 10] * 3
    assert stream.dropped == stream.get_state()["dropped"] == 4
    config = dataclasses.replace(config, length=5)
    with pytest.raises(ValueError, match="10000 examples in a row are longer"):
        next(sft_batches(source, tokenizer, template, config, seed=0))


def test_a_position_of_another_stream_is_refused(task, tokenizer) -> None:
    def stream(seed: int = 0, vocabulary=tokenizer, **shape):
        config = BatchConfig(rows=2, **{"length": 16, **shape})
        source = TaskSource(task, 0, "train")
        return sft_batches(source, vocabulary, Template(), config, seed=seed)

    state = stream().get_state()
    for other, name in (
        (stream(length=17), "length was 16 and is 17"),
        (stream(packed=True), "packed was False and is True"),
        (stream(seed=1), "seed was 0 and is 1"),
        (stream(vocabulary=from_symbols(["a"])), "tokenizer was"),
    ):
        with pytest.raises(ValueError, match=f"another stream: {name}"):
            other.set_state(state)


def test_what_cannot_be_batched_is_named(task, tokenizer) -> None:
    source, template = TaskSource(task, 0, "train"), Template()
    for config, records, count, message in (
        (BatchConfig(rows=3), source, 2, "rows is 3, which 2 processes"),
        (BatchConfig(epochs=1), source, 1, "epochs is set, but the source has no end"),
        (BatchConfig(), [], 1, "source of the batches is empty"),
    ):
        with pytest.raises(ValueError, match=message):
            sft_batches(
                records, tokenizer, template, config, seed=0, process_count=count
            )
    for field, value in (("rows", 0), ("length", 1), ("epochs", -1)):
        with pytest.raises(ValueError, match=f"BatchConfig.{field} is {value}"):
            BatchConfig(**{field: value})
    with pytest.raises(ValueError, match=r"BatchConfig.on_overflow is 'skip'"):
        BatchConfig(on_overflow="skip")


def test_prompts_are_right_padded(task, tokenizer) -> None:
    examples = _examples(task, 2)
    batch = prompts(examples, tokenizer, Template(), length=4, rows=3)
    np.testing.assert_array_equal(
        batch.tokens, [[1, 6, 5, 0], [1, 7, 5, 0], [1, 0, 0, 0]]
    )
    np.testing.assert_array_equal(batch.length, [3, 3, 1])
    np.testing.assert_array_equal(batch.prompt_id, [0, 1, -1])
    with pytest.raises(ValueError, match="2 questions do not fit into 1 rows"):
        prompts(examples, tokenizer, Template(), length=4, rows=1)
    with pytest.raises(ValueError, match="question 0 takes 3 tokens of 2: '0 ='"):
        prompts(examples, tokenizer, Template(), length=2, rows=2)
