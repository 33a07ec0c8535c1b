"""Reward models on a trunk that stays as it is: it reads a text once, for all epochs.

In: a policy's parameters and rows with the ends of their steps. Out: what the trunk
says of each step. The read-outs `head` and `logodds` are linear in it, so training them
is a regression on a few numbers a step, and scoring with another one costs nothing.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from o1jax.policy.policy import PolicyConfig, build_policy
from o1jax.reward.interface import RewardModel, RewardModelConfig
from o1jax.reward.losses import Level, RewardObjective, reward_objective
from o1jax.reward.readout import in_response, step_log_odds, token_log_odds
from o1jax.types import Params, StepLabels

LINEAR = ("head", "logodds")


class StepReading(NamedTuple):
    """What a trunk says of steps."""

    state: Any  # f32[..., D]  behind the step's last token, as the process head sees it
    log_odds: Any  # f32[...]  that the step is written, given all before it


@flax.struct.dataclass(kw_only=True)
class ReadRows:
    """R texts, read, of J steps at most, and the labels of the steps."""

    reading: StepReading  # of [R, J]
    # [R, J] instead of [R, T]: a place a step. Tokens are the row's number, which the
    # rows of an ensemble's heads are drawn from.
    labels: StepLabels

    @property
    def tokens(self) -> jax.Array:
        """i32[R, 0]: what a network has yet to read of a batch."""
        return self.labels.tokens[:, :0]


def reads_once(config: RewardModelConfig) -> bool:
    """Whether the model is linear in what its trunk says, and the trunk stays."""
    return config.trunk == "frozen" and config.readout in LINEAR


def step_reader(size: PolicyConfig) -> Callable[..., StepReading]:
    """A function (params, tokens i32[B, T], prompt_length, length, step_end, at).

    at: i32[B, J], places of tokens that close steps. StepReading of [B, J]; params are
    a policy's.
    """
    # A process head for each number of the state, which hands it on as it is.
    net = build_policy(size, process_heads=size.width)
    hands_on = {"kernel": np.eye(size.width, dtype="f4"), "bias": np.zeros(size.width)}

    def read(
        params: Params,
        tokens: jax.Array,
        prompt_length: jax.Array,
        length: jax.Array,
        step_end: jax.Array,
        at: jax.Array,
    ) -> StepReading:
        chex.assert_equal_shape([tokens, step_end])
        output = net.forward(
            params | {"process": jax.tree.map(jnp.float32, hands_on)}, tokens
        )
        response = in_response(prompt_length, length, tokens.shape[1])
        logprob = jax.nn.log_sigmoid(token_log_odds(output.logits, tokens))
        log_odds = step_log_odds(jnp.where(response, logprob, 0.0), step_end & response)
        return StepReading(
            state=jnp.take_along_axis(output.process, at[..., None], axis=1),
            log_odds=jnp.take_along_axis(log_odds, at, axis=1),
        )

    return read


def linear_scores(
    config: RewardModelConfig, readout: Params, reading: StepReading
) -> jax.Array:
    """f32[K, ...]: log-odds that each step is right, of K heads, as RewardModel.score.

    readout: the model's parameters of that name.
    """
    if config.readout == "head":
        head = readout["process"]
        scores = jnp.moveaxis(reading.state @ head["kernel"], -1, 0)
        return scores + jnp.expand_dims(head["bias"], range(1, scores.ndim))
    return (readout["scale"] * reading.log_odds + readout["bias"])[None]


def read_rows_of(labels: StepLabels, reading: StepReading) -> ReadRows:
    """Rows to train on, of labels [R, T] and the reading of their steps in order.

    Numpy: reading.state is [S, D] for the S ends of steps, row by row.
    """
    ends = np.asarray(labels.step_end)
    steps = ends.sum(axis=1)
    rows, most = len(steps), int(steps.max(initial=0))
    there = np.arange(most) < steps[:, None]

    def place(of_steps: np.ndarray) -> np.ndarray:
        of_steps = np.asarray(of_steps, np.float32)
        out = np.zeros((rows, most, *of_steps.shape[1:]), np.float32)
        out[there] = of_steps
        return out

    number = np.broadcast_to(np.arange(rows, dtype=np.int32)[:, None], there.shape)
    return ReadRows(
        reading=StepReading(*map(place, reading)),
        labels=StepLabels(
            tokens=np.array(number),
            prompt_length=np.zeros(rows, np.int32),
            length=np.full(rows, most, np.int32),
            step_end=there,
            label=place(np.asarray(labels.label)[ends]),
            weight=place(np.asarray(labels.weight)[ends]),
        ),
    )


def linear_objective(model: RewardModel, *, level: Level) -> RewardObjective:
    """As reward_objective, of ReadRows: the same losses, without the trunk."""
    config = model.config

    def on(rows: ReadRows) -> RewardObjective:
        score = lambda params, *_: _squeezed(
            linear_scores(config, params["readout"], rows.reading)
        )
        return reward_objective(model._replace(score=score), level=level)

    return RewardObjective(
        weight=lambda rows: on(rows).weight(rows.labels),
        total=lambda params, rows: on(rows).total(params, rows.labels),
    )


def _squeezed(scores: jax.Array) -> jax.Array:
    return scores[0] if len(scores) == 1 else scores
