"""The bytes that each token of a vocabulary stands for.

In: a tokenizer. Out: for each id its bytes, b"" for marks such as BOS. Three spellings
are read: byte-level BPE, whose pieces write each byte as a printable character (Radford
et al. 2019, GPT-2); pieces with U+2581 for a space and <0x0A> for a byte, as in
SentencePiece (Kudo and Richardson 2018, arXiv 1808.06226); and plain words.
"""

import functools
import re
from collections.abc import Sequence
from typing import Protocol

SPACE = "\u2581"
_BYTE = re.compile("<0x([0-9A-F]{2})>")
_MARK = re.compile(r"[<\[].*[>\]]", re.DOTALL)


class Pieces(Protocol):
    """What is asked of a tokenizer."""

    vocab_size: int

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...

    def piece(self, id: int) -> str: ...


@functools.lru_cache(maxsize=8)
def token_bytes(tokenizer: Pieces) -> tuple[bytes, ...]:
    """Bytes of each id; joined, those of a text's ids are the text's in UTF-8.

    But for a space in front, which some tokenizers of the SentencePiece kind add.
    """
    spelled = _of_level if _is_byte_level(tokenizer) else _of_piece
    return tuple(
        b"" if _is_mark(tokenizer, i) else spelled(tokenizer.piece(i))
        for i in range(tokenizer.vocab_size)
    )


def _is_byte_level(tokenizer: Pieces) -> bool:
    try:
        ids = tokenizer.encode("\n")
    except ValueError:  # a tokenizer of words: it has no newline
        return False
    return bool(ids) and tokenizer.piece(ids[-1]) == _CHARACTER[ord("\n")]


def _is_mark(tokenizer: Pieces, id: int) -> bool:
    """Whether the token is a mark: spelled as one, and not shown in a text.

    Half a character of a byte-fallback is shown, as U+FFFD.
    """
    return bool(_MARK.fullmatch(tokenizer.piece(id))) and not tokenizer.decode([id])


def _of_piece(piece: str) -> bytes:
    if byte := _BYTE.fullmatch(piece):
        return bytes([int(byte[1], 16)])
    return piece.replace(SPACE, " ").encode()


def _of_level(piece: str) -> bytes:
    # A token that was added to the vocabulary is spelled as it is.
    if not all(character in _VALUE for character in piece):
        return piece.encode()
    return bytes(_VALUE[character] for character in piece)


def _characters() -> list[str]:
    """The character that spells each byte: itself, or one from U+0100 on."""
    shown = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in shown else next(others)) for byte in range(256)]


_CHARACTER = _characters()
_VALUE = {character: byte for byte, character in enumerate(_CHARACTER)}
