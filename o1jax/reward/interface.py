"""What a reward model is: its config, and a record of pure functions.

In: parameters and texts, whole or in pieces. Out: log-odds that each step is right.
Whole rows are for training and judging, pieces for a search, which reads each step once
behind what it has read already; `score_rows` makes the one of the other, so that both
say the same.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, get_args

import chex
import jax
import jax.numpy as jnp

from o1jax.config import configurable
from o1jax.policy.policy import Policy, PolicyConfig
from o1jax.reward.readout import goal_token, in_response
from o1jax.types import Params, PolicyOutput

Readout = Literal["logodds", "head", "label", "goal", "implicit"]
Trunk = Literal["policy", "frozen", "new"]


@configurable
@dataclass(frozen=True)
class RewardModelConfig:
    """What a reward model is made of."""

    readout: Readout = "logodds"
    # policy: a copy of the policy's weights, trained on; frozen: the policy's weights
    # as they are, only the read-out is trained; new: random weights.
    trunk: Trunk = "policy"
    policy: PolicyConfig | None = None  # size of a new trunk; None: as the policy's
    heads: int = 1  # of an ensemble, for readout head
    yes: str = ""  # words of readout label; "": the tokenizer's unk and bos
    no: str = ""
    goal: int = 2  # of readout goal: which token of the prompt it is, from the end
    beta: float = 0.1  # of readout implicit: DPO's, of log-probs against the policy's

    def __post_init__(self) -> None:
        for name, known in (("readout", Readout), ("trunk", Trunk)):
            if getattr(self, name) not in get_args(known):
                raise ValueError(f"{name} must be one of {', '.join(get_args(known))}")
        if self.heads < 1:
            raise ValueError("heads must be at least 1")
        if self.heads > 1 and self.readout != "head":
            raise ValueError(f"heads ({self.heads}) needs readout head")
        if self.policy is not None and self.trunk != "new":
            raise ValueError(f"policy is the size of a new trunk, not of {self.trunk}")
        if self.goal < 1:
            raise ValueError("goal must be at least 1: the last token of the prompt")
        if not self.beta > 0:
            raise ValueError(f"beta must be above 0, not {self.beta}")
        if self.readout == "implicit" and self.trunk != "policy":
            raise ValueError(f"readout implicit needs trunk policy, not {self.trunk}")
        if (self.yes or self.no) and self.readout != "label":
            raise ValueError(f"yes and no are for readout label, not {self.readout}")


class Init(Protocol):
    def __call__(
        self, key: jax.Array, policy_params: Params | None = None
    ) -> Params: ...


class Score(Protocol):
    def __call__(
        self,
        params: Params,
        tokens: jax.Array,
        prompt_length: jax.Array,
        length: jax.Array,
        step_end: jax.Array,
    ) -> jax.Array: ...


class Read(Protocol):
    def __call__(
        self,
        params: Params,
        tokens: jax.Array,
        prompt_length: jax.Array,
        length: jax.Array,
        step_end: jax.Array,
    ) -> tuple[jax.Array, jax.Array]: ...


class Goals(Protocol):
    def __call__(
        self,
        params: Params,
        tokens: jax.Array,
        prompt_length: jax.Array,
        at: jax.Array,
    ) -> tuple[jax.Array, jax.Array]: ...


class Number(Protocol):
    def __call__(
        self,
        params: Params,
        outputs: tuple[PolicyOutput, ...],
        tokens: jax.Array,
        goal: jax.Array,
    ) -> jax.Array: ...


class FromNumbers(Protocol):
    def __call__(
        self, params: Params, numbers: jax.Array, step_end: jax.Array
    ) -> jax.Array: ...


class Pieces(NamedTuple):
    """How a model reads a text in pieces: a number a token, then scores of those.

    networks(params) -> parameters of each of the networks that read.
    number(params, outputs of each network [R, T, ...], tokens i32[R, T], goal i32[R])
      -> f32[R, T, K] for K heads. `reads` says where of the output that belongs to
      token t is from: "before", logits from reading all in front of it; "at", the
      process head at it; "behind", logits about what follows it.
    scores(params, numbers f32[R, T, K], step_end bool[R, T]) -> f32[K, R, T]: log-odds;
      numbers are 0 off the response, and what stands off step ends means nothing.
    """

    policy: Policy
    networks: Callable[[Params], tuple[Params, ...]]
    reads: Literal["before", "at", "behind"]
    number: Number
    scores: FromNumbers
    goal: int = 1  # which token of the prompt is handed on, from the end


class RewardModel(NamedTuple):
    """Pure functions; build one with `model.build_reward_model`.

    init(key, policy_params) -> {"net": a policy's parameters, "readout": ...}.
    score(params, tokens i32[B, T], prompt_length i32[B], length i32[B],
      step_end bool[B, T]) -> f32[B, T], or f32[K, B, T] with K > 1 heads: log-odds that
      the step closed by token t is right given all before; 0 where no step ends.
    read: the same arguments -> (score, token_logprob f32[B, T]), the log-probs of the
      response's tokens from the same forward.
    trainable(params) -> bools: what an optimizer may touch. The gradient of the rest is
      0 already, but weight decay asks for no gradient.
    goals(params, tokens, prompt_length, at i32[B, J]) -> (own f32[B, J], every
      f32[B, J, V]): log-odds behind the tokens `at` that the question's own goal is
      within reach, and that each token would be if it were the goal. Of readout goal.
    pieces: how it reads step by step.
    """

    init: Init
    score: Score
    read: Read | None = None
    trainable: Callable[[Params], Params] | None = None
    config: RewardModelConfig = RewardModelConfig()
    goals: Goals | None = None
    pieces: Pieces | None = None


def score_rows(
    pieces: Pieces,
    params: Params,
    tokens: jax.Array,
    prompt_length: jax.Array,
    length: jax.Array,
    step_end: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """(scores f32[B, T] or f32[K, B, T], logits f32[B, T, V] of the first network)."""
    B, T = tokens.shape
    chex.assert_shape((prompt_length, length), (B,))
    chex.assert_shape(step_end, (B, T))
    response = in_response(prompt_length, length, T)
    step_end = step_end & response
    # A place more where what is behind the last token is asked for.
    behind = int(pieces.reads == "behind")
    read = jnp.pad(tokens, ((0, 0), (0, behind)))
    outputs = [pieces.policy.forward(net, read) for net in pieces.networks(params)]
    belongs = lambda x: x.replace(
        logits=x.logits[:, behind:], process=jax.tree.map(lambda p: p[:, :T], x.process)
    )
    goal = goal_token(tokens, prompt_length, pieces.goal)
    numbers = pieces.number(params, tuple(map(belongs, outputs)), tokens, goal)
    numbers = jnp.where(response[..., None], numbers, 0.0)
    scores = pieces.scores(params, numbers, step_end)
    scores = jnp.where(step_end[None], scores, 0.0)
    return scores[0] if len(scores) == 1 else scores, outputs[0].logits[:, :T]
