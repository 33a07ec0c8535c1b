"""The programs of a stage that trains a reward model, to be looked at before a run.

In: a planned run and a TrainReward config, or an Improve config whose reward model goes
on learning. Out: its programs, as programs.py says: what makes traces and labels, the
updates, and what judges the model.
"""

import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from o1jax.learn.objectives import Objective
from o1jax.learn.update import build_update, jit_update
from o1jax.loop.answer import Answerer
from o1jax.loop.batch_shapes import (
    array,
    demonstrations,
    goals,
    labels,
    read_rows,
    text,
)
from o1jax.loop.decoding_programs import (
    NotCovered,
    Program,
    labelling,
    sampling,
    searching,
)
from o1jax.loop.goal_data import goal_ids
from o1jax.loop.labelling import CHUNK as TRACES_AT_ONCE
from o1jax.loop.labelling import Labels
from o1jax.loop.planned import Plan, Shapes, rows_on, state_of
from o1jax.loop.read_once import together
from o1jax.loop.reward_data import examples_of
from o1jax.loop.reward_model import (
    ROWS_AT_ONCE,
    TrainReward,
    objective_of,
    objective_once,
    reads_rows_once,
)
from o1jax.loop.rollouts import Programs
from o1jax.loop.searching import Searcher
from o1jax.loop.traces import CHUNK, TraceConfig
from o1jax.reward.frozen import step_reader
from o1jax.reward.goals import goal_objective
from o1jax.reward.implicit import response_logprob
from o1jax.reward.labels import GROUP
from o1jax.reward.model import RewardModel
from o1jax.types import Params

LOOKED_AT = 64  # questions that tell how long prompts are, and how many steps there are


def train_reward(run: Plan, index: int, config: TrainReward) -> Iterator[Program]:
    """Samples or searches for what it labels, trains, and judges."""
    task, policy = run.task(config), run.current_params()
    model = run.build_reward_model(config)
    params = run.reward_params(model)
    held: dict[str, Shapes] = {"policy": policy}
    if config.solutions is not None:
        raise NotCovered(
            f"stage {config.name!r}: how long marked solutions are is not looked up"
        )
    if config.learns == "steps" and config.labels.source == "tree":
        count = min(config.traces.problems, 1024)
        examples = examples_of(run, task, "train", count)
        search = Searcher(run, examples, task, config.labels.search, graded=False)
        yield from searching(run, config.name, search, held)
        width = search.width
    elif config.learns != "pairs" or not config.pairs_file:
        answer = _traces(run, task, config.traces)
        yield from sampling(run, config.name, answer, held)
        width = answer.program.length + run.experiment.sampler.max_new_tokens
    else:
        raise NotCovered(
            f"stage {config.name!r}: how long the pairs of {config.pairs_file} are is "
            "not looked up"
        )
    if config.learns in ("steps", "goals"):
        yield from _rollouts(run, config.name, task, config.labels, width, held)
    if config.learns == "demonstrations":
        both = rows_on(run.mesh, text(config.traces.problems, width))
        fn = jax.jit(partial(response_logprob, run.policy))
        yield Program(config.name, "log-probs", fn, (policy, *both), run.mesh)
    learned = params
    if reads_rows_once(config):
        learned = {"readout": params["readout"]}
    state, optimizer = state_of(
        learned, run.mesh, config.optimizer, config.steps, model.trainable
    )
    objective, batch = _objective(run, model, config), _batch(run, config, task, width)
    if reads_rows_once(config):
        steps = _steps(run, task)
        yield _reading(run, config, held, width, steps)
        objective = objective_once(model, config)
        batch = read_rows(config.rows, steps, run.policy_config.width)
    update = build_update(objective, optimizer, microbatches=config.microbatches)
    batch = rows_on(run.mesh, batch)
    yield Program(
        config.name, "update", jit_update(update, state), (state, batch), run.mesh, held
    )
    if not reads_rows_once(config):
        yield _judge(run, config, model, params, state, held, width)


def _reading(
    run: Plan, config: TrainReward, held: Mapping[str, Shapes], width: int, steps: int
) -> Program:
    """What reads the texts once, those that are learned from and those of the judge."""
    size = run.policy_config
    rows = together(width, size.vocab, run.shards, config.traces.problems)
    ends = array(rows, width, dtype=jnp.bool_)
    given = rows_on(run.mesh, (*text(rows, width), ends, array(rows, steps)))
    params = run.current_params()
    fn = jax.jit(step_reader(size))
    others = {name: x for name, x in held.items() if name != "policy"}
    return Program(config.name, "read", fn, (params, *given), run.mesh, others)


def learn_on(
    run: Plan, config: Any, held: Mapping[str, Shapes], width: int
) -> Iterator[Program]:
    """A reward model that learns on in a stage of improvement (Payment.refresh)."""
    payment, task = config.payment, run.task(config)
    (stage,) = (s for s in run.experiment.stages if s.name == payment.reward)
    model, weights = run.reward_model(payment.reward)
    if stage.learns == "steps":
        of = stage.labels
        yield from _rollouts(run, config.name, task, of, width, held)
    state, optimizer = state_of(
        weights.params, run.mesh, stage.optimizer, config.rounds, model.trainable
    )
    update = build_update(
        objective_of(model, stage), optimizer, microbatches=stage.microbatches
    )
    batch = rows_on(run.mesh, labels(stage.rows, width))
    others = {name: x for name, x in held.items() if name != "reward model"}
    yield Program(
        config.name,
        f"update of {payment.reward}",
        jit_update(update, state),
        (state, batch),
        run.mesh,
        others,
    )


def _objective(run: Plan, model: RewardModel, config: TrainReward) -> Objective:
    if config.learns != "goals":
        return objective_of(model, config)
    ids = goal_ids(run, config)
    return Objective(*goal_objective(model, ids, goal_weight=config.goal_weight))


def _batch(run: Plan, config: TrainReward, task: Any, width: int) -> Any:
    if config.learns == "goals":
        return goals(config.rows, width, len(task.goals), _steps(run, task))
    if config.learns == "demonstrations":
        return demonstrations(config.rows, width)
    return labels(config.rows, width, pairs=config.learns == "pairs")


def _judge(
    run: Plan,
    config: TrainReward,
    model: RewardModel,
    params: Params,
    state: Any,
    held: Mapping[str, Shapes],
    width: int,
) -> Program:
    ends = array(ROWS_AT_ONCE, width, dtype=jnp.bool_)
    judged = rows_on(run.mesh, (*text(ROWS_AT_ONCE, width), ends))
    return Program(
        config.name,
        "judge",
        jax.jit(model.score),
        (params, *judged),
        run.mesh,
        {**held, "moments": state.opt_state},
        main=False,
    )


def _rollouts(
    run: Plan,
    stage: str,
    task: Any,
    config: Labels,
    width: int,
    held: Mapping[str, Shapes],
) -> Iterator[Program]:
    """Continuations, of every step or in search of the first error."""
    if config.source not in ("rollouts", "binary"):
        return
    steps = _steps(run, task)
    asked = steps, config.rollouts
    if config.source == "binary":
        asked = 1, min(GROUP, config.rollouts)
    made = Programs(run, config.sampling, width)
    rows = -(-TRACES_AT_ONCE // made.layout.shards) * made.layout.shards
    yield from labelling(run, stage, made, (rows, width, steps), asked, held)


def _steps(run: Plan, task: Any) -> int:
    """The most steps that a trace is taken to have: the next power of two above those
    of worked solutions, since the policy may take detours."""
    examples = examples_of(run, task, "train", LOOKED_AT)
    return 1 << math.ceil(math.log2(1 + max(len(e.steps) for e in examples)))


def _traces(run: Plan, task: Any, config: TraceConfig) -> Answerer:
    examples = examples_of(run, task, "train", min(config.problems, LOOKED_AT))
    chunk = min(CHUNK, config.problems * config.samples)
    return Answerer(run, examples, config.sampling, chunk=chunk)
