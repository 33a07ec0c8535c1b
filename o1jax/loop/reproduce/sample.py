"""The arm that claims share: independent samples, with no choice among them.

In: a Sample config. Out: how many of the samples were right, which gives pass@k.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import jax
import numpy as np

from o1jax.loop.answer import Answerer
from o1jax.loop.reproduce.claim import Predictions
from o1jax.loop.workdir import Workdir
from o1jax.rollout.sampling import SamplingConfig
from o1jax.tasks.task import Example
from o1jax.types import Params


@dataclass(frozen=True)
class Sample:
    """`samples` responses to each problem."""

    samples: int
    sampling: SamplingConfig = field(default_factory=SamplingConfig)


def sample(
    run: Workdir,
    params: Params,
    key: jax.Array,
    examples: Sequence[Example],
    method: Sample,
) -> Predictions:
    """Samples and grades by the experiment's task.

    The FLOPs of the sampler, idle rows included, are shared out by tokens.
    """
    chunk = min(2048, len(examples) * method.samples)
    answer = Answerer(run, examples, method.sampling, chunk=chunk)
    before = run.ledger.total()["flops"]
    answers = answer(params, key, method.samples, task=run.experiment.task)
    tokens = answers.tokens.sum(1).astype(float)
    flops = run.ledger.total()["flops"] - before
    return Predictions(
        right=(answers.grades >= 1).sum(1),
        samples=np.full(len(examples), method.samples),
        tokens=tokens,
        flops=flops * tokens / tokens.sum(),
    )
