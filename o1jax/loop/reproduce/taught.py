"""The arm that claims on training texts share: a policy learns a text, and is tested.

In: the task whose solutions are the text, and stages behind it. Out: graded samples of
the policy that came out, its greedy answers, the same on harder problems, and what its
texts show. The run's first stage has taught the control's text; an arm's own is taught
by the same stage to a policy of fresh parameters, in a folder below the run, where it
goes on if it was killed.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import numpy as np

from o1jax.loop.answer import Answerer, Answers
from o1jax.loop.imitate import Imitate, imitate
from o1jax.loop.improve import Improve
from o1jax.loop.reproduce.claim import Predictions
from o1jax.loop.reproduce.identity import digest
from o1jax.loop.reproduce.learned import accounted, improved
from o1jax.loop.text_meter import text_shares
from o1jax.loop.workdir import Workdir
from o1jax.rollout.sampling import SamplingConfig
from o1jax.tasks.task import Example, Task
from o1jax.types import Params

CHUNK = 1024  # requests of a call of the sampler
GREEDY = SamplingConfig(temperature=0.0)


@dataclass(frozen=True)
class Taught:
    """What a policy reads, what it goes through then, and how it is tested."""

    text: Task | None = None  # the stage's; None: what the run itself has read
    stages: tuple[Improve, ...] = ()
    samples: int = 8  # of each test problem
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    room: int = 0  # tokens that a response may have, in place of the experiment's
    harder: Task | None = None  # whose test problems are asked too, as many


class Read(NamedTuple):
    """What reading a text came to."""

    params: Params
    tokens: int  # that were read, without padding
    steps: int
    flops: float


def taught(
    run: Workdir,
    params: Params,
    key: jax.Array,
    examples: Sequence[Example],
    method: Taught,
) -> Predictions:
    """`right` is of the samples. Columns: `greedy`, `words` (tokens of a greedy
    answer) and, where harder problems are asked, `harder` (greedy) and `harder_right`.

    Facts: those of `improved`; `read` tokens in `steps` with `text_flops`; `texts` and
    `harder_texts`, what the task's meter finds in samples.
    """
    run = accounted(run, room=method.room)
    stage = run.experiment.stages[0]
    if method.text is None:
        about = json.loads((run.path / "results.json").read_text())
        known = {row["kind"]: row["flops"] for row in about["ledger"]}
        steps = about["stages"][stage.name]["steps"]
        read = Read(params, _budget(stage, steps), steps, known["train"])
    else:
        read = learn_text(run, replace(stage, task=method.text))
    params, facts = improved(run, read.params, method.stages)
    learning = run.ledger.total()["flops"]
    task = run.experiment.task
    harder = [] if method.harder is None else _alike(run, method.harder, len(examples))
    test = _Test(run, params, key, method, [*examples, *harder])
    greedy = test.greedy(examples, task)
    before = run.ledger.total()["flops"]
    sampled = test.sampled(examples, task)
    flops = run.ledger.total()["flops"] - before
    extra: dict[str, Sequence[Any]] = {
        "greedy": _right(greedy)[:, 0].tolist(),
        "words": greedy.tokens[:, 0].tolist(),
    }
    facts |= {"read": read.tokens, "steps": read.steps, "text_flops": read.flops}
    facts["texts"] = text_shares(task, examples, sampled.texts)
    if method.harder is not None:
        extra["harder"] = _right(test.greedy(harder, method.harder))[:, 0].tolist()
        there = test.sampled(harder, method.harder)
        extra["harder_right"] = _right(there).sum(1).tolist()
        facts["harder_texts"] = text_shares(method.harder, harder, there.texts)
    tokens = sampled.tokens.sum(1).astype(float)
    return Predictions(
        right=_right(sampled).sum(1),
        samples=np.full(len(examples), method.samples),
        tokens=tokens,
        flops=flops * tokens / tokens.sum() + (learning + read.flops) / len(examples),
        extra=extra,
        facts=facts,
    )


def learn_text(run: Workdir, stage: Imitate) -> Read:
    """A policy of fresh parameters that has learned the stage's text, or learns it now.

    It shares the run's tokenizer, so the tasks of the run must know the same words.
    """
    path = run.path / "taught" / digest(stage)
    path.mkdir(parents=True, exist_ok=True)
    run.tokenizer  # noqa: B018  makes the file where there is none yet
    shutil.copyfile(run.path / "tokenizer.model", path / "tokenizer.model")
    own = Workdir(replace(run.experiment, stages=(stage,)), path)
    if own.resume() == 0:
        own.finish(0, imitate(own, 0, stage))
    (record,) = own.records
    flops = own.ledger.total()["flops"]
    tokens = _budget(stage, record.steps)
    return Read(own.newest_params(), tokens, record.steps, flops)


def _budget(stage: Imitate, steps: int) -> int:
    """Tokens that were read. ValueError if they are not the whole budget."""
    if steps >= stage.steps:
        raise ValueError(
            f"stage {stage.name!r} ended after {steps} steps, before its "
            f"{stage.batch.tokens} tokens were read: give it more steps"
        )
    return stage.batch.tokens


def _alike(run: Workdir, task: Task, count: int) -> list[Example]:
    """Test problems of another task."""
    return [task.example(run.experiment.seed, "test", i) for i in range(count)]


class _Test:
    """Asks test problems: one greedy answer each, or samples."""

    def __init__(
        self,
        run: Workdir,
        params: Params,
        key: jax.Array,
        method: Taught,
        every: Sequence[Example],
    ) -> None:
        """every: all that will be asked; the samplers are compiled for the longest."""
        self._arguments = params, key
        self._samples = method.samples
        build = lambda how, n: Answerer(
            run, every, how, chunk=min(CHUNK, n * len(every))
        )
        self._greedy = build(GREEDY, 1)
        self._sampled = build(method.sampling, method.samples)

    def greedy(self, examples: Sequence[Example], task: Task) -> Answers:
        return self._greedy(*self._arguments, 1, task=task, examples=examples)

    def sampled(self, examples: Sequence[Example], task: Task) -> Answers:
        n = self._samples
        return self._sampled(*self._arguments, n, task=task, examples=examples)


def _right(answers: Answers) -> np.ndarray:
    """i64[P, N]."""
    return (answers.grades >= 1).astype(int)
