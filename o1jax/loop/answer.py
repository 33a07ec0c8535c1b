"""Answering questions: examples in, graded texts out, with what it cost.

What probe, evaluate and ask share. The sampler is compiled for one shape: calls are cut
into chunks of `chunk` requests, the last one filled up with padding.
"""

import functools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from o1jax.data import batches
from o1jax.data.tokenizer import Tokenizer
from o1jax.loop.drafts import draft_of, sampler_with
from o1jax.loop.layout import decoding
from o1jax.loop.ledger import count_flops
from o1jax.loop.workdir import Workdir
from o1jax.parallel.hosts import fetch
from o1jax.parallel.mesh import put_batch
from o1jax.policy.policy import Policy
from o1jax.reward.outcome import Grader, Grading
from o1jax.rollout.decode import Sampler, SamplerConfig, SampleStats, on_mesh
from o1jax.rollout.sampling import SamplingConfig
from o1jax.tasks.task import Example, Task
from o1jax.types import Params, Trajectory

GRADING = 600.0  # seconds that a chunk may take to grade


class Answers(NamedTuple):
    """`samples` responses to each of `problems` questions."""

    texts: list[list[str]]  # [problems][samples]
    grades: np.ndarray  # f64[problems, samples]
    tokens: np.ndarray  # i64[problems, samples]  of the response
    finished: np.ndarray  # bool[problems, samples]
    rows: Trajectory  # [problems * samples, ...]  numpy; samples of a question in a row


class Call(NamedTuple):
    """A compiled program that answers questions."""

    fn: Callable[..., Any]  # of (params, keys, prompts), jitted
    chunk: int  # questions of a call
    length: int  # tokens of a prompt
    rows: int  # that each shard works on at once


class Answerer:
    """Samples responses to fixed questions with a compiled program of one shape."""

    def __init__(
        self,
        run: Workdir,
        examples: Sequence[Example],
        sampling: SamplingConfig,
        *,
        chunk: int,
        length: int = 0,
    ) -> None:
        """`chunk` requests are answered by one call of the program.

        length: of the longest prompt; 0: that of the examples.
        """
        self._run, self._examples = run, list(examples)
        config: SamplerConfig = run.experiment.sampler
        self._layout = decoding(run)
        shards = self._layout.shards
        self._config = replace(
            config,
            rows=max(1, config.rows // shards),
            refill_rows=config.refill_rows // shards,
            stop_ids=config.stop_ids or (run.tokenizer.eos_id,),
            sampling=sampling,
        )
        self._chunk = -(-chunk // shards) * shards
        encode = run.experiment.template.encode_prompt
        self._length = length or max(
            len(encode(run.tokenizer, e.question)) for e in examples
        )
        self._draft = draft_of(run, self._config.draft)
        self._samplers: dict[int, Sampler] = {}

    def __call__(
        self,
        params: Params,
        key: jax.Array,
        samples: int,
        *,
        task: Task,
        kind: str = "evaluate",
        examples: Sequence[Example] | None = None,
        prompts: Sequence[Sequence[int]] | None = None,
    ) -> Answers:
        """`samples` responses to every example, graded by `task`.

        A chunk is read and graded while the device samples the next one. Booked in the
        ledger as `kind`. `examples` are asked in place of its own; `prompts` are the
        tokens that each request is asked with, in place of its question.
        """
        began = time.monotonic()
        examples = self._examples if examples is None else examples
        requests = [e for e in examples for _ in range(samples)]
        found: list[Trajectory] = []
        texts: list[str] = []
        gradings: list[Grading] = []

        def finish(asked: list[Example], rows: Trajectory, stats: SampleStats) -> None:
            # Behind the requests of the last chunk is padding.
            rows = jax.tree.map(lambda x: x[: len(asked)], fetch(rows))
            found.append(rows)
            texts.extend(responses(rows, self._run.tokenizer))
            gradings.append(grader.submit(asked, texts[-len(asked) :]))
            self._book(stats, kind)

        params = self._layout.place(params)
        with Grader(task, timeout=GRADING) as grader:
            before = None
            for start in range(0, len(requests), self._chunk):
                asked = requests[start : start + self._chunk]
                ids = None if prompts is None else prompts[start : start + len(asked)]
                again = samples if prompts is None else 1
                found_now = self._sample(params, key, asked, start, ids, samples=again)
                sampled = (asked, *found_now)
                if before is not None:
                    finish(*before)
                before = sampled
            finish(*before)
            grades = np.concatenate([grading.result() for grading in gradings])
        rows = jax.tree.map(lambda *parts: np.concatenate(parts), *found)
        self._run.ledger.add(kind, seconds=time.monotonic() - began)
        shape = (len(examples), samples)
        return Answers(
            texts=[texts[i : i + samples] for i in range(0, len(texts), samples)],
            grades=grades.reshape(shape),
            tokens=(rows.length - rows.prompt_length).reshape(shape),
            finished=rows.finished.reshape(shape),
            rows=rows,
        )

    @property
    def program(self) -> Call:
        """What each call runs, to be looked at."""
        return Call(self._sampler(1), self._chunk, self._length, self._config.rows)

    def trajectory(self, params: Params, key: jax.Array) -> Trajectory:
        """One response to each example (at most `chunk`), with its log-probs."""
        return self._sample(self._layout.place(params), key, self._examples, 0)[0]

    def sample(
        self, params: Params, key: jax.Array, asked: Sequence[Example], *, kind: str
    ) -> Trajectory:
        """One response to each of `asked`, `chunk` of them, booked as `kind`.

        Their prompts must not be longer than those of the examples.
        """
        rows, stats = self._sample(self._layout.place(params), key, asked, 0)
        self._book(stats, kind)
        return rows

    def _sample(
        self,
        params: Params,
        key: jax.Array,
        asked: Sequence[Example],
        start: int,
        ids: Sequence[Sequence[int]] | None = None,
        *,
        samples: int = 1,
    ) -> tuple[Trajectory, SampleStats]:
        """Responses to `asked`, which are the requests from number `start` on.

        A request's key comes from its number: the chunk it is in changes nothing.
        ids: of their prompts, in place of the questions'. samples: neighbours that ask
        the same, so that a prompt is read once for as many of them as chunks allow.
        """
        tokenizer, template = self._run.tokenizer, self._run.experiment.template
        shape = {"length": self._length, "rows": self._chunk}
        if ids is None:
            queue = batches.prompts(asked, tokenizer, template, **shape)
        else:
            queue = batches.padded_prompts(ids, tokenizer, **shape)
        keys = request_keys(key, start + jnp.arange(self._chunk))
        if self._draft is not None:
            params = self._draft.beside(params)
        sampler = self._sampler(math.gcd(samples, self._chunk // self._layout.shards))
        return sampler(params, keys, put_batch(self._layout.mesh, queue))

    def _sampler(self, samples: int) -> Sampler:
        """The program for a queue in which so many neighbours ask the same."""
        if samples not in self._samplers:
            self._samplers[samples] = on_mesh(
                sampler_with(self._run, self._config, self._draft, samples=samples),
                self._layout.mesh,
                cut=self._layout.cut,
            )
        return self._samplers[samples]

    def _book(self, stats: SampleStats, kind: str) -> None:
        decode, prefill = self._flops
        computed, read = int(stats.computed), int(stats.prefill)
        flops = computed * decode + read * prefill
        if stats.draft is not None:
            decode, prefill = self._flops_of(self._draft.policy)
            rows = min(self._config.rows, self._chunk)
            flops += int(stats.draft.steps) * rows * decode + read * prefill
        self._run.ledger.add(kind, tokens=computed + read, flops=flops)

    @functools.cached_property
    def _flops(self) -> tuple[float, float]:
        """FLOPs of a decoded token and of a position of a prompt.

        The sampler's loops run as long as the data says, so a step and a prompt are
        counted once, to be multiplied by what the sampler reports.
        """
        return self._flops_of(self._run.policy)

    def _flops_of(self, policy: Policy) -> tuple[float, float]:
        rows = min(self._config.rows, self._chunk)
        capacity = self._length + self._config.max_new_tokens
        params = jax.eval_shape(policy.init, self._run.key)
        prompt = jax.ShapeDtypeStruct((rows, self._length), jnp.int32)
        row = jax.ShapeDtypeStruct((rows,), jnp.int32)
        start = functools.partial(policy.start, capacity=capacity)
        _, cache = jax.eval_shape(start, params, prompt, row)
        prefill = count_flops(start, params, prompt, row).flops / (rows * self._length)
        return count_flops(policy.step, params, cache, row).flops / rows, prefill


@jax.jit
def request_keys(key: jax.Array, numbers: jax.Array) -> jax.Array:
    """A key for each request."""
    return jax.vmap(functools.partial(jax.random.fold_in, key))(numbers)


def responses(trajectory: Trajectory, tokenizer: Tokenizer) -> list[str]:
    """The text of each row's response."""
    tokens = np.asarray(trajectory.tokens)
    start = np.asarray(trajectory.prompt_length)
    end = np.asarray(trajectory.length)
    return [
        tokenizer.decode(row[a:b].tolist()) for row, a, b in zip(tokens, start, end)
    ]
