"""Sampled solutions with their steps, and the exact oracle's word on each.

In: parameters and questions. Out: Traces: texts, grades, tokens, where steps end, and
whether the text so far can still become a right answer. What reward models are trained
on and judged by; only the oracle, which makes training and test data, sees answers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import numpy as np

from o1jax.config import configurable
from o1jax.loop.answer import Answerer
from o1jax.loop.searching import step_end_ids
from o1jax.loop.workdir import Workdir
from o1jax.rollout.sampling import SamplingConfig
from o1jax.tasks.task import STEP_END, Example, Task
from o1jax.types import Params

CHUNK = 2048  # requests of a call of the sampler


@configurable
@dataclass(frozen=True)
class TraceConfig:
    """How many questions are asked, how often, and how answers are drawn."""

    problems: int = 2000
    samples: int = 1  # of each question
    sampling: SamplingConfig = field(default_factory=SamplingConfig)

    def __post_init__(self) -> None:
        for name in ("problems", "samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")


class Traces(NamedTuple):
    """R responses; numpy. J steps of a row at most."""

    examples: list[Example]  # [R]
    texts: list[str]  # [R]
    grades: np.ndarray  # f64[R]
    tokens: np.ndarray  # i32[R, T]  prompt then response
    prompt_length: np.ndarray  # i32[R]
    length: np.ndarray  # i32[R]
    logprob: np.ndarray  # f32[R, T]  of the sampling distribution
    finished: np.ndarray  # bool[R]
    step_end: np.ndarray  # bool[R, T]
    verdict: np.ndarray  # f32[R, T]  the oracle's, where step_end; 0 elsewhere

    @property
    def steps(self) -> np.ndarray:
        """i64[R]: closed steps of each row."""
        return self.step_end.sum(axis=1)

    @property
    def ends(self) -> np.ndarray:
        """i32[R, J]: where each row's steps end; -1 behind the last one."""
        return places(self.step_end)

    def rows(self, index: np.ndarray) -> "Traces":
        """Some of the rows."""
        pick = lambda x: [x[i] for i in index] if isinstance(x, list) else x[index]
        return Traces(*map(pick, self))


def sample_traces(
    run: Workdir,
    params: Params,
    key: jax.Array,
    examples: Sequence[Example],
    config: TraceConfig,
    *,
    task: Task,
    kind: str = "rollout",
) -> Traces:
    """`config.samples` responses to each example, booked in the ledger as `kind`."""
    requests = len(examples) * config.samples
    answer = Answerer(run, examples, config.sampling, chunk=min(CHUNK, requests))
    answers = answer(params, key, config.samples, task=task, kind=kind)
    asked = [example for example in examples for _ in range(config.samples)]
    rows = answers.rows
    step_end = closing(rows.tokens, rows.prompt_length, rows.length, step_end_ids(run))
    return Traces(
        examples=asked,
        texts=[text for texts in answers.texts for text in texts],
        grades=answers.grades.ravel(),
        tokens=rows.tokens,
        prompt_length=rows.prompt_length,
        length=rows.length,
        logprob=rows.logprob,
        finished=rows.finished,
        step_end=step_end,
        verdict=verdicts(
            task, asked, rows.tokens, rows.prompt_length, step_end, run.tokenizer.decode
        ),
    )


def closing(
    tokens: np.ndarray,
    prompt_length: np.ndarray,
    length: np.ndarray,
    step_end_ids: Sequence[int],
) -> np.ndarray:
    """bool[R, T]: tokens of the response that close a step."""
    place = np.arange(tokens.shape[1])
    response = (place >= prompt_length[:, None]) & (place < length[:, None])
    return np.isin(tokens, step_end_ids) & response


def places(mask: np.ndarray) -> np.ndarray:
    """i32[R, J]: the places of each row's True, in order; -1 behind the last one."""
    count = mask.sum(axis=1)
    out = np.full((len(mask), int(count.max(initial=0))), -1, np.int32)
    out[np.arange(out.shape[1]) < count[:, None]] = np.nonzero(mask)[1]
    return out


def verdicts(
    task: Task,
    examples: Sequence[Example],
    tokens: np.ndarray,
    prompt_length: np.ndarray,
    step_end: np.ndarray,
    decode: Callable[[list[int]], str],
) -> np.ndarray:
    """f32[R, T]: the best outcome still possible behind each step; 0 off step ends.

    The task's exact state value or, where it has none, its check of the steps.
    """
    out = np.zeros(tokens.shape, np.float32)
    for r, (example, ends) in enumerate(zip(examples, places(step_end), strict=True)):
        begin, steps = int(prompt_length[r]), []
        for end in ends[ends >= 0]:
            steps.append(decode(tokens[r, begin:end].tolist()))
            begin = end + 1
            worth = task.state_value(example, steps)
            if worth is None:
                checks = task.check_steps(
                    example, " ".join(f"{step} {STEP_END}" for step in steps)
                )
                worth = float(len(checks) == len(steps) and checks[-1].correct)
            out[r, end] = worth
            if not worth:
                break  # nothing becomes right behind a wrong step
    return out


def first_error(step_end: np.ndarray, verdict: np.ndarray) -> np.ndarray:
    """i32[R]: the number of the first wrong step of each row, from 0; -1: none."""
    wrong = step_end & (verdict < 0.5)
    number = np.cumsum(step_end, axis=1) - 1
    at = np.argmax(wrong, axis=1)
    found = np.take_along_axis(number, at[:, None], axis=1)[:, 0]
    return np.where(wrong.any(axis=1), found, -1).astype(np.int32)


def up_to_first_error(step_end: np.ndarray, verdict: np.ndarray) -> np.ndarray:
    """bool[R, T]: the step ends that are not behind a wrong step."""
    wrong = (step_end & (verdict < 0.5)).astype(np.int32)
    before = np.cumsum(wrong, axis=1) - wrong
    return step_end & (before == 0)
