import itertools
import json

import numpy as np
import pytest

from o1jax.data.pairs import (
    Pair,
    encode_pairs,
    pairs_of_samples,
    pairs_of_tree,
    read_pairs,
    step_ends,
)
from o1jax.data.rows import RowStream
from o1jax.data.template import Template, TextTemplate
from o1jax.data.tokenizer import from_texts
from o1jax.search.targets import PairTexts
from o1jax.types import Prompts

# Fixture ids: BOS 1, EOS 2, ; 4, = 5, digit d is 6 + d.
LINE = {"question": "1 =", "chosen": "0 ; 1 ;", "rejected": "0 ; 2 ;"}
ENDS = {"step_end_ids": (4,), "stop_ids": (2,)}


def _write(path, *lines: object):
    text = [x if isinstance(x, bytes) else json.dumps(x).encode() for x in lines]
    path.write_bytes(b"\n".join(text))
    return path


def test_a_file_of_pairs(tmp_path) -> None:
    more = {"chosen": " a\n", "rejected": "a", "weight": 2, "margin": 0.5, "id": 7}
    file = _write(
        tmp_path / "a.jsonl",
        b"\xef\xbb\xbf" + json.dumps(LINE).encode(),  # some editors begin files so
        b"",
        LINE | {"question": " ? "} | more,
    )
    assert read_pairs(file) == [
        Pair("1 =", "0 ; 1 ;", "0 ; 2 ;", 1.0, 0.0),
        Pair("?", "a\n", "a", 2.0, 0.5),
    ]


@pytest.mark.parametrize(
    "line, reason",
    [
        (b'{"question": ', "not JSON: .* at column 13"),
        (b'{"question": "\xff"}', "not UTF-8"),
        (b"[" * 100_000, "recursion"),
        ([1], "an object was expected, not list"),
        ({"question": "?", "chosen": "a"}, r'no "rejected"; the fields are'),
        (LINE | {"question": " "}, "\"question\" is ' ', not a text"),
        (LINE | {"chosen": ["a"]}, r"\"chosen\" is \['a'\], not a text"),
        (LINE | {"rejected": "\ud800"}, "surrogates"),
        (LINE | {"rejected": " 0 ; 1 ; "}, '"chosen" and "rejected" are both'),
        (LINE | {"weight": 0}, '"weight" is 0: leave the line out'),
        (LINE | {"weight": "1"}, "\"weight\" is '1', not a number from 0 to 1e"),
        (LINE | {"weight": True}, '"weight" is True, not a number'),
        (LINE | {"margin": -1}, '"margin" is -1, not a number'),
        (LINE | {"margin": 10**400}, '"margin" is 1000'),
        (json.dumps(LINE)[:-1].encode() + b', "weight": NaN}', '"weight" is nan'),
    ],
)
def test_a_malformed_line_is_named(tmp_path, line, reason: str) -> None:
    file = _write(tmp_path / "b.jsonl", *[LINE] * 16, line, LINE)
    with pytest.raises(ValueError, match=f"b.jsonl:17: .*{reason}") as error:
        read_pairs(file)
    assert "\n" not in str(error.value)


def test_a_file_without_pairs_is_an_error(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"c.jsonl: no pairs"):
        read_pairs(_write(tmp_path / "c.jsonl", b"", b"  "))


def test_pairs_as_rows(tokenizer) -> None:
    # The longer side takes 3 + 4 + 1 tokens; "1" is not closed, so EOS closes its step.
    pairs = [Pair("1 =", "0 ; 1 ;", "1"), Pair("2 =", "2 ; 0", "3 ; 4 ;", 2.0, 0.5)]
    batch = encode_pairs(pairs, tokenizer, Template(), 0, (4,))
    np.testing.assert_array_equal(
        batch.tokens,
        [
            [[1, 7, 5, 6, 4, 7, 4, 2], [1, 7, 5, 7, 2, 0, 0, 0]],
            [[1, 8, 5, 8, 4, 6, 2, 0], [1, 8, 5, 9, 4, 10, 4, 2]],
        ],
    )
    at = [[np.flatnonzero(side).tolist() for side in row] for row in batch.step_end]
    assert at == [[[4, 6], [4]], [[4, 6], [4, 6]]]
    np.testing.assert_array_equal(batch.length, [[8, 5], [7, 8]])
    np.testing.assert_array_equal(batch.prompt_length, [3, 3])
    np.testing.assert_array_equal(batch.weight, [1, 2])
    np.testing.assert_array_equal(batch.margin, [0, 0.5])
    dtypes = ["int32", "int32", "int32", "bool", "float32", "float32"]
    assert [str(x.dtype) for x in vars(batch).values()] == dtypes
    assert encode_pairs(pairs, tokenizer, Template(), 11, (4,)).tokens.shape == (
        2,
        2,
        11,
    )


@pytest.mark.parametrize(
    "response, ends",
    [
        ([6, 4, 7, 4, 2], [4, 6]),  # the text's end is no step of its own
        ([6, 4, 7, 4], [4, 6]),  # cut off exactly behind a step
        ([6, 4, 7, 2], [4, 6]),  # an answer that no mark closes: EOS does
        ([6, 4, 7], [4, 5]),  # cut off within a step
        ([6, 7], [4]),  # no mark at all
        ([2], [3]),  # nothing but the end: the one step there is
        ([4, 4, 2], [3, 4]),  # empty steps stay in their places
        ([], []),  # not a response
    ],
)
def test_where_steps_end(response: list[int], ends: list[int]) -> None:
    # The prompt holds the mark and the end of text too; they end nothing.
    tokens = np.array([4, 2, 5, *response, *[4] * (10 - len(response))])
    found = step_ends(tokens, np.array(3), np.array(3 + len(response)), **ENDS)
    assert np.flatnonzero(found).tolist() == ends


def test_texts_of_a_users_own(tokenizer) -> None:
    texts = from_texts(["So 2*3 = 6\n#### 6"], 300)
    newline = texts.id_of("\n")
    pair = Pair("2*3?", "2*3 = 6\n#### 6", "= 5\n#### 5")
    batch = encode_pairs([pair], texts, TextTemplate(), 0, (newline,))
    for side, text in enumerate((pair.chosen, pair.rejected)):
        start, end = batch.prompt_length[0], batch.length[0, side]
        ids = batch.tokens[0, side]
        assert texts.decode(ids[start:end].tolist()) == text
        at = np.flatnonzero(batch.step_end[0, side])
        assert (ids[at] == [newline, texts.eos_id]).all() and at[1] == end - 1


@pytest.mark.parametrize(
    "pair, message",
    [
        (Pair("1 =", "0 ; 1 ; 2 ;", "1 ;"), "pair 1 takes 10 tokens of 8"),
        (Pair("1 =", "nought ;", "1 ;"), "pair 1: unknown word 'nought'"),
        (Pair("1 =", "1 ;", "1 ;"), "pair 1: both sides are the same tokens"),
    ],
)
def test_a_pair_that_cannot_be_encoded_is_named(tokenizer, pair, message) -> None:
    pairs = [Pair("1 =", "0 ; 1 ;", "1 ;"), pair]
    with pytest.raises(ValueError, match=message):
        encode_pairs(pairs, tokenizer, Template(), 8, (4,))
    with pytest.raises(ValueError, match="no pairs"):
        encode_pairs([], tokenizer, Template(), 8, (4,))


def test_right_samples_against_wrong_ones() -> None:
    texts = ["a", "x", "b", "a", "y", "c", "z", "x"]
    grades = [1, 0, 1, 1, 0, 1, 0.5, 0]
    rng = np.random.default_rng(0)
    everything = pairs_of_samples("?", texts, grades, 100, rng)
    assert {(p.chosen, p.rejected) for p in everything} == set(
        itertools.product("abc", "xyz")
    )
    assert len(everything) == 9  # no pair twice, though a and x were drawn twice
    for _ in range(20):  # three pairs use each text once
        few = pairs_of_samples("?", texts, grades, 3, rng)
        assert sorted(p.chosen for p in few) == ["a", "b", "c"]
        assert sorted(p.rejected for p in few) == ["x", "y", "z"]
    alone = {pairs_of_samples("?", texts, grades, 1, rng)[0] for _ in range(100)}
    assert len(alone) == 9  # which pair it is, is drawn
    # 2 right and 4 wrong share a factor: the wheels alone would meet 4 of 8 times.
    all_pairs = pairs_of_samples("?", "abwxyz", [1, 1, 0, 0, 0, 0], 100, rng)
    assert len(set(all_pairs)) == 8


def test_samples_that_make_no_pairs() -> None:
    rng = np.random.default_rng(0)
    assert pairs_of_samples("?", ["a", "b"], [1, 1], 9, rng) == []
    assert pairs_of_samples("?", [], [], 9, rng) == []
    with pytest.raises(ValueError, match="sample of '2 =' has the grade nan"):
        pairs_of_samples("2 =", ["a"], [np.nan], 9, rng)
    with pytest.raises(ValueError, match="graded 1 and 0: 'a'"):
        pairs_of_samples("2 =", ["a", "a"], [1, 0], 9, rng)


def test_pairs_of_a_tree() -> None:
    # Prompt 1 is longer. Pair 0: behind "; " of one step, a step and a cut-off one.
    # Pair 1: whole answers without a common step.
    prompts = Prompts(
        tokens=np.array([[1, 7, 0, 0], [1, 8, 5, 5]], np.int32),
        length=np.array([2, 4], np.int32),
        prompt_id=np.array([0, 1], np.int32),
    )
    texts = PairTexts(
        prefix=np.array([[6, 4], [0, 0]]),
        prefix_length=np.array([2, 0]),
        chosen=np.array([[7, 4, 0], [8, 4, 2]]),
        chosen_length=np.array([2, 3]),
        rejected=np.array([[9, 9, 0, 0], [9, 4, 7, 4]]),
        rejected_length=np.array([2, 4]),
    )
    weight = np.array([0.25, 1.0])
    batch = pairs_of_tree(prompts, np.array([1, 0]), texts, weight=weight, **ENDS)
    np.testing.assert_array_equal(
        batch.tokens,
        [
            [[1, 8, 5, 5, 6, 4, 7, 4], [1, 8, 5, 5, 6, 4, 9, 9]],
            [[1, 7, 8, 4, 2, 0, 0, 0], [1, 7, 9, 4, 7, 4, 0, 0]],
        ],
    )
    at = [[np.flatnonzero(side).tolist() for side in row] for row in batch.step_end]
    assert at == [[[5, 7], [5, 7]], [[3], [3, 5]]]
    np.testing.assert_array_equal(batch.length, [[8, 8], [5, 6]])
    np.testing.assert_array_equal(batch.prompt_length, [4, 2])
    np.testing.assert_array_equal(batch.weight, weight)
    with pytest.raises(ValueError, match="pair 0 takes 8 tokens of 7"):
        pairs_of_tree(prompts, np.array([1, 0]), texts, length=7, **ENDS)


def test_a_stream_cuts_batches_of_pairs(tokenizer) -> None:
    pairs = [Pair("1 =", f"{i} ;", "0 ;") for i in range(1, 6)]
    batch = encode_pairs(pairs, tokenizer, Template(), 8, (4,))
    stream = RowStream(batch, rows=5, seed=0, identity={"kind": "pairs"})
    first = next(stream)
    assert first.tokens.shape == (5, 2, 8)
    assert sorted(first.tokens[:, 0, 3]) == [7, 8, 9, 10, 11]
