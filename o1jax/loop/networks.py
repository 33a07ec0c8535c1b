"""The networks of a stage of improvement, and what is compiled for them.

In: the run, an Improve config and the first policy. Out: the train state (policy, or
policy and critic, or adapters of them), and the booked functions that update and read
it. The first policy stays the reference: it is copied, but for adapters, which are
trained on it as it is.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from o1jax.data.replay import shuffled, size, take
from o1jax.learn.objectives import Batch, Objective, Sums
from o1jax.learn.optimizer import build_optimizer
from o1jax.learn.reading import read_divergence, read_responses
from o1jax.learn.state import new_state
from o1jax.learn.update import build_update, jit_update
from o1jax.loop.booked import Booked
from o1jax.loop.workdir import Workdir
from o1jax.parallel.hosts import fetch
from o1jax.parallel.mesh import put_batch
from o1jax.policy.lora import LORA_RULES, adapters, lora_policy, merge
from o1jax.policy.policy import Policy
from o1jax.rollout.sampling import sampling_logprobs
from o1jax.types import Params, TrainState


class Networks(NamedTuple):
    """The first state, and functions of its parameters.

    reference and critic take (params, tokens, prompt_length, length); the critic's
    params are `whole` ones.
    """

    state: TrainState  # params is {"policy", "critic"} with a critic of its own
    update: Booked  # (state, batch, *frozen)
    frozen: tuple[Params, ...]  # what an update reads beside its state
    reference: Booked  # -> log-probs f32[B, T]
    critic: Booked  # -> values f32[B, T]
    divergence: Booked  # of two plain params in place of one -> nats f32[B]
    whole: Callable[[Params], Params]  # adapters with what they adapt
    plain: Callable[[Params], Params]  # a policy's parameters as the run's policy


def learning_policy(run: Workdir, config: Any) -> Policy:
    """The policy that a stage's objective reads `whole` parameters with."""
    return run.policy if config.lora is None else lora_policy(run.policy, config.lora)


def build_networks(
    run: Workdir,
    config: Any,
    objective: Objective,
    first: Params,
    key: jax.Array,
    *,
    rounds: int,
) -> Networks:
    """rounds: after which the optimizer's schedule is at its end."""
    updates = config.updates_a_round * rounds
    # From step 1 on: a round may have one update only, and the stage few rounds.
    optimizer = build_optimizer(config.optimizer, updates, first=1)
    own, lora = config.critic == "own", config.lora
    plain = whole = lambda params: params
    if lora is None:
        frozen: tuple[Params, ...] = ()
        params = jax.tree.map(jnp.copy, first)
        if own:  # a copy of the policy that learns to foretell
            params = {"policy": params, "critic": jax.tree.map(jnp.copy, first)}
    else:
        frozen, objective = (first,), of_adapters(objective)
        draw = jax.jit(adapters, static_argnums=2)
        params = {"lora": draw(first, key, lora)}
        if own:
            other = jax.random.fold_in(key, 1)
            critic = {"lora": draw(first, other, replace(lora, value=True))}
            params = {"policy": params, "critic": critic}
        whole = partial(with_base, first)
        stay = jax.tree.map(lambda x: x.sharding, first)
        merged = jax.jit(partial(merge, config=lora), out_shardings=stay)
        plain = lambda params: merged(whole(params))
    state = new_state(params, optimizer, key, mesh=run.mesh, rules=LORA_RULES)
    update = build_update(objective, optimizer, microbatches=config.microbatches)
    policy = learning_policy(run, config)
    read = partial(
        read_responses,
        policy,
        distribution=partial(sampling_logprobs, config=config.sampling),
    )
    value = partial(read, critic=policy)
    return Networks(
        state,
        Booked(run, "train", update, jit_update(update, state)),
        frozen,
        Booked(run, "reference", lambda *x: read(*x).logprob),
        Booked(run, "critic", lambda *x: value(*x).value),
        Booked(run, "reference", lambda of, *x: read_divergence(run.policy, *of, *x)),
        whole,
        plain,
    )


def with_base(base: Params, params: Params) -> Params:
    """The adapters of each network beside the one base of them all."""
    if "lora" in params:
        return {"base": base, **params}
    return {name: with_base(base, own) for name, own in params.items()}


def of_adapters(objective: Objective) -> Objective:
    """The objective as a function of the adapters; the base comes last."""

    def total(params: Params, batch: Batch, base: Params) -> tuple[jax.Array, Sums]:
        return objective.total(with_base(base, params), batch)

    return objective._replace(total=total)


def learn(
    run: Workdir,
    config: Any,
    nets: Networks,
    complete: Callable[[Any], Any],
    state: TrainState,
    rows: Any,
    rng: np.random.Generator,
) -> tuple[TrainState, dict[str, float]]:
    """The updates of a round on its rows, and their metrics; without rows none.

    complete: makes of some rows on the device what an update reads.
    """
    if not (rows_found := size(rows)):
        return state, {}
    wanted = config.epochs * config.rows_a_round
    order = shuffled(rows_found, wanted, rng)
    control = getattr(config.learner, "kl", None)
    seen: list[dict[str, jax.Array]] = []
    for at in order.reshape(config.updates_a_round, -1):
        batch = put_batch(run.mesh, take(rows, at))
        tokens = batch.tokens.size
        state, said = nets.update(state, complete(batch), *nets.frozen, tokens=tokens)
        seen.append(said)
        if control and control.stop and control.too_far(float(said["kl_sampler"])):
            break
    said = jax.device_get(seen)
    metrics = {k: float(np.mean([s[k] for s in said])) for k in said[0]}
    if "logprob_gap" in metrics:  # before the first update sampler is trainer
        metrics["logprob_gap"] = float(said[0]["logprob_gap"])
    return state, metrics | {"updates": float(len(seen))}


def in_parts(
    run: Workdir, fn: Booked, params: Any, text: tuple[np.ndarray, ...], parts: int
) -> np.ndarray:
    """fn of rows [R, ...], in so many parts, which memory may need; f32[R, ...]."""
    count = len(text[0])
    part = count // parts
    if count % parts or part % run.shards:
        part = count
    found = []
    for start in range(0, count, part):
        rows = tuple(x[start : start + part] for x in text)
        out = fn(params, *put_batch(run.mesh, rows), tokens=rows[0].size)
        found.append(fetch(out))
    return np.concatenate(found)


def count(params: Params) -> int:
    """How many numbers they are."""
    return sum(x.size for x in jax.tree.leaves(params))


@jax.jit
def norm(params: Params) -> jax.Array:
    """f32[]: no number as soon as one of the parameters is none."""
    squares = [jnp.sum(x.astype(jnp.float32) ** 2) for x in jax.tree.leaves(params)]
    return jnp.sqrt(sum(squares))
