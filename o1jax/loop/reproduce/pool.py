"""Graded samples of each problem, among which selectors choose.

In: parameters and problems. Out: a Pool. The arms of a claim choose among the very same
samples: the pool that was drawn last is kept, so that they do not draw it again.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from o1jax.loop.answer import Answerer
from o1jax.loop.workdir import Workdir
from o1jax.rollout.sampling import SamplingConfig
from o1jax.tasks.task import Example
from o1jax.types import Params, Trajectory

CHUNK = 2048  # requests of a call of the sampler


class Pool(NamedTuple):
    """N samples of each of P problems; numpy."""

    rows: Trajectory  # [P * N, ...]  samples of a problem in a row
    right: np.ndarray  # f64[P, N]  1 or 0
    votes: list[list[str | None]]  # [P][N]  the answer; None: none was given
    likelihood: np.ndarray  # f64[P, N]  log-prob of the response
    tokens: np.ndarray  # f64[P]  generated for a problem
    flops: np.ndarray  # f64[P]  the sampler's, idle rows included, shared by tokens

    @property
    def samples(self) -> int:
        return self.right.shape[1]


def draw_pool(
    run: Workdir,
    params: Params,
    key: jax.Array,
    examples: Sequence[Example],
    samples: int,
    sampling: SamplingConfig | None = None,
) -> Pool:
    """Samples, and grades by the experiment's task."""
    shape = (len(examples), samples)
    chunk = min(CHUNK, shape[0] * shape[1])
    answer = Answerer(run, examples, sampling or SamplingConfig(), chunk=chunk)
    before = run.ledger.total()["flops"]
    answers = answer(params, key, samples, task=run.experiment.task)
    flops = run.ledger.total()["flops"] - before
    parse = run.experiment.template.parse
    tokens = answers.tokens.sum(1).astype(float)
    return Pool(
        rows=answers.rows,
        right=(answers.grades >= 1).astype(float),
        votes=[[parse(text)[1] or None for text in texts] for texts in answers.texts],
        likelihood=np.asarray(answers.rows.logprob, float).sum(1).reshape(shape),
        tokens=tokens,
        flops=flops * tokens / tokens.sum(),
    )


def shared_pool(
    run: Workdir, key: jax.Array, examples: Sequence[Example], samples: int
) -> Pool:
    """`draw_pool` with the run's own parameters, or what it gave the last time."""
    words = tuple(jax.random.key_data(key).ravel().tolist())
    return _kept(run, words, tuple(examples), samples)


@functools.lru_cache(maxsize=1)
def _kept(
    run: Workdir, words: tuple[int, ...], examples: tuple[Example, ...], samples: int
) -> Pool:
    key = jax.random.wrap_key_data(np.array(words, np.uint32))
    return draw_pool(run, run.current_params(), key, examples, samples)


def powers(samples: int) -> tuple[int, ...]:
    """1, 2, 4 ... up to the number of samples."""
    return tuple(2**i for i in range(24) if 2**i <= samples)
