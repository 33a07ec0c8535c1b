"""A policy trained against a reward model, watched by the task's own grades.

In: a policy and a reward model. Out: the policy after a few steps of policy gradient
and, for every step, the gold reward (the task's grade, which the learner never sees),
the proxy (the reward model's) and the KL divergence from the first policy. The reward
model may be trained anew, now and then, on what the policy has come to write. Gao et
al. 2022, arXiv 2210.10760.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from o1jax.config import configurable
from o1jax.learn.optimizer import OptimizerConfig, build_optimizer
from o1jax.learn.policy_objective import (
    RECIPES,
    build_experience,
    policy_gradient_objective,
)
from o1jax.learn.state import new_state
from o1jax.learn.update import build_update, jit_update
from o1jax.loop.answer import Answerer, responses
from o1jax.loop.ledger import count_flops
from o1jax.loop.reward_data import FRESH
from o1jax.loop.searching import step_end_ids
from o1jax.loop.traces import closing
from o1jax.loop.workdir import Workdir
from o1jax.parallel.sharding import TRANSFORMER_RULES
from o1jax.reward.implicit import response_logprob
from o1jax.reward.outcome import grade
from o1jax.rollout.sampling import SamplingConfig
from o1jax.tasks.task import Example
from o1jax.types import Params

# (params of the reward model, tokens, prompt_length, length, step_end) -> f32[B]
Worth = Callable[..., jax.Array]


@configurable
@dataclass(frozen=True)
class Optimise:
    """How a policy is trained against a reward."""

    steps: int = 100
    questions: int = 32  # of a step
    samples: int = 8  # of a question
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(3e-4, 5, "constant", weight_decay=0.0)
    )
    microbatches: int = 4
    refresh_every: int = (
        0  # steps after which the reward model is trained anew; 0: never
    )

    def __post_init__(self) -> None:
        for name in ("steps", "questions", "microbatches"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        if self.samples < 2:
            raise ValueError("samples must be at least 2: the others are the baseline")
        if self.questions * self.samples % self.microbatches:
            raise ValueError("microbatches must divide questions * samples")
        if self.refresh_every < 0:
            raise ValueError("refresh_every must not be negative")


LEARNER = RECIPES["rloo"]  # one update on each step's samples


class Watched(NamedTuple):
    """What was seen at each step, of its own samples; f64[steps]."""

    gold: np.ndarray
    proxy: np.ndarray
    kl: np.ndarray  # nats a response, from the first policy


def optimise(
    run: Workdir,
    params: Params,
    worth: Worth,
    reward_params: Params,
    config: Optimise,
    key: jax.Array,
    *,
    refresh: Callable[[Params, int], Params] | None = None,
) -> tuple[Params, Watched]:
    """Trains the run's policy, which begins at `params` (a copy is trained).

    refresh: (params of the policy, step) -> params of the reward model, asked every
    `refresh_every` steps.
    """
    asked = [_asked(run, config, step) for step in range(config.steps)]
    everything = [example for some in asked for example in some]
    answer = Answerer(run, everything, SamplingConfig(), chunk=len(asked[0]))
    copy = jax.tree.map(jnp.copy, params)
    optimizer = build_optimizer(config.optimizer, config.steps)
    state = new_state(copy, optimizer, key, mesh=run.mesh, rules=TRANSFORMER_RULES)
    objective = policy_gradient_objective(run.policy, LEARNER)
    update = build_update(objective, optimizer, microbatches=config.microbatches)
    update = jit_update(update, state)
    experience = jax.jit(
        partial(
            build_experience,
            LEARNER,
            samples=config.samples,
            max_tokens=run.experiment.sampler.max_new_tokens,
        )
    )
    reference = jax.jit(lambda *rows: response_logprob(run.policy, params, *rows))
    judge, ends = jax.jit(worth), step_end_ids(run)
    seen, flops = [], 0.0
    for step, examples in enumerate(asked):
        if config.refresh_every and step and step % config.refresh_every == 0:
            reward_params = refresh(state.params, step)
        own = jax.random.fold_in(key, step)
        rows = answer.sample(state.params, own, examples, kind="rollout")
        text = (rows.tokens, rows.prompt_length, rows.length)
        proxy = judge(reward_params, *text, closing(*map(np.asarray, text), ends))
        ratio = jnp.sum(rows.logprob - reference(*text), axis=1)
        last = jnp.arange(rows.tokens.shape[1])[None] == rows.length[:, None] - 1
        batch = experience(rows, jnp.where(last, proxy[:, None], 0.0))
        flops = flops or count_flops(update, state, batch).flops
        state, _ = update(state, batch)
        run.ledger.add("train", tokens=rows.tokens.size, flops=flops)
        gold = grade(run.experiment.task, examples, responses(rows, run.tokenizer))
        seen.append([float(x.mean()) for x in (gold, proxy, ratio)])
    return state.params, Watched(*np.array(seen, np.float64).T)


def _asked(run: Workdir, config: Optimise, step: int) -> list[Example]:
    """The questions of a step, each as often as it is answered; none comes twice."""
    task, seed, first = run.experiment.task, run.experiment.seed, 2 * FRESH
    numbers = range(step * config.questions, (step + 1) * config.questions)
    asked = [task.example(seed, "train", first + i) for i in numbers]
    return [example for example in asked for _ in range(config.samples)]
