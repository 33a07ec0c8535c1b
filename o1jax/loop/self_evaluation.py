"""A guide that asks the policy itself whether the text so far is right.

In: a policy, the prompts of all problems, and a question to put behind the text. Out: a
Guide. Its value is P(yes) / (P(yes) + P(no)) of the token behind the question. Source:
Kadavath et al. 2022, "Language models (mostly) know what they know", arXiv 2207.05221.
Simplified: each state is read anew, prompt and all, and that is counted.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from o1jax.config import configurable
from o1jax.data.tokenizer import Tokenizer
from o1jax.loop.path_rows import path_rows, wanted
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
    ask, yes, no = answer_tokens(config, tokenizer)

    def guide(params: Params, state: NodeState) -> Guidance:
        rows = path_rows(prompts_tokens, prompts_length, state, behind=ask)
        output, _ = policy.start(
            params, rows.tokens, rows.length, capacity=rows.tokens.shape[1]
        )
        odds = output.logits[:, yes] - output.logits[:, no]
        shape = state.finished.shape
        read = jnp.where(wanted(state), rows.length.reshape(shape), 0)
        return Guidance(jax.nn.sigmoid(odds).reshape(shape), read)

    return guide


def answer_tokens(
    config: SelfEvaluation, tokenizer: Tokenizer
) -> tuple[np.ndarray, int, int]:
    """(ids of the question i32[A], id of yes, id of no).

    ValueError if yes or no is not one token, or a word of the question is unknown.
    """
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
