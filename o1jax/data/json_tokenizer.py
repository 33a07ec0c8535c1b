"""A tokenizer.json of a published model, by the tokenizers library (extra `models`).

In: the file, to which `bos_token` and `eos_token` are added: what every prompt begins
with and a response ends with. Out: a Tokenizer like SentencePiece's. Special tokens in
a text are read as such, since chat templates write them.
Source: https://github.com/huggingface/tokenizers
"""

import hashlib
import json
from collections.abc import Sequence

from o1jax.data.tokenizer import Tokenizer

MARKS = ("bos_token", "eos_token")


class JsonTokenizer(Tokenizer):
    """The few calls that o1jax makes, for a tokenizer of that library."""

    def __init__(self, proto: bytes) -> None:
        try:
            from tokenizers import Tokenizer as Library
        except ImportError:
            raise ValueError(
                "a tokenizer.json needs the tokenizers library: "
                "pip install 'o1jax[models]'"
            ) from None
        try:
            content = json.loads(proto)
            marks = [content.pop(mark, None) for mark in MARKS]
            self._model = Library.from_str(json.dumps(content))
        except Exception as error:  # the library raises a bare Exception
            raise ValueError("not a tokenizer.json") from error
        self._proto = proto
        self.vocab_size: int = self._model.get_vocab_size()
        ids = [mark and self._model.token_to_id(mark) for mark in marks]
        for name, id in zip(MARKS, ids):
            if id is None:
                raise ValueError(f"its {name} is missing, or not in the vocabulary")
        self.bos_id, self.eos_id = ids
        self.pad_id: int = 0  # masks come from lengths: any id serves
        self.unk_id: int = -1  # every text has ids

    @property
    def fingerprint(self) -> str:
        """16 hex digits of the file."""
        return hashlib.blake2b(self._proto, digest_size=8).hexdigest()

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, with those of special tokens that it holds."""
        return self._model.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids` without special tokens."""
        known = [int(i) for i in ids if 0 <= i < self.vocab_size]
        return self._model.decode(known, skip_special_tokens=True)

    def piece(self, id: int) -> str:
        """How the library spells the token."""
        return self._model.id_to_token(int(id)) or ""
