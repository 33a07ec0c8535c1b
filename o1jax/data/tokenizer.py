"""Text to token ids and back: one SentencePiece path for every kind of text.

In: symbols of a synthetic task, a corpus, or a `.model` file. Out: a `Tokenizer`. A
model made here numbers its specials pad 0, bos 1, eos 2, unk 3. From symbols, each word
is exactly one id and other words are errors; from a corpus, BPE with bytes for what it
has not seen, so that any text comes back exactly.
Source: Kudo and Richardson 2018, https://arxiv.org/abs/1808.06226
"""

import hashlib
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import sentencepiece

from o1jax.config import configurable

SPACE = "\u2581"  # SentencePiece writes a space as this character
UNKNOWN = "\u2047"  # what an unknown id reads as, so that it never vanishes silently
SPECIALS = {"pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3}


class Tokenizer:
    """A SentencePiece model, with the few calls that o1jax makes of it."""

    def __init__(self, proto: bytes) -> None:
        self._proto = proto
        self._model = sentencepiece.SentencePieceProcessor()
        try:
            self._model.LoadFromSerializedProto(proto)
        except RuntimeError as error:
            raise ValueError("not a SentencePiece model") from error
        self.vocab_size: int = self._model.vocab_size()
        # A foreign model may lack a pad piece; masks come from lengths, so 0 serves.
        self.pad_id: int = max(self._model.pad_id(), 0)
        self.bos_id: int = self._model.bos_id()
        self.eos_id: int = self._model.eos_id()
        self.unk_id: int = self._model.unk_id()
        if min(self.bos_id, self.eos_id) < 0:
            raise ValueError("the SentencePiece model has no BOS or no EOS piece")
        self._specials = {
            i for i in range(self.vocab_size) if self._model.is_control(i)
        }
        self._id_of_word = self._words()
        # What each id reads as, where it is a word of its own; control ids as nothing.
        self._word_of_id: dict[int, str | None] | None = None
        if self._id_of_word is not None:
            self._word_of_id = {i: word for word, i in self._id_of_word.items()}
            self._word_of_id |= dict.fromkeys(self._specials)
        self._id_of_byte = {
            int(self.piece(i)[3:5], 16): i
            for i in range(self.vocab_size)
            if self._model.is_byte(i)
        }

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """The model saved at `path`; ValueError names a file that is not one."""
        try:
            return cls(Path(path).read_bytes())
        except OSError as error:
            raise ValueError(f"{path}: {error.strerror}") from error
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def save(self, path: str | Path) -> None:
        """Write the `.model` file, which SentencePiece itself can read too."""
        Path(path).write_bytes(self._proto)

    @property
    def fingerprint(self) -> str:
        """16 hex digits of the model: equal exactly where every id means the same."""
        return hashlib.blake2b(self._proto, digest_size=8).hexdigest()

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, without BOS and EOS.

        A symbol tokenizer raises ValueError for the first word it does not know.
        """
        if self._id_of_word is not None:
            try:
                # 3 times as fast as SentencePiece, and a test holds it equal.
                return [self._id_of_word[w] for w in text.split(" ")] if text else []
            except KeyError as error:
                word = error.args[0]
                raise ValueError(f"unknown word {word!r} in {text[:80]!r}") from None
        if SPACE not in text or not self._id_of_byte:
            return self._model.encode(text)
        # SentencePiece would decode this character as a space: spell it in bytes.
        spelled = [self._id_of_byte[byte] for byte in SPACE.encode()]
        first, *rest = (self._model.encode(part) for part in text.split(SPACE))
        return first + [i for part in rest for i in spelled + part]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`. Pad, BOS and EOS are dropped; unknown ids show as U+2047."""
        if self._word_of_id is not None:  # many times as fast as SentencePiece
            read = self._word_of_id.get
            words = [read(i, UNKNOWN) for i in ids]
            return " ".join([word for word in words if word is not None])
        known = [
            int(i) if 0 <= i < self.vocab_size else self.unk_id
            for i in ids
            if i not in self._specials
        ]
        return self._model.decode(known)

    def piece(self, id: int) -> str:
        """How SentencePiece spells the token, with U+2581 for a space."""
        return self._model.id_to_piece(int(id))

    def id_of(self, word: str) -> int:
        """The single id that encodes `word`, or ValueError if it takes several."""
        ids = self.encode(word)
        if len(ids) != 1 or ids[0] == self.unk_id:
            raise ValueError(f"{word!r} is not one token: it encodes as {ids}")
        return ids[0]

    def _words(self) -> dict[str, int] | None:
        """word -> id if every piece is one whole word, else None."""
        words = {}
        for i in range(self.vocab_size):
            if i in self._specials or i == self.unk_id:
                continue
            piece = self.piece(i)
            if piece.rfind(SPACE) != 0 or len(piece) == 1:
                return None
            words[piece[1:]] = i
        return words


def from_symbols(symbols: Sequence[str]) -> Tokenizer:
    """Each symbol one token: symbols[i] has id 4 + i, and nothing else has an id."""
    if not symbols:
        raise ValueError("a symbol tokenizer needs at least one symbol")
    for i, symbol in enumerate(symbols):
        if not symbol or SPACE in symbol or any(c.isspace() for c in symbol):
            raise ValueError(f"symbol {i} is empty or holds a space: {symbol!r}")
    _refuse_repeats(symbols)
    return _train(
        iter(symbols[:1]),
        # A "word" model never splits a word, so 12 cannot be read as 1 and 2.
        model_type="word",
        vocab_size=len(symbols) + len(SPECIALS) + 1,  # 1: the word it trains on
        user_defined_symbols=[SPACE + symbol for symbol in symbols],
    )


def from_texts(
    texts: Iterable[str], vocab_size: int, symbols: Sequence[str] = ()
) -> Tokenizer:
    """BPE of at most `vocab_size` pieces, digits apart, newline and `symbols` whole.

    The order of `texts` is part of the input: the same order gives the same bytes.
    Raises ValueError if the corpus is empty or needs more pieces than `vocab_size`.
    """
    symbols = list(dict.fromkeys(["\n", *symbols]))
    lines = [line for text in texts for line in text.split("\n") if line]
    if not lines:
        raise ValueError("no text to train a tokenizer on")
    try:
        return _train(
            iter(lines),
            model_type="bpe",
            vocab_size=vocab_size,
            user_defined_symbols=symbols,
            byte_fallback=True,
            split_digits=True,
            add_dummy_prefix=False,
            max_sentence_length=1 << 30,  # bytes; longer lines would be left out
        )
    except RuntimeError as error:
        needed = re.search(r"required_chars\. \d+ vs (\d+)", str(error))
        if not needed:
            raise
        raise ValueError(
            f"vocab_size {vocab_size} is too small: the characters, bytes and symbols "
            f"of this corpus take {needed[1]}"
        ) from error


def _refuse_repeats(symbols: Sequence[str]) -> None:
    seen: set[str] = set()
    for symbol in symbols:
        if symbol in seen:
            raise ValueError(f"symbol {symbol!r} is listed twice")
        seen.add(symbol)


def _train(sentences: Iterable[str], **options: object) -> Tokenizer:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=sentences,
        model_writer=model,
        **SPECIALS,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        hard_vocab_limit=False,  # a small corpus gives a smaller vocabulary
        num_threads=1,  # deterministic
        minloglevel=2,  # errors only
        **options,
    )
    return Tokenizer(model.getvalue())


@configurable
@dataclass(frozen=True)
class TokenizerConfig:
    """Which tokenizer an experiment uses."""

    kind: Literal["symbols", "text", "file"] = "symbols"
    path: str = ""  # of the .model or tokenizer.json, for kind "file"
    vocab_size: int = 4096  # at most, for kind "text"

    def __post_init__(self) -> None:
        if self.kind not in ("symbols", "text", "file"):
            raise ValueError(
                f"TokenizerConfig.kind is {self.kind!r}; choose symbols, text or file"
            )
        if (self.kind == "file") != bool(self.path):
            raise ValueError(
                f"TokenizerConfig.path is {self.path!r}, but kind is {self.kind!r}: "
                'a path goes with kind "file"'
            )
        if self.vocab_size < 1:
            raise ValueError(
                f"TokenizerConfig.vocab_size is {self.vocab_size}; it must be positive"
            )


def build(
    config: TokenizerConfig,
    task_symbols: Sequence[str] = (),
    texts: Iterable[str] = (),
) -> Tokenizer:
    """The tokenizer that `config` asks for, from the task's symbols or the texts."""
    if config.kind == "file":
        return load(config.path)
    if config.kind == "text":
        return from_texts(texts, config.vocab_size, task_symbols)
    return from_symbols(task_symbols)


def load(path: str | Path) -> Tokenizer:
    """The tokenizer of a .model or, by the tokenizers library, a .json file."""
    if Path(path).suffix == ".json":
        from o1jax.data.json_tokenizer import JsonTokenizer

        return JsonTokenizer.load(path)
    return Tokenizer.load(path)
