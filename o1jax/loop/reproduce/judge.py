"""The arm in which a reward model of the run judges the steps of the policy's answers.

In: which model, and how the answers are drawn. Out: their grades and, as facts, how
well the model ranks right steps above wrong ones by the exact oracle.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import jax
import numpy as np

from o1jax.loop.reproduce.claim import Predictions
from o1jax.loop.traces import TraceConfig, sample_traces, up_to_first_error
from o1jax.loop.workdir import Workdir
from o1jax.reward.metrics import step_auc
from o1jax.rollout.sampling import SamplingConfig
from o1jax.tasks.task import Example
from o1jax.types import Params

FEWEST = 100  # steps that an AUC is taken over


@dataclass(frozen=True)
class JudgeSteps:
    """`samples` answers to each problem, judged by the stage `reward`."""

    reward: str
    samples: int = 8
    sampling: SamplingConfig = field(default_factory=SamplingConfig)


def judge_steps(
    run: Workdir,
    params: Params,
    key: jax.Array,
    examples: Sequence[Example],
    method: JudgeSteps,
) -> Predictions:
    """Facts: step AUCs, and `right_j`, the part of the j-th steps that is right.

    auc: over all closed steps; auc_alive: over those up to the first wrong one, and
    auc_1, auc_2 ... over the first, second ... of these, if there are enough.
    """
    config = TraceConfig(len(examples), method.samples, method.sampling)
    task = run.experiment.task
    traces = sample_traces(run, params, key, examples, config, task=task)
    model, weights = run.reward_model(method.reward)
    rows = (traces.tokens, traces.prompt_length, traces.length, traces.step_end)
    scores = np.asarray(jax.jit(model.score)(weights.params, *rows))
    alive = up_to_first_error(traces.step_end, traces.verdict)
    number = np.cumsum(traces.step_end, axis=1)
    auc = lambda which: step_auc(scores[which], traces.verdict[which])
    facts = {"auc": auc(traces.step_end), "auc_alive": auc(alive)}
    for j in range(1, int(number.max()) + 1):
        which = alive & (number == j)
        if which.sum() >= FEWEST:
            facts[f"auc_{j}"] = auc(which)
            facts[f"right_{j}"] = float(traces.verdict[which].mean())
    per_problem = lambda x: x.reshape(len(examples), method.samples)
    tokens = per_problem(traces.length - traces.prompt_length).sum(axis=1)
    return Predictions(
        right=(per_problem(traces.grades) >= 1).sum(axis=1),
        samples=np.full(len(examples), method.samples),
        tokens=tokens.astype(float),
        flops=np.zeros(len(examples)),  # not counted: no arm is compared with this one
        facts=facts,
    )
