"""The networks of a stage of improvement, and what is compiled for them.

In: the run, an Improve config, its objective and the first policy. Out: the train state
(policy, or policy and critic), and the booked functions that update and read it. The
first policy is copied: it stays the reference.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from o1jax.learn.objectives import Objective
from o1jax.learn.optimizer import build_optimizer
from o1jax.learn.reading import read_responses
from o1jax.learn.state import new_state
from o1jax.learn.update import build_update, jit_update
from o1jax.loop.booked import Booked
from o1jax.loop.workdir import Workdir
from o1jax.parallel.mesh import put_batch
from o1jax.parallel.sharding import TRANSFORMER_RULES
from o1jax.rollout.sampling import sampling_logprobs
from o1jax.types import Params, TrainState


class Networks(NamedTuple):
    """Functions of (params, tokens, prompt_length, length), and the first state."""

    state: TrainState  # params is {"policy", "critic"} with a critic of its own
    update: Booked
    reference: Booked  # -> log-probs f32[B, T]
    critic: Booked  # -> values f32[B, T]


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
    params = jax.tree.map(jnp.copy, first)
    if config.critic == "own":  # a copy of the policy that learns to foretell
        params = {"policy": params, "critic": jax.tree.map(jnp.copy, first)}
    state = new_state(params, optimizer, key, mesh=run.mesh, rules=TRANSFORMER_RULES)
    update = build_update(objective, optimizer, microbatches=config.microbatches)
    read = partial(
        read_responses,
        run.policy,
        distribution=partial(sampling_logprobs, config=config.sampling),
    )
    value = partial(read, critic=run.policy)
    return Networks(
        state,
        Booked(run, "train", update, jit_update(update, state)),
        Booked(run, "reference", lambda *x: read(*x).logprob),
        Booked(run, "critic", lambda *x: value(*x).value),
    )


def in_parts(
    run: Workdir, fn: Booked, params: Params, text: tuple[np.ndarray, ...], parts: int
) -> np.ndarray:
    """fn of rows [R, ...], in so many parts, which memory may need; f32[R, T]."""
    count = len(text[0])
    part = count // parts
    if count % parts or part % run.shards:
        part = count
    found = []
    for start in range(0, count, part):
        rows = tuple(x[start : start + part] for x in text)
        out = fn(params, *put_batch(run.mesh, rows), tokens=rows[0].size)
        found.append(np.asarray(out))
    return np.concatenate(found)


@jax.jit
def norm(params: Params) -> jax.Array:
    """f32[]: no number as soon as one of the parameters is none."""
    squares = [jnp.sum(x.astype(jnp.float32) ** 2) for x in jax.tree.leaves(params)]
    return jnp.sqrt(sum(squares))
