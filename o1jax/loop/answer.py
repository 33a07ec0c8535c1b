"""Answering questions: examples in, graded texts out, with what it cost.

What probe, evaluate and ask share. The sampler is compiled for one shape: calls are cut
into chunks of `chunk` requests, the last one filled up with padding.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from o1jax.data.batches import prompts
from o1jax.data.tokenizer import Tokenizer
from o1jax.loop.ledger import count_flops
from o1jax.loop.workdir import Workdir
from o1jax.parallel.mesh import put_batch
from o1jax.reward.outcome import grade
from o1jax.rollout.decode import SamplerConfig, SampleStats, build_sampler, on_mesh
from o1jax.rollout.sampling import SamplingConfig
from o1jax.tasks.task import Example, Task
from o1jax.types import Params, Prompts, Trajectory


class Answers(NamedTuple):
    """`samples` responses to each of `problems` questions."""

    texts: list[list[str]]  # [problems][samples]
    grades: np.ndarray  # f64[problems, samples]
    tokens: np.ndarray  # i64[problems, samples]  of the response
    finished: np.ndarray  # bool[problems, samples]


class Answerer:
    """Samples responses with a compiled program of one shape, and grades them."""

    def __init__(
        self,
        run: Workdir,
        task: Task,
        examples: Sequence[Example],
        sampling: SamplingConfig,
        *,
        chunk: int,
    ) -> None:
        """`chunk` requests are answered by one call of the program."""
        self._run, self._task, self._examples = run, task, list(examples)
        config: SamplerConfig = run.experiment.sampler
        shards = run.mesh.devices.size // run.mesh.shape["tensor"]
        stop = config.stop_ids or (run.tokenizer.eos_id,)
        self._config = replace(
            config,
            rows=max(1, config.rows // shards),
            refill_rows=config.refill_rows // shards,
            stop_ids=stop,
            sampling=sampling,
        )
        self._chunk = -(-chunk // shards) * shards
        encode = run.experiment.template.encode_prompt
        lengths = [len(encode(run.tokenizer, e.question)) for e in examples]
        self._length = max(lengths)
        self._sampler = on_mesh(build_sampler(run.policy, self._config), run.mesh)

    def __call__(
        self, params: Params, key: jax.Array, samples: int, *, kind: str = "evaluate"
    ) -> Answers:
        """`samples` responses to every example; booked in the ledger as `kind`."""
        trajectories, stats = [], []
        requests = [e for e in self._examples for _ in range(samples)]
        for start in range(0, len(requests), self._chunk):
            queue = self._prompts(requests[start : start + self._chunk])
            number = start + jnp.arange(self._chunk)
            keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(number)
            trajectory, spent = self._sampler(params, keys, queue)
            trajectories.append(trajectory)
            stats.append(spent)
        texts = [
            text
            for trajectory in trajectories
            for text in responses(trajectory, self._run.tokenizer)
        ][: len(requests)]
        self._book(params, stats, kind)
        shape = (len(self._examples), samples)
        gather = lambda read: np.concatenate(
            [np.asarray(read(t)) for t in trajectories]
        )
        lengths = gather(lambda t: t.length - t.prompt_length)[: len(requests)]
        finished = gather(lambda t: t.finished)[: len(requests)]
        return Answers(
            texts=[texts[i : i + samples] for i in range(0, len(texts), samples)],
            grades=grade(self._task, requests, texts).reshape(shape),
            tokens=lengths.reshape(shape),
            finished=finished.reshape(shape),
        )

    def trajectory(self, params: Params, key: jax.Array) -> Trajectory:
        """One response to each example (at most `chunk`), with its log-probs."""
        queue = self._prompts(self._examples)
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(self._chunk))
        return self._sampler(params, keys, queue)[0]

    def _prompts(self, examples: Sequence[Example]) -> Prompts:
        queue = prompts(
            examples,
            self._run.tokenizer,
            self._run.experiment.template,
            length=self._length,
            rows=self._chunk,
        )
        return put_batch(self._run.mesh, queue)

    def _book(self, params: Params, stats: Sequence[SampleStats], kind: str) -> None:
        """Tokens and FLOPs of decoding steps and prefill; loops run data-dependently,
        so a step and a prompt are counted once and multiplied.
        """
        policy, rows = self._run.policy, min(self._config.rows, self._chunk)
        capacity = self._length + self._config.max_new_tokens
        prompt = jax.ShapeDtypeStruct((rows, self._length), jnp.int32)
        row = jax.ShapeDtypeStruct((rows,), jnp.int32)
        start = lambda p, t, n: policy.start(p, t, n, capacity=capacity)
        _, cache = jax.eval_shape(start, params, prompt, row)
        prefill = count_flops(start, params, prompt, row).flops / (rows * self._length)
        decode = count_flops(policy.step, params, cache, row).flops / rows
        for spent in jax.device_get(list(stats)):
            self._run.ledger.add(
                kind,
                tokens=int(spent.computed) + int(spent.prefill),
                flops=int(spent.computed) * decode + int(spent.prefill) * prefill,
            )


def responses(trajectory: Trajectory, tokenizer: Tokenizer) -> list[str]:
    """The text of each row's response."""
    tokens = np.asarray(trajectory.tokens)
    start = np.asarray(trajectory.prompt_length)
    end = np.asarray(trajectory.length)
    return [
        tokenizer.decode(row[a:b].tolist()) for row, a, b in zip(tokens, start, end)
    ]
