"""Shapes of the batches that programs read, as the data make them.

In: rows, and tokens of a row. Out: the records that the functions take, of
ShapeDtypeStructs without a place; planned.rows_on puts them on a mesh.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from o1jax.data.pairs import PairBatch
from o1jax.learn.experience import Experience
from o1jax.reward.demonstrations import Demonstrations
from o1jax.reward.frozen import ReadRows, StepReading
from o1jax.reward.goals import GoalLabels
from o1jax.types import Prompts, StepLabels, TokenBatch


def array(*shape: int, dtype: Any = jnp.int32) -> jax.ShapeDtypeStruct:
    """A shape without a place."""
    return jax.ShapeDtypeStruct(shape, dtype)


def keys(count: int) -> jax.ShapeDtypeStruct:
    """As many random keys."""
    return array(count, dtype=jax.eval_shape(lambda: jax.random.key(0)).dtype)


def text(rows: int, width: int) -> tuple:
    """Tokens, prompt_length and length."""
    return array(rows, width), array(rows), array(rows)


def prompts(rows: int, length: int) -> Prompts:
    """Questions."""
    row = array(rows)
    return Prompts(tokens=array(rows, length), length=row, prompt_id=row)


def tokens_to_imitate(rows: int, length: int) -> TokenBatch:
    token = array(rows, length)
    weight = array(rows, length, dtype=jnp.float32)
    return TokenBatch(tokens=token, segment=token, position=token, weight=weight)


def experience(rows: int, width: int) -> Experience:
    """What a policy gradient reads."""
    real = ("logprob", "ref_logprob", "value", "advantage", "target", "weight")
    token = array(rows, width, dtype=jnp.float32)
    tokens, prompt_length, length = text(rows, width)
    each = array(rows, dtype=jnp.float32)
    return Experience(
        tokens=tokens,
        prompt_length=prompt_length,
        length=length,
        share=each,
        kl_coef=each,
        **dict.fromkeys(real, token),
    )


def labels(rows: int, width: int, *, pairs: bool = False) -> Any:
    """A batch that a reward model learns from."""
    real = partial(array, dtype=jnp.float32)
    if pairs:
        return PairBatch(
            tokens=array(rows, 2, width),
            prompt_length=array(rows),
            length=array(rows, 2),
            step_end=array(rows, 2, width, dtype=jnp.bool_),
            weight=real(rows),
            margin=real(rows),
        )
    tokens, prompt_length, length = text(rows, width)
    return StepLabels(
        tokens=tokens,
        prompt_length=prompt_length,
        length=length,
        step_end=array(rows, width, dtype=jnp.bool_),
        label=real(rows, width),
        weight=real(rows, width),
    )


def read_rows(rows: int, steps: int, width: int) -> ReadRows:
    """A batch of texts that a trunk of that width has read."""
    real = partial(array, rows, steps, dtype=jnp.float32)
    return ReadRows(
        reading=StepReading(state=real(width), log_odds=real()),
        labels=labels(rows, steps),
    )


def goals(rows: int, width: int, count: int, steps: int) -> GoalLabels:
    """A batch of steps, each with what it is worth for `count` goals."""
    reach = array(rows, steps, -(-count // 8), dtype=jnp.uint8)
    return GoalLabels(labels=labels(rows, width), reach=reach)


def demonstrations(rows: int, width: int) -> Demonstrations:
    """A batch of responses of the expert and of the policy."""
    logprob = array(rows, dtype=jnp.float32)
    return Demonstrations(labels=labels(rows, width), logprob=logprob)
