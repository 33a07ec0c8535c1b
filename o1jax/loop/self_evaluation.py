"""A guide that asks the policy itself whether the text so far is right.

In: a policy, the prompts of all problems, and a question to put behind the text. Out: a
Guide. Its value is P(yes) / (P(yes) + P(no)) of the token behind the question. Source:
Kadavath et al. 2022, "Language models (mostly) know what they know", arXiv 2207.05221.
Simplified: each state is read anew, prompt and all, and that is counted.
"""

from dataclasses import dataclass

import chex
import jax
import jax.numpy as jnp
import numpy as np

from o1jax.config import configurable
from o1jax.data.tokenizer import Tokenizer
from o1jax.policy.policy import Policy
from o1jax.types import Guidance, Guide, NodeState, Params


@configurable
@dataclass(frozen=True)
class SelfEvaluation:
    """The question, and the two tokens that answer it, in the tokenizer's words."""

    ask: str  # put behind the steps so far
    yes: str
    no: str

    def __post_init__(self) -> None:
        for name in ("ask", "yes", "no"):
            if not getattr(self, name):
                raise ValueError(f"{name} must not be empty")


def self_evaluation_guide(
    policy: Policy,
    prompts_tokens: np.ndarray,
    prompts_length: np.ndarray,
    config: SelfEvaluation,
    tokenizer: Tokenizer,
) -> Guide:
    """A guide for problems whose prompt_id is their row in the prompts.

    Args:
      prompts_tokens: i32[Q, P], right-padded; prompts_length: i32[Q], at least 1.

    It reads B * M rows of P + (D + 1) S + A tokens at once, A of the question. The stop
    token of a finished path is left out. ValueError if yes or no is not one token, or
    the tokenizer lacks a word of the question.
    """
    chex.assert_shape(prompts_length, (len(prompts_tokens),))
    ask, yes, no = _tokens(config, tokenizer)

    def guide(params: Params, state: NodeState) -> Guidance:
        B, M, depth, S = state.tokens.shape
        chex.assert_shape(state.length, (B, M, depth))
        problem = jnp.maximum(state.prompt_id, 0)
        prompt_length = jnp.asarray(prompts_length)[problem]
        last = state.length[..., -1]
        # The question is asked inside the text, so what ends it is not read.
        cut = jnp.maximum(last - state.finished, 0)
        length = state.length.at[..., -1].set(cut)

        spread = lambda x: jnp.broadcast_to(x[:, None], (B, M, *x.shape[1:]))
        join = lambda *parts: jnp.concatenate(parts, axis=-1).reshape(B * M, -1)
        tokens, length_of_row = packed(
            join(
                spread(jnp.asarray(prompts_tokens)[problem]),
                state.tokens.reshape(B, M, depth * S),
                jnp.broadcast_to(ask, (B, M, len(ask))),
            ),
            join(
                spread(_first(prompt_length, prompts_tokens.shape[1])),
                _first(length, S).reshape(B, M, depth * S),
                jnp.ones((B, M, len(ask)), bool),
            ),
        )
        output, _ = policy.start(
            params, tokens, length_of_row, capacity=tokens.shape[1]
        )
        odds = output.logits[:, yes] - output.logits[:, no]
        # A root's path is of one step, which is empty; any other empty step means
        # that no node was wanted there.
        wanted = (state.prompt_id >= 0)[:, None] & ((last > 0) | (depth == 1))
        read = jnp.where(wanted, length_of_row.reshape(B, M), 0)
        return Guidance(jax.nn.sigmoid(odds).reshape(B, M), read)

    return guide


def packed(tokens: jax.Array, kept: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The kept tokens of each row moved to the left, 0 behind them, and their number.

    tokens i32[R, T], kept bool[R, T] -> i32[R, T], i32[R].
    """
    chex.assert_equal_shape([tokens, kept])
    place = jnp.where(kept, jnp.cumsum(kept, axis=1) - 1, tokens.shape[1])
    row = jnp.arange(len(tokens))[:, None]
    left = jnp.zeros_like(tokens).at[row, place].set(tokens, mode="drop")
    return left, jnp.sum(kept, axis=1, dtype=jnp.int32)


def _first(length: jax.Array, size: int) -> jax.Array:
    """bool[..., size]: the first `length` places."""
    slot = jnp.arange(size).reshape(*[1] * length.ndim, size)
    return slot < length[..., None]


def _tokens(
    config: SelfEvaluation, tokenizer: Tokenizer
) -> tuple[np.ndarray, int, int]:
    """(ids of the question i32[A], id of yes, id of no)."""
    try:
        ask = tokenizer.encode(config.ask)
    except ValueError as error:
        raise ValueError(f"SelfEvaluation.ask: {error}") from error
    if tokenizer.unk_id in ask:
        raise ValueError(
            f"SelfEvaluation.ask: the tokenizer cannot write {config.ask!r}"
        )
    answers = []
    for name in ("yes", "no"):
        try:
            answers.append(tokenizer.id_of(getattr(config, name)))
        except ValueError as error:
            raise ValueError(f"SelfEvaluation.{name}: {error}") from error
    if answers[0] == answers[1]:
        raise ValueError(
            f"SelfEvaluation.yes and no are the same token: {config.yes!r}"
        )
    return np.array(ask, np.int32), *answers
