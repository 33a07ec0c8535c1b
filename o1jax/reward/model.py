"""The reward model: a policy's network, read out at the ends of steps.

    model = build_reward_model(config, policy_config)
    params = model.init(key, policy_params)      # {"net": ..., "readout": ...}
    scores = model.score(params, tokens, prompt_length, length, step_end)

One forward scores all steps of a row (Lightman et al. 2023, arXiv 2305.20050). Trained
from outcomes instead of steps the same model is an outcome reward model.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Protocol, get_args

import chex
import jax
import jax.numpy as jnp

from o1jax.config import configurable
from o1jax.policy.policy import PolicyConfig, build_policy
from o1jax.reward.readout import (
    goal_log_odds,
    goal_token,
    in_response,
    label_log_odds,
    step_log_odds,
    token_log_odds,
)
from o1jax.types import Params

Readout = Literal["logodds", "head", "label", "goal"]
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


class RewardModel(NamedTuple):
    """Pure functions; build one with `build_reward_model`.

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
    """

    init: Init
    score: Score
    read: Read | None = None
    trainable: Callable[[Params], Params] | None = None
    config: RewardModelConfig = RewardModelConfig()
    goals: Goals | None = None


def build_reward_model(
    config: RewardModelConfig, policy: PolicyConfig, *, yes_id: int = 3, no_id: int = 1
) -> RewardModel:
    """The reward model of a config, for the texts of a policy.

    Args:
      policy: of the policy, its vocabulary known.
      yes_id, no_id: tokens of the label read-out; the defaults are unk and bos.

    Raises ValueError for labels that are equal or not in the vocabulary.
    """
    size = policy
    if config.policy is not None:
        size = replace(config.policy, vocab=config.policy.vocab or policy.vocab)
    if size.vocab != policy.vocab:
        raise ValueError(
            f"the reward model's vocab is {size.vocab}, the policy's {policy.vocab}"
        )
    if config.readout == "label":
        if yes_id == no_id:
            raise ValueError(f"yes and no are the same token, {yes_id}")
        for name, token in (("yes", yes_id), ("no", no_id)):
            if not 0 <= token < size.vocab:
                raise ValueError(f"{name} ({token}) is no token of {size.vocab}")
    net = build_policy(size, process_heads=config.heads)

    def init(key: jax.Array, policy_params: Params | None = None) -> Params:
        if policy_params is None and config.trunk != "new":
            raise ValueError(f"trunk {config.trunk} needs the policy's parameters")
        fresh = net.init(key)
        # A copy even of a frozen trunk: a train state is donated.
        of_policy = config.trunk != "new"
        trunk = jax.tree.map(jnp.copy, policy_params) if of_policy else fresh
        if config.readout == "head":
            return {"net": trunk, "readout": {"process": fresh["process"]}}
        readout = {"scale": jnp.float32(1), "bias": jnp.float32(0)}
        return {"net": trunk, "readout": readout}

    def read(
        params: Params,
        tokens: jax.Array,
        prompt_length: jax.Array,
        length: jax.Array,
        step_end: jax.Array,
    ) -> tuple[jax.Array, jax.Array]:
        B, T = tokens.shape
        chex.assert_shape((prompt_length, length), (B,))
        chex.assert_shape(step_end, (B, T))
        response = in_response(prompt_length, length, T)
        step_end = step_end & response
        trunk, readout = params["net"], params["readout"]
        if config.trunk == "frozen":
            trunk = jax.lax.stop_gradient(trunk)
        if config.readout == "head":
            trunk = trunk | readout
        if config.readout in ("label", "goal"):  # a place more, behind the last token
            output = net.forward(trunk, jnp.pad(tokens, ((0, 0), (0, 1))))
        else:
            output = net.forward(trunk, tokens)
        likely = token_log_odds(output.logits[:, :T], tokens)
        logprob = jnp.where(response, jax.nn.log_sigmoid(likely), 0.0)
        if config.readout == "head":
            scores = output.process
            if config.heads > 1:
                scores = jnp.moveaxis(scores, -1, 0)
        else:
            if config.readout == "logodds":
                raw = step_log_odds(logprob, step_end, prompt_length)
            elif config.readout == "label":
                raw = label_log_odds(output.logits, yes_id, no_id)
            else:
                goal = goal_token(tokens, prompt_length, config.goal)
                raw = goal_log_odds(output.logits, goal)
            scores = readout["scale"] * raw + readout["bias"]
        step_end = jnp.broadcast_to(step_end, scores.shape)
        return jnp.where(step_end, scores, 0.0), logprob

    def score(
        params: Params,
        tokens: jax.Array,
        prompt_length: jax.Array,
        length: jax.Array,
        step_end: jax.Array,
    ) -> jax.Array:
        return read(params, tokens, prompt_length, length, step_end)[0]

    def goals(
        params: Params, tokens: jax.Array, prompt_length: jax.Array, at: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        trunk, readout = params["net"], params["readout"]
        if config.trunk == "frozen":
            trunk = jax.lax.stop_gradient(trunk)
        logits = net.forward(trunk, jnp.pad(tokens, ((0, 0), (0, 1)))).logits
        every = jnp.take_along_axis(logits, at[..., None] + 1, axis=1)
        every = readout["scale"] * every + readout["bias"]
        goal = goal_token(tokens, prompt_length, config.goal)
        own = jnp.take_along_axis(every, goal[:, None, None], axis=-1)
        return own[..., 0], every

    def trainable(params: Params) -> Params:
        train = {"net": config.trunk != "frozen", "readout": True}
        of_part = lambda part: jax.tree.map(lambda _: train[part], params[part])
        return {part: of_part(part) for part in params}

    of_goals = goals if config.readout == "goal" else None
    return RewardModel(init, score, read, trainable, config, of_goals)
