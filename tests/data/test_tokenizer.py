import dataclasses
import io
import random

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from o1jax.data import tokenizer as tokenizers
from o1jax.data.tokenizer import Tokenizer, TokenizerConfig

SYMBOLS = [*map(str, range(130)), ";", "->", "+", "-", ",", '"', "'", "a", "ab", "<s>"]
CORPUS = ["Ann has 12 apples.\n  She eats 5,\tso 7 remain.\n#### 7\n", "naïve 日本"] * 3
TEXT = tokenizers.from_texts(CORPUS, 400, symbols=["####"])


def test_each_symbol_is_one_id_in_the_order_given() -> None:
    symbols = tokenizers.from_symbols(SYMBOLS)
    assert (symbols.pad_id, symbols.bos_id, symbols.eos_id, symbols.unk_id) == (
        *range(4),
    )
    assert symbols.vocab_size == 4 + len(SYMBOLS)
    assert symbols.encode(" ".join(SYMBOLS)) == list(range(4, 4 + len(SYMBOLS)))
    assert [symbols.id_of(symbol) for symbol in ("1", "2", "12")] == [5, 6, 16]
    assert symbols.encode("") == []


def test_the_word_lookup_gives_the_ids_of_sentencepiece(tmp_path) -> None:
    symbols = tokenizers.from_symbols(SYMBOLS)
    symbols.save(tmp_path / "symbols.model")
    model = sentencepiece.SentencePieceProcessor(
        model_file=str(tmp_path / "symbols.model")
    )
    draw = random.Random(0)
    for _ in range(200):
        text = " ".join(draw.choices(SYMBOLS, k=draw.randint(1, 30)))
        assert symbols.encode(text) == model.encode(text)
        assert symbols.decode(symbols.encode(text)) == text
        assert model.decode(symbols.encode(text)) == text


@pytest.mark.parametrize(
    "text, word",
    [
        ("1 2 x", "'x'"),
        ("1212", "'1212'"),  # 12 is a symbol twice, but no part of a word is read
        ("1  2", "''"),
        ("1 2 ", "''"),
        ("1\u25812", "'1\u25812'"),
        ("1\n2", r"'1\\n2'"),
    ],
)
def test_an_unknown_word_is_an_error_that_names_it(text: str, word: str) -> None:
    with pytest.raises(ValueError, match=f"unknown word {word} in"):
        tokenizers.from_symbols(SYMBOLS).encode(text)


def test_decode_drops_specials_but_shows_unknown_ids() -> None:
    symbols = tokenizers.from_symbols(["a", "b"])
    # 1 bos, 4 a, 0 pad, 5 b, 2 eos
    assert symbols.decode([1, 4, 0, 5, 2]) == "a b"
    # An unknown token between two steps must not heal a response into a right one;
    # 6 and -1 lie outside the vocabulary, as in a policy with a padded one.
    assert symbols.decode([4, 3, 5, 6, -1]) == "a \u2047 b \u2047 \u2047"
    assert "\u2047" in TEXT.decode([TEXT.vocab_size])


@pytest.mark.parametrize(
    "symbols, message",
    [
        (["a", "b", "a"], "symbol 'a' is listed twice"),
        (["a", "b c"], "symbol 1 is empty or holds a space: 'b c'"),
        ([""], "symbol 0 is empty"),
        ([], "at least one symbol"),
    ],
)
def test_impossible_symbols_are_named(symbols: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tokenizers.from_symbols(symbols)


@given(st.text())
def test_any_text_comes_back_exactly(text: str) -> None:
    assert TEXT.decode(TEXT.encode(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", " a  b ", "\n\n", "a\r\n\tb\0", "\u2581a\u2581\u2581 b", "<s>", "<0x41>"],
)
def test_text_that_looks_special_comes_back_exactly(text: str) -> None:
    assert TEXT.decode(TEXT.encode(text)) == text
    assert not {TEXT.bos_id, TEXT.eos_id, TEXT.unk_id} & set(TEXT.encode(text))


def test_newline_digits_and_chosen_symbols_are_single_tokens() -> None:
    pieces = [TEXT.piece(i) for i in TEXT.encode("#### 12\n\n")]
    assert pieces[0] == "####"
    assert pieces[-4:] == ["1", "2", "\n", "\n"]
    assert TEXT.encode("\n") == [TEXT.id_of("\n")]
    with pytest.raises(ValueError, match="'12' is not one token"):
        TEXT.id_of("12")


@pytest.mark.parametrize(
    "train",
    [
        lambda: tokenizers.from_symbols(SYMBOLS),
        lambda: tokenizers.from_texts(CORPUS, 400),
    ],
)
def test_training_twice_gives_the_same_bytes(train, tmp_path) -> None:
    for name in ("one", "two"):
        train().save(tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert train().fingerprint == Tokenizer.load(tmp_path / "one").fingerprint
    assert train().fingerprint != TEXT.fingerprint


def test_the_vocabulary_is_at_most_the_size_asked_for() -> None:
    assert tokenizers.from_texts(CORPUS, 300).vocab_size == 300
    assert tokenizers.from_texts(["ab ab"], 4000).vocab_size < 300
    # 4 specials, newline, 256 bytes, and the characters a, b and space
    with pytest.raises(ValueError, match=r"vocab_size 263 is too small: .* take 264"):
        tokenizers.from_texts(["ab ab"], 263)
    with pytest.raises(ValueError, match="no text"):
        tokenizers.from_texts(["", "\n"], 300)


def test_a_long_document_is_read_to_its_end() -> None:
    document = "x " * 10_000 + "zebra " * 50  # SentencePiece's own limit is 4,192 bytes
    assert tokenizers.from_texts([document], 300).id_of(" zebra")


def _foreign(**options: object) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the cat sat on the mat"]),
        model_writer=model,
        vocab_size=20,
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
    return model.getvalue()


def test_a_foreign_model_keeps_its_own_ids(tmp_path) -> None:
    path = tmp_path / "foreign.model"
    path.write_bytes(_foreign())  # SentencePiece's default: unk 0, no pad
    foreign = Tokenizer.load(path)
    assert (foreign.unk_id, foreign.bos_id, foreign.eos_id) == (0, 1, 2)
    assert foreign.pad_id == 0
    assert foreign.decode([1, *foreign.encode("the cat"), 2]) == "the cat"


def test_a_file_that_is_no_model_is_named(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"absent.model: No such file"):
        Tokenizer.load(tmp_path / "absent.model")
    for content, message in (
        (b"junk", "not a SentencePiece model"),
        (b"", "not a SentencePiece model"),
        (_foreign(bos_id=-1), "no BOS or no EOS"),
    ):
        (tmp_path / "bad.model").write_bytes(content)
        with pytest.raises(ValueError, match=f"bad.model: .*{message}"):
            Tokenizer.load(tmp_path / "bad.model")


def test_the_config_chooses_the_kind(tmp_path) -> None:
    symbols = tokenizers.build(TokenizerConfig(), task_symbols=["a", "b"])
    assert symbols.encode("b a") == [5, 4]
    config = TokenizerConfig(kind="text", vocab_size=300)
    text = tokenizers.build(config, task_symbols=["####"], texts=CORPUS)
    assert text.id_of("####") and text.vocab_size == 300
    text.save(tmp_path / "text.model")
    loaded = tokenizers.build(TokenizerConfig("file", str(tmp_path / "text.model")))
    assert loaded.fingerprint == text.fingerprint


@pytest.mark.parametrize(
    "change, field",
    [
        ({"kind": "words"}, "kind"),
        ({"kind": "file"}, "path"),
        ({"path": "x.model"}, "path"),
        ({"vocab_size": 0}, "vocab_size"),
    ],
)
def test_a_config_that_cannot_be_names_its_field(change: dict, field: str) -> None:
    with pytest.raises(ValueError, match=f"TokenizerConfig.{field} is"):
        dataclasses.replace(TokenizerConfig(), **change)
