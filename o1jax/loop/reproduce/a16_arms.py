"""The arms of A16: a target decoded alone and with a draft, in turns.

In: the target of a seed. Out: its answers with the draft, how the draft fared, and
seconds: of both samplers, and of single calls, which the analytic speed-up is made of.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from o1jax.config import check_workdir, load
from o1jax.data.batches import prompts
from o1jax.loop.answer import request_keys, responses
from o1jax.loop.drafts import Drafted, draft_of, sampler_with, take_layers
from o1jax.loop.ledger import count_flops
from o1jax.loop.reproduce.claim import Predictions
from o1jax.loop.run import run as run_experiment
from o1jax.loop.workdir import Workdir
from o1jax.policy.policy import Policy
from o1jax.rollout.cached import contexts_of
from o1jax.rollout.decode import Draft, SamplerConfig
from o1jax.rollout.requests import empty_start
from o1jax.rollout.sampling import SamplingConfig, draw, sampling_logprobs
from o1jax.tasks.task import Example
from o1jax.types import Params

GREEDY = "greedy"
REPEATS = 5  # of each timing, in turns
CALLS = 64  # in one program that is timed


@dataclass(frozen=True)
class Speculate:
    """`tokens` proposed by the same experiment at another size, or by first layers."""

    tokens: int
    draft: tuple[str, ...] = ()  # overrides of the experiment
    layers: int = 0
    sampling: SamplingConfig = field(default_factory=SamplingConfig)


def speculate(
    run: Workdir,
    params: Params,
    key: jax.Array,
    examples: Sequence[Example],
    method: Speculate,
) -> Predictions:
    """One row answers all problems, alone and with the draft."""
    folder = "" if method.layers else str(draft_folder(run, method.draft))
    config = replace(
        run.experiment.sampler,
        rows=1,
        stop_ids=(run.tokenizer.eos_id,),
        sampling=method.sampling,
        draft=Draft(tokens=method.tokens, layers=method.layers, workdir=folder),
    )
    draft = draft_of(run, config.draft)
    shape = {"length": _longest(run, examples), "rows": len(examples)}
    queue = prompts(examples, run.tokenizer, run.experiment.template, **shape)
    keys = request_keys(key, jnp.arange(len(examples)))
    pair = draft.beside(params)

    def program(own: SamplerConfig, draft: Drafted | None) -> Callable[[], Any]:
        given = params if draft is None else pair
        return partial(jax.jit(sampler_with(run, own, draft)), given, keys, queue)

    alone, spoken = program(config, None), program(config, draft)
    one = replace(config, max_new_tokens=1)  # it comes with the prompt
    plain, _ = alone()
    found, stats = spoken()
    prompt_alone, prompt = program(one, None), program(one, draft)
    prompt_alone(), prompt()
    timed = in_turns(alone, spoken, prompt_alone, prompt)
    plain_times, times, plain_prompt, prompt_times = timed
    rows = jax.device_get(found)
    length = rows.length - rows.prompt_length
    said = jax.device_get(stats.draft)
    flops = _flops(run, draft, stats, shape["length"])
    costs = _costs(run, draft, params, config.sampling, method.tokens, shape["length"])
    texts, task = responses(rows, run.tokenizer), run.experiment.task
    grades = [task.grade(e, text) for e, text in zip(examples, texts)]
    return Predictions(
        right=(np.array(grades) >= 1).astype(int),
        samples=np.ones(len(examples), int),
        tokens=length.astype(float),
        flops=flops * length / length.sum(),
        facts={
            "tested": int(said.tested),
            "accepted": int(said.accepted),
            "calls": int(said.calls),
            # The first token of an answer comes with its prompt.
            "emitted": int(length.sum()) - len(examples),
            "same": bool((rows.tokens == np.asarray(plain.tokens)).all()),
            "logprob_shift": float(rows.logprob.sum() - np.sum(plain.logprob))
            / len(examples),
            "plain_seconds": plain_times[0],
            "plain_processor": plain_times[1],
            "seconds": times[0],
            "processor": times[1],
            "plain_prompts": plain_prompt[1],
            "prompts": prompt_times[1],
            **costs,
        },
    )


def draft_folder(run: Workdir, overrides: tuple[str, ...]) -> Any:
    """Where the draft is: beside the target, trained now if it was not before."""
    from o1jax.loop.reproduce.runner import EXPERIMENTS

    seed = f"Experiment.seed={run.experiment.seed}"
    loaded = load(EXPERIMENTS / "claims/speculative.gin", [*overrides, seed])
    folder = run.path.parent / loaded.fingerprint()
    check_workdir(loaded, folder)
    if not (folder / "results.json").exists():
        run_experiment(loaded, folder)
    return folder


def _longest(run: Workdir, examples: Sequence[Example]) -> int:
    encode = run.experiment.template.encode_prompt
    return max(len(encode(run.tokenizer, e.question)) for e in examples)


def in_turns(*programs: Callable[[], Any]) -> list[tuple[float, float]]:
    """Median seconds of each, by the clock and of processor time; they take turns."""
    times: list[list[tuple[float, float]]] = [[] for _ in programs]
    for _ in range(REPEATS):
        for program, known in zip(programs, times):
            clock, processor = time.perf_counter(), time.process_time()
            jax.block_until_ready(program())
            known.append((time.perf_counter() - clock, time.process_time() - processor))
    return [tuple(float(x) for x in np.median(known, axis=0)) for known in times]


def _costs(
    run: Workdir,
    draft: Drafted,
    params: Params,
    sampling: SamplingConfig,
    proposed: int,
    length: int,
) -> dict[str, float]:
    """Processor seconds of a step of either policy, and of reading g + 1 tokens."""
    own = run.policy.unstack(params)
    other = draft.params
    if other is None:
        other = take_layers(own, draft.layers)
    other = draft.policy.unstack(other)
    capacity = length + run.experiment.sampler.max_new_tokens
    middle = (length + capacity) // 2
    at = {"capacity": capacity, "middle": middle, "sampling": sampling}
    programs = [
        partial(jax.jit(partial(_steps, run.policy, **at)), own),
        partial(jax.jit(partial(_steps, draft.policy, **at)), other),
        partial(jax.jit(partial(_reads, run.policy, count=proposed + 1, **at)), own),
    ]
    for program in programs:
        program()
    times = [processor / CALLS for _, processor in in_turns(*programs)]
    return dict(zip(("step", "draft_step", "verify"), times))


def _steps(
    policy: Policy, params: Params, *, capacity: int, middle: int, sampling: Any
) -> jax.Array:
    """So many steps at the same place; each depends on the one before."""
    _, cache = empty_start(policy, params, 1, capacity=capacity)
    cache = cache.replace(length=jnp.array([middle]))

    def step(_: jax.Array, carry: tuple) -> tuple:
        cache, token = carry
        output, new = policy.step(params, cache, token)
        logprobs = sampling_logprobs(output.logits, sampling)
        new = new.replace(length=cache.length)
        return new, draw(jnp.full(1, 0.5), logprobs, sampling)

    return jax.lax.fori_loop(0, CALLS, step, (cache, jnp.zeros(1, jnp.int32)))[1]


def _reads(
    policy: Policy,
    params: Params,
    *,
    count: int,
    capacity: int,
    middle: int,
    sampling: Any,
) -> jax.Array:
    """So many readings of `count` tokens at the same place."""
    _, cache = empty_start(policy, params, 1, capacity=capacity)
    held = jnp.array([middle])
    number = jnp.arange(count)[None]

    def read(_: jax.Array, token: jax.Array) -> jax.Array:
        tokens = jnp.broadcast_to(token[:, None], (1, count))
        contexts = contexts_of(cache, held)
        output, *_ = policy.extend(params, tokens, middle + number, contexts, at=number)
        logprobs = sampling_logprobs(output.logits[:, -1], sampling)
        return draw(jnp.full(1, 0.5), logprobs, sampling)

    return jax.lax.fori_loop(0, CALLS, read, jnp.zeros(1, jnp.int32))


def _flops(run: Workdir, draft: Drafted, stats: Any, length: int) -> float:
    """Of all that was computed."""
    capacity = length + run.experiment.sampler.max_new_tokens
    total = 0.0
    for policy, steps in (
        (run.policy, int(stats.computed)),
        (draft.policy, int(stats.draft.steps)),
    ):
        shapes = jax.eval_shape(policy.init, run.key)
        prompt = jax.ShapeDtypeStruct((1, length), jnp.int32)
        row = jax.ShapeDtypeStruct((1,), jnp.int32)
        start = partial(policy.start, capacity=capacity)
        _, cache = jax.eval_shape(start, shapes, prompt, row)
        total += steps * count_flops(policy.step, shapes, cache, row).flops
        read = int(stats.prefill) / length
        total += read * count_flops(start, shapes, prompt, row).flops
    return total
