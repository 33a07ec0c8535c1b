"""The arm that claims on rewards share: a reward model chooses among samples.

In: how a reward model is trained, as the config of a TrainReward stage. Out: what the
best sample and a weighted vote earn among k samples, what the model thinks of its
choice, how good it is as a judge of steps, and what its labels and training cost.
The stop token is judged as a step of its own, right if the response is: a model that
reads closed steps alone prefers a text that stops too early, having less to get wrong.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from o1jax.data.rows import RowStream
from o1jax.learn.optimizer import build_optimizer
from o1jax.learn.state import new_state
from o1jax.learn.update import build_update, jit_update
from o1jax.loop.labelling import label
from o1jax.loop.ledger import count_flops
from o1jax.loop.reproduce.claim import Predictions
from o1jax.loop.reproduce.pool import Pool, powers, shared_pool
from o1jax.loop.reward_data import MAKERS, Data, examples_of
from o1jax.loop.reward_model import Judge, TrainReward, objective_of
from o1jax.loop.searching import step_end_ids
from o1jax.loop.traces import Traces, closing, sample_traces
from o1jax.loop.workdir import Workdir
from o1jax.parallel.mesh import put_batch
from o1jax.parallel.sharding import TRANSFORMER_RULES
from o1jax.reward.aggregate import SMALLEST, Aggregate, aggregate, log_product
from o1jax.reward.losses import outcome_logit
from o1jax.reward.model import RewardModel
from o1jax.selection import best_at_k, weighted_at_k
from o1jax.tasks.task import Example
from o1jax.types import Params, StepLabels, Trajectory

ROWS = 2048  # scored by a call


@dataclass(frozen=True)
class Verify:
    """A reward model, and how many samples of each problem it chooses among."""

    reward: TrainReward
    samples: int = 256
    draws: int = 200  # subsets of each size that vote
    how: Aggregate = "product"  # of steps; outcomes are read as they were trained
    ends: bool = True  # the stop token is a step


# (traces, labels of their closed steps) -> labels with the end as a step
Finish = Callable[[Traces, StepLabels], StepLabels]


class Trained(NamedTuple):
    """A reward model with its weights."""

    model: RewardModel
    params: Params
    facts: dict[str, Any]  # JSON: how good it is, and what it cost


def verify(
    run: Workdir,
    params: Params,
    key: jax.Array,
    examples: Sequence[Example],
    method: Verify,
    *,
    finish: Finish | None = None,
) -> Predictions:
    """Trains the model, and lets it choose among the samples that all arms share.

    `right` is the choice among all samples; the columns hold every k = 1, 2, 4 ...
    """
    run.params = params
    pool = shared_pool(run, key, examples, method.samples)
    began = spent_flops(run)
    data = gather(run, method, finish)
    trained = train_verifier(run, method.reward, data, spent_flops(run) - began)
    score, flops = score_rows(run, trained, pool.rows, method)
    return choose(pool, score, flops, trained.facts, draws=method.draws)


def spent_flops(run: Workdir) -> float:
    return run.ledger.total()["flops"]


def choose(
    pool: Pool, score: np.ndarray, flops: float, facts: dict[str, Any], *, draws: int
) -> Predictions:
    """What a score of each sample, a log of its worth, makes of a pool.

    `flops` is what all scores cost.
    """
    score = score.reshape(pool.right.shape)
    ks = powers(pool.samples)
    best = best_at_k(score, pool.right, ks).per_problem.T
    # Only ratios within a problem count: dividing by the largest keeps them in range.
    weight = np.exp(score - score.max(1, keepdims=True))
    vote = weighted_at_k(pool.votes, weight, pool.right, ks, draws=draws)
    chosen = np.argmax(score, axis=1)[:, None]
    return Predictions(
        right=np.take_along_axis(pool.right, chosen, 1)[:, 0].astype(int),
        samples=np.ones(len(score), int),
        tokens=pool.tokens,
        flops=pool.flops + flops / len(score),
        extra={
            "best": best.tolist(),
            "vote": vote.per_problem.T.tolist(),
            "proxy": best_at_k(score, np.exp(score), ks).per_problem.T.tolist(),
        },
        facts=facts,
    )


def gather(run: Workdir, method: Verify, finish: Finish | None = None) -> Data:
    """Traces and their labels, as a TrainReward stage makes them but for the end.

    `finish` makes the last labels of steps; judge_end does if it is not given.
    """
    config = method.reward
    task = run.task(config)
    if not method.ends:
        return MAKERS[config.learns](run, config, task)
    examples = examples_of(run, task, "train", config.traces.problems)
    key, labels_key = (jax.random.fold_in(run.key, i) for i in (3, 5))
    params = run.current_params()
    traces = sample_traces(
        run, params, key, examples, config.traces, task=task, kind="reward"
    )
    if config.learns == "outcome":
        return Data(outcome_rows(traces), {"labels": len(traces.length)})
    found = label(run, traces, config.labels, task=task, key=labels_key)
    keep = config.labels.after_error == "keep"
    rows = (finish or functools.partial(judge_end, keep=keep))(traces, found.labels)
    return Data(rows, {**found.facts, "labels": int((rows.weight > 0).sum())})


def outcome_rows(traces: Traces) -> StepLabels:
    """The grade of each trace as the label of its end."""
    nothing = np.zeros(traces.tokens.shape, np.float32)
    labels = StepLabels(
        tokens=traces.tokens,
        prompt_length=traces.prompt_length,
        length=traces.length,
        step_end=traces.step_end,
        label=nothing,
        weight=nothing,
    )
    return judge_end(traces, labels, keep=True)


def judge_end(traces: Traces, labels: StepLabels, *, keep: bool) -> StepLabels:
    """Labels with each trace's end as a step; behind a wrong one only to `keep` them.

    It is the last token, be it the stop token or where room ran out.
    """
    place = np.arange(traces.tokens.shape[1])
    end = place == traces.length[:, None] - 1
    before = labels.step_end & ~end
    unspoilt = np.all(~before | (labels.label >= 0.5) & (labels.weight > 0), axis=1)
    known = np.ones_like(unspoilt) if keep else unspoilt
    return labels.replace(
        step_end=labels.step_end | end,
        label=np.where(end, traces.grades[:, None], labels.label).astype(np.float32),
        weight=np.where(end, known[:, None], labels.weight).astype(np.float32),
    )


def train_verifier(
    run: Workdir, config: TrainReward, data: Data, data_flops: float = 0.0
) -> Trained:
    """What the stage does, without its checkpoints: an arm is done or is not."""
    model = run.build_reward_model(config)
    optimizer = build_optimizer(config.optimizer, config.steps, model.trainable)
    # Jitted: op by op it would compile each of them.
    params = jax.jit(model.init)(jax.random.fold_in(run.key, 6), run.current_params())
    state = new_state(
        params, optimizer, run.key, mesh=run.mesh, rules=TRANSFORMER_RULES
    )
    update = build_update(
        objective_of(model, config), optimizer, microbatches=config.microbatches
    )
    update = jit_update(update, state)
    stream = RowStream(
        data.rows, rows=config.rows, seed=run.experiment.seed, identity={}
    )
    flops = count_flops(update, state, put_batch(run.mesh, next(stream))).flops
    stream.set_state(stream.get_state() | {"row": 0})
    for _ in range(config.steps):
        # One at a time: many devices simulated by few threads can wait for each other.
        state, values = jax.block_until_ready(
            update(state, put_batch(run.mesh, next(stream)))
        )
    run.ledger.add("reward", flops=config.steps * flops)
    judged = Judge(run, config, model).full(state.params)
    facts = {
        **data.facts,
        "judged": {name: x for name, x in judged.items() if name != "reliability"},
        "loss": float(values["loss"]),
        "epochs": stream.epochs,
        "data_flops": data_flops,
        "train_flops": config.steps * flops,
    }
    return Trained(model, state.params, facts)


def score_rows(
    run: Workdir, trained: Trained, rows: Trajectory | Traces, method: Verify
) -> tuple[np.ndarray, float]:
    """(log of the worth f64[R] of each response, FLOPs)."""
    model = trained.model
    readout = model.config.readout

    @jax.jit
    def worth(params: Params, *part: jax.Array) -> jax.Array:
        scores, step_end = model.score(params, *part), part[-1]
        if method.reward.learns == "outcome":
            log_p = jax.nn.log_sigmoid(outcome_logit(scores, step_end, readout))
        elif method.how == "product":
            log_p = log_product(scores, step_end)
        else:
            p = aggregate(scores, step_end, method.how)
            log_p = jnp.log(jnp.maximum(p, SMALLEST))
        # A text without a step is no answer.
        return jnp.where(step_end.any(-1), log_p, -1e4)

    step_end = closing(rows.tokens, rows.prompt_length, rows.length, step_end_ids(run))
    if method.ends:
        place = np.arange(rows.tokens.shape[1])
        step_end = step_end | (place == np.asarray(rows.length)[:, None] - 1)
    columns = (rows.tokens, rows.prompt_length, rows.length, step_end)
    found, flops = [], 0.0
    for start in range(0, len(step_end), ROWS):
        part = [x[start : start + ROWS] for x in columns]
        found.append(np.asarray(worth(trained.params, *part), float))
        flops += count_flops(model.score, trained.params, *part).flops
    return np.concatenate(found), flops
