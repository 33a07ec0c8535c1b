"""The reward model: a policy's network, read out at the ends of steps.

    model = build_reward_model(config, policy_config)
    params = model.init(key, policy_params)      # {"net": ..., "readout": ...}
    scores = model.score(params, tokens, prompt_length, length, step_end)

One forward scores all steps of a row (Lightman et al. 2023, arXiv 2305.20050). Trained
from outcomes instead of steps the same model is an outcome reward model.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp

from o1jax.policy.policy import PolicyConfig, build_policy
from o1jax.reward.implicit import implicit_reward_model
from o1jax.reward.interface import (
    Pieces,
    Readout,
    RewardModel,
    RewardModelConfig,
    score_rows,
)
from o1jax.reward.readout import (
    goal_logit,
    goal_token,
    in_response,
    step_log_odds,
    token_log_odds,
)
from o1jax.types import Params, PolicyOutput

__all__ = ["Readout", "RewardModel", "RewardModelConfig", "build_reward_model"]


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
    if config.readout == "implicit":
        return implicit_reward_model(net, config.beta)

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

    def networks(params: Params) -> tuple[Params]:
        trunk, readout = params["net"], params["readout"]
        if config.trunk == "frozen":
            trunk = jax.lax.stop_gradient(trunk)
        return (trunk | readout if config.readout == "head" else trunk,)

    def number(
        params: Params,
        outputs: tuple[PolicyOutput, ...],
        tokens: jax.Array,
        goal: jax.Array,
    ) -> jax.Array:
        (output,) = outputs
        if config.readout == "logodds":
            raw = jax.nn.log_sigmoid(token_log_odds(output.logits, tokens))
        elif config.readout == "head":
            raw = output.process
        elif config.readout == "label":
            raw = output.logits[..., yes_id] - output.logits[..., no_id]
        else:
            raw = goal_logit(output.logits, goal)
        return raw.reshape(*tokens.shape, config.heads)

    def from_numbers(
        params: Params, numbers: jax.Array, step_end: jax.Array
    ) -> jax.Array:
        raw = jnp.moveaxis(numbers, -1, 0)
        if config.readout == "head":
            return raw
        if config.readout == "logodds":
            raw = step_log_odds(raw[0], step_end)[None]
        return params["readout"]["scale"] * raw + params["readout"]["bias"]

    reads = {"logodds": "before", "head": "at"}.get(config.readout, "behind")
    pieces = Pieces(net, networks, reads, number, from_numbers, config.goal)

    def read(
        params: Params,
        tokens: jax.Array,
        prompt_length: jax.Array,
        length: jax.Array,
        step_end: jax.Array,
    ) -> tuple[jax.Array, jax.Array]:
        rows = (tokens, prompt_length, length, step_end)
        scores, logits = score_rows(pieces, params, *rows)
        logprob = jax.nn.log_sigmoid(token_log_odds(logits, tokens))
        response = in_response(prompt_length, length, tokens.shape[1])
        return scores, jnp.where(response, logprob, 0.0)

    def score(
        params: Params,
        tokens: jax.Array,
        prompt_length: jax.Array,
        length: jax.Array,
        step_end: jax.Array,
    ) -> jax.Array:
        rows = (tokens, prompt_length, length, step_end)
        return score_rows(pieces, params, *rows)[0]

    def goals(
        params: Params, tokens: jax.Array, prompt_length: jax.Array, at: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        readout, (trunk,) = params["readout"], networks(params)
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
    return RewardModel(init, score, read, trainable, config, of_goals, pieces)
