"""The reward that a policy's own log-probs imply, next to those of a reference.

In: log-probs of a response's tokens under both. Out: a score for every step, from one
forward of each. Trained on pairs (reward/preference.py) it is DPO: Rafailov et al.
2023, https://arxiv.org/abs/2305.18290; trained on outcomes it scores steps that nobody
labelled: Yuan et al. 2024, https://arxiv.org/abs/2412.01981.
"""

import chex
import jax
import jax.numpy as jnp

from o1jax.policy.policy import Policy
from o1jax.reward.interface import Pieces, RewardModel, RewardModelConfig, score_rows
from o1jax.reward.readout import in_response
from o1jax.types import Params, PolicyOutput


def implicit_reward(
    policy_logprob: jax.Array,
    reference_logprob: jax.Array,
    step_end: jax.Array,
    prompt_length: jax.Array,
    beta: float,
    *,
    per_step: bool = False,
) -> jax.Array:
    """f32[B, T]: beta * log(policy / reference), at step ends; 0 elsewhere.

        q_t = beta * sum_{prompt <= u <= t} (log pi(u) - log pi_ref(u))

    With pi = pi_ref exp(r / beta) / Z, the optimal policy of a reward r under a KL
    penalty, q at the last token is r - beta log Z, and before it
    beta log E_ref[exp(r / beta) | text up to t] - beta log Z: a value. A step's own
    share (`per_step`) is q_t less q at the step end before, so that the steps add up to
    q at the last one.

    Args:
      policy_logprob, reference_logprob: f32[B, T] of token t given all before; what
        they hold on the prompt and behind the last step end is not read.
      step_end: bool[B, T].
      prompt_length: i32[B].
    """
    chex.assert_equal_shape([policy_logprob, reference_logprob, step_end])
    chex.assert_shape(prompt_length, step_end.shape[:1])
    chex.assert_type([policy_logprob, reference_logprob], jnp.float32)
    t = jnp.arange(step_end.shape[1])[None]
    response = t >= prompt_length[:, None]
    ratio = jnp.where(response, policy_logprob - reference_logprob, 0.0)
    score = beta * jnp.cumsum(ratio, axis=1)
    if per_step:
        upto = jax.lax.cummax(jnp.where(step_end, t, -1), axis=1)
        previous = jnp.pad(upto[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
        before = jnp.take_along_axis(score, jnp.maximum(previous, 0), axis=1)
        score = score - jnp.where(previous >= 0, before, 0.0)
    return jnp.where(step_end, score, 0.0)


def response_logprob(
    policy: Policy,
    params: Params,
    tokens: jax.Array,
    prompt_length: jax.Array,
    length: jax.Array,
) -> jax.Array:
    """f32[B, T]: log-probs at temperature 1 of a response's tokens; 0 off it."""
    logprob = token_logprob(policy.forward(params, tokens).logits, tokens)
    return jnp.where(in_response(prompt_length, length, tokens.shape[1]), logprob, 0.0)


def token_logprob(logits: jax.Array, tokens: jax.Array) -> jax.Array:
    """f32[B, T]: of the tokens that logits [B, T, V] are about, at temperature 1."""
    chosen = jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
    return chosen - jax.nn.logsumexp(logits, axis=-1)


def implicit_reward_model(
    policy: Policy, beta: float, *, per_step: bool = False
) -> RewardModel:
    """The implicit reward behind the interface of every reward model.

    Parameters: {"net": the policy that learns, "reference": the one it began as, which
    no optimizer may touch}. With preference_objective(model, "last") it learns by DPO;
    `per_step`, by the same with "sum".
    """
    if not beta > 0:
        raise ValueError(f"beta must be above 0, not {beta}")

    def init(key: jax.Array, policy_params: Params | None = None) -> Params:
        if policy_params is None:
            policy_params = policy.init(key)
        copy = lambda: jax.tree.map(jnp.copy, policy_params)  # a train state is donated
        return {"net": copy(), "reference": copy()}

    def networks(params: Params) -> tuple[Params, Params]:
        return params["net"], jax.lax.stop_gradient(params["reference"])

    def number(
        params: Params,
        outputs: tuple[PolicyOutput, ...],
        tokens: jax.Array,
        goal: jax.Array,
    ) -> jax.Array:
        own, reference = (token_logprob(x.logits, tokens) for x in outputs)
        return (own - reference)[..., None]

    def from_numbers(
        params: Params, numbers: jax.Array, step_end: jax.Array
    ) -> jax.Array:
        ratio, zeros = numbers[..., 0], jnp.zeros(step_end.shape)
        whole = jnp.zeros(len(step_end), jnp.int32)  # ratios are 0 off the response
        return implicit_reward(ratio, zeros, step_end, whole, beta, per_step=per_step)[
            None
        ]

    pieces = Pieces(policy, networks, "before", number, from_numbers)

    def read(
        params: Params,
        tokens: jax.Array,
        prompt_length: jax.Array,
        length: jax.Array,
        step_end: jax.Array,
    ) -> tuple[jax.Array, jax.Array]:
        rows = (tokens, prompt_length, length, step_end)
        scores, logits = score_rows(pieces, params, *rows)
        response = in_response(prompt_length, length, tokens.shape[1])
        return scores, jnp.where(response, token_logprob(logits, tokens), 0.0)

    def trainable(params: Params) -> Params:
        of_part = lambda part: jax.tree.map(lambda _: part == "net", params[part])
        return {part: of_part(part) for part in params}

    config = RewardModelConfig(readout="implicit", beta=beta)
    score = lambda *rows: read(*rows)[0]
    return RewardModel(init, score, read, trainable, config, pieces=pieces)
