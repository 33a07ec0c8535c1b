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
from o1jax.learn.reading import read_divergence, read_responses
from o1jax.learn.update import build_update, jit_update
from o1jax.loop.answer import Answerer
from o1jax.loop.batch_shapes import array, experience, text, tokens_to_imitate
from o1jax.loop.compare import Compare
from o1jax.loop.contrast import Prefer
from o1jax.loop.decoding_programs import NotCovered, Program, sampling, searching
from o1jax.loop.episodes import build_sampling
from o1jax.loop.evaluate import Evaluate
from o1jax.loop.experience import Questions
from o1jax.loop.imitate import Imitate
from o1jax.loop.improve import Improve
from o1jax.loop.learners import build_learner
from o1jax.loop.networks import learning_policy, of_adapters, with_base
from o1jax.loop.planned import Plan, Shapes, rows_on, state_of
from o1jax.loop.pretrained import Pretrained
from o1jax.loop.reward_model import TrainReward
from o1jax.loop.reward_programs import learn_on, train_reward
from o1jax.loop.searching import Searcher
from o1jax.policy.lora import adapters, merge
from o1jax.rollout.sampling import SamplingConfig, sampling_logprobs
from o1jax.types import TrainState


def programs(run: Plan) -> Iterator[Program | NotCovered]:
    """Of all stages, in order, each kind and shape once; and what is left out."""
    makers: dict[type, Callable[..., Iterator[Program]]] = {
        Pretrained: lambda *_: iter(()),  # it reads a file
        Imitate: _imitate,
        TrainReward: train_reward,
        Improve: _improve,
        Evaluate: _evaluate,
        Compare: _compare,
    }
    seen: set[Any] = set()
    for index, stage in enumerate(run.experiment.stages):
        kind = type(stage)
        if kind not in makers:
            yield NotCovered(
                f"stage {stage.name!r}: {kind.__name__} is not checked yet"
            )
            continue
        try:
            for program in makers[kind](run, index, stage):
                leaves = jax.tree.leaves(program.arguments)
                shapes = tuple((x.shape, str(x.dtype), str(x.sharding)) for x in leaves)
                # Samplers of the same shapes differ in their temperature only.
                learns = program.name in ("update", "held-out loss")
                name = program.label if learns else program.name
                if (name, shapes) not in seen:
                    seen.add((name, shapes))
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
    task, first = run.task(config), run.first_params(index)
    lora = config.lora
    params, frozen = first, ()
    if lora is not None:
        draw = lambda own: jax.eval_shape(partial(adapters, config=own), first, run.key)
        params, frozen = {"lora": draw(lora)}, (first,)
    if config.critic == "own":
        critic = params if lora is None else {"lora": draw(replace(lora, value=True))}
        params = {"policy": params, "critic": critic}
    state, optimizer = state_of(
        params,
        run.mesh,
        config.optimizer,
        config.updates_a_round * config.rounds,
        first=1,
    )
    held = {"train state": state, "reference": first}
    if lora is not None:
        yield _merge(run, config, state, first)
        held["policy"] = first
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
    else:
        yield _divergence(run, config, state, held, width)
    held.pop("policy", None)
    learner = build_learner(run, config, first, width)
    batch = _batch_of(run, config, learner, rows // config.minibatches, width)
    batch = rows_on(run.mesh, batch)
    if isinstance(config.learner, Prefer):
        yield Program(
            config.name,
            "reference of pairs",
            jax.jit(partial(pair_logprobs, run.policy)),
            (first, batch.pairs),
            run.mesh,
            _without(held, "reference"),
        )
    objective = learner.objective if lora is None else of_adapters(learner.objective)
    update = build_update(objective, optimizer, microbatches=config.microbatches)
    others = _without(held, "train state")
    yield Program(
        config.name,
        "update",
        jit_update(update, state),
        (state, batch, *frozen),
        run.mesh,
        _without(others, "reference") if frozen else others,
    )
    if config.payment.refresh_every:
        yield from learn_on(run, config, held, width)


def _merge(run: Plan, config: Improve, state: TrainState, first: Shapes) -> Program:
    """A policy of its own of the adapters and what they adapt."""
    own = state.params["policy"] if config.critic == "own" else state.params
    stay = jax.tree.map(lambda x: x.sharding, first)
    merged = jax.jit(partial(merge, config=config.lora), out_shardings=stay)
    moments = {"moments": state.opt_state}
    arguments = (with_base(first, own),)
    return Program(config.name, "merge adapters", merged, arguments, run.mesh, moments)


def _divergence(
    run: Plan,
    config: Improve,
    state: TrainState,
    held: Mapping[str, Shapes],
    width: int,
) -> Program:
    """How far the policy has strayed on the answers of its trees."""
    rows = rows_on(run.mesh, text(_part(run, config), width))
    fn = jax.jit(lambda of, *x: read_divergence(run.policy, *of, *x))
    first = held["reference"]
    others = {"moments": state.opt_state} | _without(held, "train state", "reference")
    return Program(
        config.name, "divergence", fn, ((first, first), *rows), run.mesh, others
    )


def _part(run: Plan, config: Improve) -> int:
    """Rows that are read at once, as networks.in_parts has it."""
    rows = config.rows_a_round
    part = rows // (config.minibatches * config.microbatches)
    return rows if part % run.shards else part


def _reading(
    run: Plan, config: Improve, state: Any, held: Mapping[str, Shapes], width: int
) -> Iterator[Program]:
    """What reference and critic say of the responses of a round."""
    distribution = partial(sampling_logprobs, config=config.sampling)
    policy = learning_policy(run, config)
    read = partial(read_responses, policy, distribution=distribution)
    value = partial(read, critic=policy)
    rows = rows_on(run.mesh, text(_part(run, config), width))
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
        params = state.params
        if config.lora is not None:
            params = with_base(moments.pop("reference"), params)
        yield Program(
            config.name,
            "critic",
            jax.jit(lambda *x: value(*x).value),
            (params, *rows),
            run.mesh,
            moments,
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


def _examples(run: Plan, task: Any, split: str, problems: int) -> list:
    seed = run.experiment.seed
    return [task.example(seed, split, i) for i in range(problems)]


def _without(held: Mapping[str, Shapes], *names: str) -> dict[str, Shapes]:
    return {k: v for k, v in held.items() if k not in names}


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
