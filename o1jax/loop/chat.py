"""A conversation with the policy of a run, text by text as it is sampled.

In: a workdir and messages. Out: pieces of the reply. The messages so far go through the
chat template of the published model that the run began with; a run without one answers
each message as a question of its own.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax

from o1jax.config import load
from o1jax.loop.pretrained import source_of
from o1jax.loop.workdir import Workdir
from o1jax.models.chat import render_told
from o1jax.models.vocabulary import chat_template, marks
from o1jax.policy.policy import build_policy
from o1jax.rollout.sampling import SamplingConfig
from o1jax.rollout.stream import Stream, Token

CAPACITY = 1024  # tokens of a conversation, if that is four replies
CHUNK = 256  # of the cache: few, since each of them is compiled for every layer
HALF = "\N{REPLACEMENT CHARACTER}"  # how a part of a character reads


class Said(NamedTuple):
    """About the last reply."""

    tokens: int = 0
    logprob: float = 0.0
    finished: bool = True  # by a stop token


class Chat:
    """The messages so far, and what the policy has read of them."""

    def __init__(self, workdir: Path, *, temperature: float = 0.0) -> None:
        run = Workdir(load(workdir / "config.gin").experiment, workdir)
        sampler = run.experiment.sampler
        self._run, self._limit = run, sampler.max_new_tokens
        self._stop = sampler.stop_ids or (run.tokenizer.eos_id,)
        self._template, self._marks = _chat_template(run)
        # A model may be asked for behaviours there (prompted.py).
        self._system = getattr(run.experiment.template, "system", "")
        policy = build_policy(replace(run.policy_config, cache_chunk=CHUNK))
        params = jax.jit(policy.unstack)(run.newest_params())
        sampling = SamplingConfig(temperature=temperature)
        capacity = max(CAPACITY, 4 * self._limit)
        self._stream = Stream(policy, params, sampling, capacity)
        seed = time.time_ns() % 2**32 if temperature else run.experiment.seed
        self._key, self._turn = jax.random.key(seed), 0
        self._messages: list[dict[str, str]] = []
        self.said = Said()
        self.forgotten = 0  # messages that there was no more room for

    @property
    def remembers(self) -> bool:
        """Whether a reply depends on the messages before the last."""
        return bool(self._template)

    def forget(self) -> None:
        """Begins anew."""
        self._messages = []

    def reply(self, message: str) -> Iterator[str]:
        """The reply to a message, in pieces. What was said of it so far is kept."""
        if not self.remembers:
            self.forget()
        self._messages.append({"role": "user", "content": message})
        ids = self._fitting()
        key = jax.random.fold_in(self._key, self._turn)
        self._turn += 1
        self.said = Said(finished=False)
        pieces: list[str] = []
        try:
            drawn = self._until_stop(self._stream.tokens(ids, key, self._limit))
            for piece in joined(self._run.tokenizer.decode, drawn):
                pieces.append(piece)
                yield piece
        finally:
            self._messages.append({"role": "assistant", "content": "".join(pieces)})

    def _until_stop(self, tokens: Iterator[Token]) -> Iterator[int]:
        for token in tokens:
            count, logprob, _ = self.said
            stops = token.id in self._stop
            self.said = Said(count + 1, logprob + token.logprob, stops)
            if stops:
                return
            yield token.id

    def _fitting(self) -> list[int]:
        """Ids of the conversation, without its beginning where that has no room."""
        while True:
            ids = self._encoded()
            room = self._stream.capacity - self._limit
            if len(ids) <= room:
                return ids
            if len(self._messages) < 3:
                self._messages.pop()
                raise ValueError(
                    f"the message has {len(ids)} tokens: there is room for {room}"
                )
            del self._messages[:2]
            self.forgotten += 2

    def _encoded(self) -> list[int]:
        tokenizer = self._run.tokenizer
        if not self.remembers:
            template = self._run.experiment.template
            return template.encode_prompt(tokenizer, self._messages[-1]["content"])
        template, system = self._template, self._system
        text = render_told(template, system, self._messages, **self._marks)
        ids = tokenizer.encode(text)
        bos = tokenizer.bos_id  # some templates write it themselves
        return ids if ids[:1] == [bos] else [bos, *ids]


def joined(decode: Callable[[list[int]], str], tokens: Iterable[int]) -> Iterator[str]:
    """Text of tokens as they come; of a character that lacks bytes nothing yet.

    The pieces together are what all tokens decode to.
    """
    ids: list[int] = []
    shown = ""
    text = ""
    for token in tokens:
        ids.append(token)
        text = decode(ids)
        if text.startswith(shown) and not text.endswith(HALF) and text != shown:
            yield text[len(shown) :]
            shown = text
    if text != shown:
        yield text[len(shown) :]


def _chat_template(run: Workdir) -> tuple[str, dict[str, str]]:
    """The template, "" for none, and the marks that it is rendered with."""
    if (folder := source_of(run)) is None:
        return "", {}
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    return chat_template(files) or "", marks(files)
