"""The programs that the stages of an experiment compile, to be looked at before a run.

In: a planned run. Out: for each stage its programs with the shapes and places of their
arguments, made by the builders that the stage itself calls, and what else its devices
hold while they run.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from o1jax.learn.objectives import imitation
from o1jax.learn.policy_objective import PolicyGradient
from o1jax.learn.preference import PreferenceBatch, pair_logprobs
from o1jax.learn.reading import read_responses
from o1jax.learn.update import build_update, jit_update
from o1jax.loop.answer import Answerer
from o1jax.loop.batch_shapes import array, experience, labels, text, tokens_to_imitate
from o1jax.loop.compare import Compare
from o1jax.loop.contrast import Prefer
from o1jax.loop.decoding_programs import Program, sampling, searching
from o1jax.loop.episodes import build_sampling
from o1jax.loop.evaluate import Evaluate
from o1jax.loop.experience import Questions
from o1jax.loop.imitate import Imitate
from o1jax.loop.improve import Improve
from o1jax.loop.learners import build_learner
from o1jax.loop.planned import (
    Plan,
    Shapes,
    rows_on,
    state_of,
)
from o1jax.loop.reward_data import examples_of
from o1jax.loop.reward_model import ROWS_AT_ONCE, TrainReward, objective_of
from o1jax.loop.searching import Searcher
from o1jax.loop.traces import CHUNK, TraceConfig
from o1jax.rollout.sampling import SamplingConfig, sampling_logprobs

LOOKED_AT = 64  # questions that tell how long prompts are


class NotCovered(ValueError):
    """A stage whose programs are not known here; the message says why."""


def programs(run: Plan) -> Iterator[Program | NotCovered]:
    """Of all stages, in order, each kind and shape once; and what is left out."""
    makers: dict[type, Callable[..., Iterator[Program]]] = {
        Imitate: _imitate,
        TrainReward: _train_reward,
        Improve: _improve,
        Evaluate: _evaluate,
        Compare: _compare,
    }
    seen: set[Any] = set()
    for index, stage in enumerate(run.experiment.stages):
        try:
            for program in makers[type(stage)](run, index, stage):
                leaves = jax.tree.leaves(program.arguments)
                shapes = tuple((x.shape, str(x.dtype), str(x.sharding)) for x in leaves)
                # Samplers of the same shapes differ in their temperature only.
                learns = program.name in ("update", "held-out loss")
                kind = program.label if learns else program.name
                if (kind, shapes) not in seen:
                    seen.add((kind, shapes))
                    yield program
        except NotCovered as what:
            yield what


def _imitate(run: Plan, index: int, config: Imitate) -> Iterator[Program]:
    params = run.current_params()
    state, optimizer = state_of(params, run.mesh, config.optimizer, config.steps)
    objective = imitation(run.policy)
    update = build_update(objective, optimizer, microbatches=config.microbatches)
    shape = (config.batch.rows, config.batch.length)
    batch = rows_on(run.mesh, tokens_to_imitate(*shape))
    yield Program(
        config.name, "update", jit_update(update, state), (state, batch), run.mesh
    )
    held = {"train state": state}
    if (task := run.task(config)) is None:
        fn = jax.jit(objective.total)
        yield Program(
            config.name,
            "held-out loss",
            fn,
            (params, batch),
            run.mesh,
            {"moments": state.opt_state},
            main=False,
        )
        return
    examples = _examples(run, task, "valid", config.probe.problems)
    point = SamplingConfig(temperature=0.0)
    probe = Answerer(run, examples, point, chunk=config.probe.problems)
    yield from sampling(run, config.name, probe, held, main=False)


def _improve(run: Plan, index: int, config: Improve) -> Iterator[Program]:
    if config.lora is not None:
        raise NotCovered(f"stage {config.name!r}: adapters (lora) are not checked yet")
    task, first = run.task(config), run.first_params(index)
    own = config.critic == "own"
    params = {"policy": first, "critic": first} if own else first
    state, optimizer = state_of(
        params,
        run.mesh,
        config.optimizer,
        config.updates_a_round * config.rounds,
        first=1,
    )
    held = {"train state": state, "reference": first}
    questions = Questions(run, index, task)
    draws = build_sampling(run, questions, task, config)
    if reward := config.payment.reward:
        model, weights = run.reward_model(reward)
        held["reward model"] = weights.params
    if config.search is not None:
        examples, _ = questions.take(0, config.questions)
        search = Searcher(run, examples, task, config.search, graded=False)
        yield from searching(run, config.name, search, held)
        width = search.width
    else:
        yield from sampling(run, config.name, draws.answer, held)
        width = draws.width
    rows = config.rows_a_round
    if reward:
        ends = array(rows, width, dtype=jnp.bool_)
        yield Program(
            config.name,
            f"score by {reward}",
            jax.jit(model.score),
            (weights.params, *rows_on(run.mesh, (*text(rows, width), ends))),
            run.mesh,
            _without(held, "reward model"),
        )
    if config.search is None:
        yield from _reading(run, config, state, held, width)
    learner = build_learner(run, config, first, width)
    batch = _batch_of(run, config, learner, rows // config.minibatches, width)
    batch = rows_on(run.mesh, batch)
    update = build_update(
        learner.objective, optimizer, microbatches=config.microbatches
    )
    yield Program(
        config.name,
        "update",
        jit_update(update, state),
        (state, batch),
        run.mesh,
        _without(held, "train state"),
    )


def _reading(
    run: Plan, config: Improve, state: Any, held: Mapping[str, Shapes], width: int
) -> Iterator[Program]:
    """What reference and critic say of the responses of a round."""
    distribution = partial(sampling_logprobs, config=config.sampling)
    read = partial(read_responses, run.policy, distribution=distribution)
    value = partial(read, critic=run.policy)
    rows = config.rows_a_round
    part = rows // (config.minibatches * config.microbatches)
    part = rows if part % run.shards else part
    rows = rows_on(run.mesh, text(part, width))
    yield Program(
        config.name,
        "reference",
        jax.jit(lambda *x: read(*x).logprob),
        (held["reference"], *rows),
        run.mesh,
        _without(held, "reference"),
    )
    if config.critic == "own":
        moments = {"moments": state.opt_state, **_without(held, "train state")}
        yield Program(
            config.name,
            "critic",
            jax.jit(lambda *x: value(*x).value),
            (state.params, *rows),
            run.mesh,
            moments,
        )


def _train_reward(run: Plan, index: int, config: TrainReward) -> Iterator[Program]:
    """Samples or searches for what it labels, trains, and judges."""
    task, policy = run.task(config), run.current_params()
    model = run.build_reward_model(config)
    params = run.reward_params(model)
    held = {"policy": policy}
    if config.learns == "steps" and config.labels.source == "tree":
        count = min(config.traces.problems, 1024)
        examples = examples_of(run, task, "train", count)
        search = Searcher(run, examples, task, config.labels.search, graded=False)
        yield from searching(run, config.name, search, held)
        width = search.width
    elif config.labels.source in ("oracle", "tree") or config.learns != "steps":
        answer = _traces(run, task, config.traces)
        yield from sampling(run, config.name, answer, held)
        width = answer.program.length + run.experiment.sampler.max_new_tokens
    else:
        raise NotCovered(
            f"stage {config.name!r}: labels from continuations ("
            f"{config.labels.source}) are not checked yet"
        )
    if config.learns not in ("steps", "outcome", "pairs"):
        raise NotCovered(f"stage {config.name!r}: {config.learns} is not checked yet")
    state, optimizer = state_of(
        params, run.mesh, config.optimizer, config.steps, model.trainable
    )
    update = build_update(
        objective_of(model, config), optimizer, microbatches=config.microbatches
    )
    batch = rows_on(
        run.mesh, labels(config.rows, width, pairs=config.learns == "pairs")
    )
    yield Program(
        config.name, "update", jit_update(update, state), (state, batch), run.mesh, held
    )
    ends = array(ROWS_AT_ONCE, width, dtype=jnp.bool_)
    judged = rows_on(run.mesh, (*text(ROWS_AT_ONCE, width), ends))
    yield Program(
        config.name,
        "judge",
        jax.jit(model.score),
        (params, *judged),
        run.mesh,
        held | {"moments": state.opt_state},
        main=False,
    )


def _evaluate(run: Plan, index: int, config: Evaluate) -> Iterator[Program]:
    task = run.task(config)
    examples = _examples(run, task, config.split, config.problems)
    held = {"policy": run.current_params()}
    chunk = min(config.requests, config.problems * config.samples)
    answer = Answerer(run, examples, config.sampling, chunk=chunk)
    yield from sampling(run, config.name, answer, held)
    point = SamplingConfig(temperature=0.0)
    greedy = Answerer(run, examples, point, chunk=config.problems)
    yield from sampling(run, config.name, greedy, held, main=False)


def _compare(run: Plan, index: int, config: Compare) -> Iterator[Program]:
    """Each method at its largest budget, and as variants at the others."""
    task = run.task(config)
    examples = _examples(run, task, config.split, config.problems)
    held = {"policy": run.current_params()}
    for method in config.methods:
        for budget in reversed(config.budgets):
            search = Searcher(run, examples, task, replace(method, budget=budget))
            largest = budget == max(config.budgets)
            yield from searching(run, config.name, search, held, main=largest)


def _traces(run: Plan, task: Any, config: TraceConfig) -> Answerer:
    examples = examples_of(run, task, "train", min(config.problems, LOOKED_AT))
    chunk = min(CHUNK, config.problems * config.samples)
    return Answerer(run, examples, config.sampling, chunk=chunk)


def _examples(run: Plan, task: Any, split: str, problems: int) -> list:
    seed = run.experiment.seed
    return [task.example(seed, split, i) for i in range(problems)]


def _without(held: Mapping[str, Shapes], name: str) -> dict[str, Shapes]:
    return {k: v for k, v in held.items() if k != name}


def _batch_of(run: Plan, config: Improve, learner: Any, rows: int, width: int) -> Any:
    """What an update reads."""
    if isinstance(config.learner, PolicyGradient):
        return experience(rows, width)
    more = lambda x: array(rows, *x.shape[1:], dtype=x.dtype)
    batch = jax.tree.map(more, learner.blank)
    if isinstance(config.learner, Prefer):
        params = jax.eval_shape(run.policy.init, run.key)
        said = jax.eval_shape(partial(pair_logprobs, run.policy), params, batch)
        return PreferenceBatch(pairs=batch, ref_logprob=said)
    return batch
