"""How an imported model reads and writes text, as its workdir's config says it.

In: a Source. Out: the workdir's tokenizer file, and gin lines of the tokenizer, of the
template that its chat template amounts to, and of the tokens that end an answer.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from o1jax.models.chat import around_question
from o1jax.models.source import Source
from o1jax.models.vocabulary import chat_template, marked, marks

SENTENCES = "tokenizer.model"
ANSWER = 256  # new tokens of a chat's answer


def text_bindings(source: Source, workdir: Path) -> Iterator[str]:
    """gin lines; the tokenizer is written to where the workdir has its own."""
    found = marks(source.files)
    before, behind = "", ""
    template = chat_template(source.files)
    if template:
        try:
            before, behind = around_question(template, **found)
        except ValueError as error:  # the weights are of use without it
            print(f"{source.place}: no chat: {error}", file=sys.stderr)
            template = None
    name = _file(source)
    if content := source.files.get(name):
        if name.endswith(".json"):
            found = _begun(content, before, found)
            content = marked(content, found)
        (workdir / name).write_bytes(content)
    yield "TokenizerConfig.kind = 'file'\n"
    yield f"TokenizerConfig.path = {name!r}\n"
    yield "Experiment.template = @TextTemplate()\n"
    # Every prompt begins with BOS, so a template does not write it again.
    yield f"TextTemplate.before_question = {_without(before, found)!r}\n"
    yield f"TextTemplate.after_question = {behind!r}\n"
    yield f"SamplerConfig.max_new_tokens = {ANSWER}\n"
    if stop := _stop_ids(source):
        yield f"SamplerConfig.stop_ids = {stop!r}\n"


def tokenizer(source: Source, workdir: Path) -> Iterator[str]:
    """gin lines for other runs, which read the tokenizer from `workdir`."""
    if (name := _file(source)) in source.files:
        yield "TokenizerConfig.kind = 'file'\n"
        yield f"TokenizerConfig.path = {str(workdir / name)!r}\n"


def _file(source: Source) -> str:
    """The tokenizer's file; SentencePiece's where there are both, or none."""
    only_json = "tokenizer.json" in source.files and SENTENCES not in source.files
    return "tokenizer.json" if only_json else SENTENCES


def _begun(tokenizer: bytes, before: str, found: dict[str, str]) -> dict[str, str]:
    """The marks, BOS being what the chat template begins with, if that is special.

    Some models have no BOS; a template then begins with the mark of a turn.
    """
    words = [each["content"] for each in json.loads(tokenizer).get("added_tokens", [])]
    begin = [word for word in words if before.startswith(word)]
    end = found.get("eos_token", "")
    return found | {"bos_token": (begin or [found.get("bos_token", end)])[0]}


def _without(before: str, found: dict[str, str]) -> str:
    return before.removeprefix(found.get("bos_token", ""))


def _stop_ids(source: Source) -> tuple[int, ...]:
    """Tokens that end an answer, if the model names any."""
    said = json.loads(source.files.get("generation_config.json", b"{}"))
    ids = said.get("eos_token_id", source.config.get("eos_token_id"))
    return tuple(ids) if isinstance(ids, list) else () if ids is None else (ids,)
