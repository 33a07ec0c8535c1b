"""A quick look at held-out questions while training goes on.

In: parameters. Out: greedy accuracy on a fixed set of validation questions, or for a
dataset the held-out loss; cheap enough to be taken often. A stage may end once the
accuracy is high enough.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import jax

from o1jax.config import configurable
from o1jax.data.stream import BatchStream
from o1jax.learn.objectives import imitation
from o1jax.loop.answer import Answerer
from o1jax.loop.ledger import count_flops
from o1jax.loop.text_meter import text_shares
from o1jax.loop.workdir import Workdir
from o1jax.parallel.mesh import put_batch
from o1jax.rollout.sampling import SamplingConfig
from o1jax.tasks.task import Task
from o1jax.types import Params, TokenBatch


@configurable
@dataclass(frozen=True)
class Probe:
    """How often to look, at how many questions, and when that is enough."""

    every: int = 0  # steps; 0: at the end of the stage only
    problems: int = 128  # rows of tokens, for a dataset
    stop_at: float = 0.0  # end the stage at this greedy accuracy; 0: never

    def __post_init__(self) -> None:
        if self.every < 0:
            raise ValueError("every must not be negative")
        if self.problems < 1:
            raise ValueError("problems must be at least 1")
        if not 0 <= self.stop_at <= 1:
            raise ValueError("stop_at must be in [0, 1]")
        if self.stop_at and not self.every:
            raise ValueError("stop_at needs every: how often to look")

    def due(self, step: int) -> bool:
        return self.every > 0 and step % self.every == 0

    def reached(self, result: dict[str, float] | None) -> bool:
        """Whether the stage may end."""
        return bool(self.stop_at and result and result["accuracy"] >= self.stop_at)


def build_probe(
    run: Workdir, config: Probe, task: Task
) -> Callable[[Params], dict[str, float]]:
    """A function params -> {"accuracy"}: greedy, on validation questions of `task`.

    Shares of what its texts show come with it where the task can tell.
    """
    seed = run.experiment.seed
    examples = [task.example(seed, "valid", i) for i in range(config.problems)]
    answer = Answerer(
        run, examples, SamplingConfig(temperature=0.0), chunk=config.problems
    )

    def probe(params: Params) -> dict[str, float]:
        answers = answer(params, jax.random.key(0), 1, task=task)
        shares = text_shares(task, examples, answers.texts)
        return {"accuracy": float(answers.grades.mean()), **shares}

    return probe


def build_loss_probe(
    run: Workdir, config: Probe, stream: BatchStream
) -> Callable[[Params], dict[str, float]]:
    """A function params -> {"valid_loss"}: nats a token on the stream's first rows."""
    objective = imitation(run.policy)
    batches: list[TokenBatch] = []
    for batch in stream:
        batches.append(put_batch(run.mesh, batch))
        if sum(b.tokens.shape[0] for b in batches) >= config.problems:
            break
    if not batches:
        raise ValueError("every held-out record is longer than BatchConfig.length")
    tokens = sum(batch.tokens.size for batch in batches)
    weight = sum(float(objective.weight(batch)) for batch in batches)
    total = jax.jit(objective.total)
    shapes = jax.eval_shape(run.policy.init, run.key)
    flops = len(batches) * count_flops(objective.total, shapes, batches[0]).flops

    def probe(params: Params) -> dict[str, float]:
        began = time.monotonic()
        loss = sum(float(total(params, batch)[0]) for batch in batches)
        seconds = time.monotonic() - began
        run.ledger.add("evaluate", tokens=tokens, flops=flops, seconds=seconds)
        return {"valid_loss": loss / weight}

    return probe
