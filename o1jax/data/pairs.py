"""Pairs of responses to a question, of which one is better.

In: a user's JSONL, graded samples of a question, or the texts of pairs from a search
tree. Out: a `PairBatch`, which a reward model is trained on; data/rows.RowStream cuts
batches from it. A line of the file holds "question", "chosen" and "rejected", and may
hold "weight" and "margin", by how much the chosen score should be above the other.
Source: Ouyang et al. 2022, https://arxiv.org/abs/2203.02155
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import chex
import flax.struct
import jax
import numpy as np

from o1jax.data.lines import read_lines, text_field
from o1jax.data.template import Template
from o1jax.data.tokenizer import Tokenizer
from o1jax.types import Prompts

RIGHT = 0.5  # a grade above it is a right answer
_MOST = 1e6  # of a weight or margin: beyond that it is a mistake


class Pair(NamedTuple):
    """Two responses as text, without the end of text."""

    question: str
    chosen: str
    rejected: str
    weight: float = 1.0
    margin: float = 0.0


@flax.struct.dataclass(kw_only=True)
class PairBatch:
    """R pairs; side 0 is the chosen one, side 1 the rejected one."""

    tokens: jax.Array  # i32[R, 2, T]    prompt then response, right-padded with 0
    prompt_length: jax.Array  # i32[R]
    length: jax.Array  # i32[R, 2]       prompt and response together
    step_end: jax.Array  # bool[R, 2, T]  token t closes a step
    weight: jax.Array  # f32[R]
    margin: jax.Array  # f32[R]          the least wanted difference of the scores


def read_pairs(file: str | Path) -> list[Pair]:
    """The pairs of `file`; ValueError `file:line: reason` for the first bad line."""
    pairs = read_lines(file, _pair)
    if not pairs:
        raise ValueError(f"{file}: no pairs in it")
    return pairs


def _pair(record: dict[str, Any]) -> Pair:
    question = text_field(record, "question").strip()
    # Only spaces: an ending newline may be the mark that closes a step.
    chosen = text_field(record, "chosen").strip(" ")
    rejected = text_field(record, "rejected").strip(" ")
    if chosen == rejected:
        raise ValueError(f'"chosen" and "rejected" are both {chosen[:80]!r}')
    weight = _number(record, "weight", 1.0)
    if not weight:
        raise ValueError('"weight" is 0: leave the line out')
    return Pair(question, chosen, rejected, weight, _number(record, "margin", 0.0))


def _number(record: dict[str, Any], name: str, default: float) -> float:
    value = record.get(name, default)
    if type(value) not in (int, float) or not 0 <= value <= _MOST:
        raise ValueError(f'"{name}" is {value!r}, not a number from 0 to {_MOST:g}')
    return float(value)


def pairs_of_samples(
    question: str,
    texts: Sequence[str],
    grades: Sequence[float],
    max_pairs: int,
    rng: np.random.Generator,
) -> list[Pair]:
    """At most `max_pairs` of a right answer against a wrong one, no pair twice.

    Equal texts count once. The pairs use as many different texts as possible: none a
    second time on either side before each one has been used.
    """
    grade_of: dict[str, float] = {}
    for text, grade in zip(texts, grades, strict=True):
        if not math.isfinite(grade):
            raise ValueError(f"a sample of {question!r} has the grade {grade}")
        if grade_of.setdefault(text, grade) != grade:
            raise ValueError(
                f"the same sample of {question!r} is graded {grade_of[text]} and "
                f"{grade}: {text[:80]!r}"
            )
    right = [text for text, grade in grade_of.items() if grade > RIGHT]
    wrong = [text for text, grade in grade_of.items() if grade <= RIGHT]
    rng.shuffle(right)
    rng.shuffle(wrong)
    R, W = len(right), len(wrong)
    if not R * W:
        return []
    # Both sides turn like wheels; after a common turn one of them is moved on by one.
    turn = math.lcm(R, W)
    return [
        Pair(question, right[i % R], wrong[(i + i // turn) % W])
        for i in range(min(R * W, max_pairs))
    ]


def encode_pairs(
    pairs: Sequence[Pair],
    tokenizer: Tokenizer,
    template: Template,
    length: int,
    step_end_ids: Sequence[int],
) -> PairBatch:
    """The pairs as rows of `length` tokens, or 0: as long as the longest needs.

    Each response ends with EOS. ValueError names the pair that does not fit, that the
    tokenizer can't write, or whose sides become the same tokens.
    """
    prompts, chosen, rejected = [], [], []
    for i, pair in enumerate(pairs):
        try:
            prompts.append(template.encode_prompt(tokenizer, pair.question))
            sides = [tokenizer.encode(side) for side in (pair.chosen, pair.rejected)]
        except ValueError as error:
            raise ValueError(f"pair {i}: {error}") from error
        chosen.append([*sides[0], tokenizer.eos_id])
        rejected.append([*sides[1], tokenizer.eos_id])
    return _batch(
        prompts,
        chosen,
        rejected,
        weight=[pair.weight for pair in pairs],
        margin=[pair.margin for pair in pairs],
        length=length,
        step_end_ids=step_end_ids,
        stop_ids=(tokenizer.eos_id,),
    )


def pairs_of_tree(
    prompts: Prompts,
    tree: np.ndarray,
    texts: Sequence[np.ndarray],
    *,
    step_end_ids: Sequence[int],
    stop_ids: Sequence[int],
    weight: np.ndarray | None = None,
    length: int = 0,
) -> PairBatch:
    """Pairs found in the trees of `prompts`.

    Args:
      tree: i32[R], which prompt a pair is about (search.targets.Pairs.tree).
      texts: search.targets.PairTexts: the tokens [R, ...] of the prefix that both sides
        share, of the chosen and of the rejected text behind it, each with its length.
      weight: f32[R], such as Pairs.gap; 1 if left out.
      length: of a row; 0: as long as the longest needs.
    """
    prefix, chosen, rejected = (
        _cut(tokens, size) for tokens, size in zip(texts[::2], texts[1::2], strict=True)
    )
    tree = np.asarray(tree)
    asked = _cut(np.asarray(prompts.tokens)[tree], np.asarray(prompts.length)[tree])
    return _batch(
        asked,
        [before + after for before, after in zip(prefix, chosen, strict=True)],
        [before + after for before, after in zip(prefix, rejected, strict=True)],
        weight=np.ones(len(tree)) if weight is None else weight,
        margin=np.zeros(len(tree)),
        length=length,
        step_end_ids=step_end_ids,
        stop_ids=stop_ids,
    )


def step_ends(
    tokens: np.ndarray,
    prompt_length: np.ndarray,
    length: np.ndarray,
    *,
    step_end_ids: Sequence[int],
    stop_ids: Sequence[int],
) -> np.ndarray:
    """bool[..., T]: where the steps of rows [..., T] end; lengths are [...].

    A step ends with one of `step_end_ids`. What is behind the last of them is a step
    too, closed by the row's last token, unless it is no more than the end of the text.
    So every response has at least one, also that of a user who marks no steps.
    """
    chex.assert_equal_shape([prompt_length, length])
    t = np.arange(tokens.shape[-1])
    response = (t >= prompt_length[..., None]) & (t < length[..., None])
    end = response & np.isin(tokens, step_end_ids)
    last = np.max(np.where(end, t, -1), axis=-1)
    more = response & (t > last[..., None]) & ~np.isin(tokens, stop_ids)
    rest = np.any(more, axis=-1) | (last < 0)
    return end | (response & rest[..., None] & (t == length[..., None] - 1))


def _cut(tokens: np.ndarray, length: np.ndarray) -> list[list[int]]:
    """The rows of tokens [R, X] without their padding."""
    return [row[:size] for row, size in zip(np.asarray(tokens).tolist(), length)]


def _batch(
    prompts: Sequence[list[int]],
    chosen: Sequence[list[int]],
    rejected: Sequence[list[int]],
    *,
    weight: Sequence[float] | np.ndarray,
    margin: Sequence[float] | np.ndarray,
    length: int,
    step_end_ids: Sequence[int],
    stop_ids: Sequence[int],
) -> PairBatch:
    rows = [(p + c, p + r) for p, c, r in zip(prompts, chosen, rejected, strict=True)]
    if not rows:
        raise ValueError("there are no pairs to encode")
    sizes = np.array([[len(side) for side in row] for row in rows], np.int32)
    T = length or int(sizes.max())
    tokens = np.zeros((len(rows), 2, T), np.int32)
    for i, row in enumerate(rows):
        if sizes[i].max() > T:
            raise ValueError(f"pair {i} takes {sizes[i].max()} tokens of {T}")
        if row[0] == row[1]:
            raise ValueError(f"pair {i}: both sides are the same tokens")
        for side, ids in enumerate(row):
            tokens[i, side, : len(ids)] = ids
    prompt_length = np.array([len(prompt) for prompt in prompts], np.int32)
    return PairBatch(
        tokens=tokens,
        prompt_length=prompt_length,
        length=sizes,
        step_end=step_ends(
            tokens,
            np.repeat(prompt_length[:, None], 2, axis=1),
            sizes,
            step_end_ids=step_end_ids,
            stop_ids=stop_ids,
        ),
        weight=np.asarray(weight, np.float32),
        margin=np.asarray(margin, np.float32),
    )
