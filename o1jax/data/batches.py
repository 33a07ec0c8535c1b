"""Examples and documents as batches of tokens.

In: a source of `Example`s (to imitate) or of texts (to pre-train on), a tokenizer and a
template. Out: streams of numpy `TokenBatch`es, whose state resumes them exactly, and
`Prompts` for sampling. `prefetch` makes a stream's batches in the background.
"""

from collections.abc import Sequence

import numpy as np

from o1jax.data.behaviours.masking import silent_tokens
from o1jax.data.datasets import Source
from o1jax.data.prefetch import Prefetch, prefetch
from o1jax.data.stream import BatchConfig, BatchStream, Document
from o1jax.data.template import Template
from o1jax.data.tokenizer import Tokenizer
from o1jax.tasks.task import Example
from o1jax.types import Prompts

__all__ = [
    "BatchConfig",
    "BatchStream",
    "Prefetch",
    "packed_batches",
    "padded_prompts",
    "prefetch",
    "prompts",
    "sft_batches",
]


def sft_batches(
    source: Source,
    tokenizer: Tokenizer,
    template: Template,
    config: BatchConfig,
    *,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
) -> BatchStream:
    """Worked examples to imitate: weight 1 on the response and its EOS only.

    Steps that the example's author keeps silent have none (`Behaviours.masked`).
    An endless source is read in order, a finite one in a new seeded order each epoch.
    """

    def document(example: Example) -> Document:
        prompt, response = template.encode(tokenizer, example)
        ids = np.array(prompt + response, np.int32)
        silent = silent_tokens(tokenizer, template, example, len(prompt), len(ids))
        return Document(ids, len(prompt), silent)

    return BatchStream(
        source,
        document,
        config,
        packed=config.packed,
        cut=False,
        seed=seed,
        process_index=process_index,
        process_count=process_count,
        identity={"kind": "sft", "tokenizer": tokenizer.fingerprint},
    )


def packed_batches(
    source: Source,
    tokenizer: Tokenizer,
    config: BatchConfig,
    *,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
) -> BatchStream:
    """Documents to pre-train on: BOS, text, EOS, weight 1 on all tokens but BOS.

    A document longer than a row is cut; its pieces are segments of their own.
    """

    def document(text: str) -> Document:
        ids = [tokenizer.bos_id, *tokenizer.encode(text), tokenizer.eos_id]
        return Document(np.array(ids, np.int32), 1)

    return BatchStream(
        source,
        document,
        config,
        packed=True,
        cut=True,
        seed=seed,
        process_index=process_index,
        process_count=process_count,
        identity={"kind": "text", "tokenizer": tokenizer.fingerprint},
    )


def prompts(
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    template: Template,
    *,
    length: int,
    rows: int,
) -> Prompts:
    """The questions as numpy rows; prompt_id is the place in `examples`.

    Rows beyond the examples are padding: prompt_id -1 and a lone BOS.
    """
    ids = [template.encode_prompt(tokenizer, e.question) for e in examples]
    for i, (example, own) in enumerate(zip(examples, ids)):
        if len(own) > length:
            raise ValueError(
                f"question {i} takes {len(own)} tokens of {length}: "
                f"{example.question[:80]!r}"
            )
    return padded_prompts(ids, tokenizer, length=length, rows=rows)


def padded_prompts(
    ids: Sequence[Sequence[int]], tokenizer: Tokenizer, *, length: int, rows: int
) -> Prompts:
    """Prompts that are tokens already, as `prompts` makes them of questions."""
    if len(ids) > rows:
        raise ValueError(f"{len(ids)} questions do not fit into {rows} rows")
    tokens = np.full((rows, length), tokenizer.pad_id, np.int32)
    tokens[:, 0] = tokenizer.bos_id
    lengths = np.ones(rows, np.int32)
    prompt_id = np.full(rows, -1, np.int32)
    for i, own in enumerate(ids):
        tokens[i, : len(own)] = own
        lengths[i] = len(own)
        prompt_id[i] = i
    return Prompts(tokens=tokens, length=lengths, prompt_id=prompt_id)
