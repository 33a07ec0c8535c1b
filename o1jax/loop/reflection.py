"""A policy that checks each of its steps as it answers, and draws rejected ones again.

In: a policy that has read checks, questions, and how to go on where it rejects. Out:
graded answers, the steps drawn for them, and how often its checks were right by the
oracle: what self_verification.py turns into an expectation. A rejected step leaves no
trace: the next is drawn as if it were the first. Yu et al. 2025, arXiv 2510.12157.
"""

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from o1jax.config import configurable
from o1jax.data.batches import prompts
from o1jax.loop.answer import request_keys
from o1jax.loop.layout import decoding
from o1jax.loop.marks import step_end_ids, stop_ids
from o1jax.loop.search_flops import read_flops
from o1jax.loop.self_evaluation import SelfEvaluation, answer_tokens
from o1jax.loop.self_verification import Rates
from o1jax.loop.workdir import Workdir
from o1jax.parallel.hosts import fetch
from o1jax.parallel.mesh import ROWS, put_batch
from o1jax.rollout.reflect import Rules, Walks, reflect
from o1jax.rollout.sampling import SamplingConfig
from o1jax.tasks.task import STEP_END, Example, Task
from o1jax.types import Params, Prompts


@configurable
@dataclass(frozen=True)
class Reflect:
    """How a policy checks itself, and what becomes of a step that it rejects."""

    check: SelfEvaluation = field(
        default_factory=lambda: SelfEvaluation("<check>", "right", "wrong")
    )
    accepted: str = ""  # written behind each accepted step, as in what the policy read
    threshold: float = 0.5  # of P(yes), from which a step is accepted
    heed: bool = True  # else go on whatever the check says, which is plain drawing
    attempts: int = 0  # draws at a state; 0: no limit
    back: bool = False  # after so many go back; else on with the first of them
    draws: int = 64  # of an answer at most, then there is none
    step_tokens: int = 16  # of a step at most
    sampling: SamplingConfig = field(default_factory=SamplingConfig)

    def __post_init__(self) -> None:
        for name, least in (("attempts", 0), ("draws", 1), ("step_tokens", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}")
        if self.back and not self.attempts:
            raise ValueError("back needs attempts: after how many draws")


class Judged(NamedTuple):
    """A drawn step, what the oracle says, and what the policy's check said."""

    place: int  # 0: the first of an answer
    alive: bool  # all steps before it are right
    right: bool  # and so is it
    accepted: bool  # by the check, heeded or not


class Reflected(NamedTuple):
    """What was answered to R requests; numpy."""

    right: np.ndarray  # bool[R]
    answered: np.ndarray  # bool[R]  some answer was given
    draws: np.ndarray  # i64[R]  steps drawn
    tokens: np.ndarray  # i64[R]  generated, those of checks that were read not counted
    judged: list[list[Judged]]  # [R]


class Reflection:
    """Answers fixed questions with a compiled program of one shape."""

    def __init__(
        self,
        run: Workdir,
        examples: Sequence[Example],
        task: Task,
        config: Reflect,
        *,
        steps: int,
        chunk: int = 128,
    ) -> None:
        """steps: that an answer may have; a walk beyond ends without one.

        chunk: walks that go on together, and questions of a call, at most. 1,600 walks
        of up to 24 draws spent 171 GFLOP with 512 at once and 130 with 128: fewer rows
        are idle while the last walks end.
        """
        self._run, self._task = run, task
        self._examples = list(examples)
        ask, yes, no = answer_tokens(config.check, run.tokenizer)
        said = run.tokenizer.encode(config.accepted) if config.accepted else []
        self._rules = Rules(
            ask=tuple(ask.tolist()),
            yes=yes,
            no=no,
            accepted=tuple(said),
            step_ends=step_end_ids(run),
            stops=stop_ids(run),
            threshold=config.threshold,
            heed=config.heed,
            attempts=config.attempts,
            back=config.back,
            draws=config.draws,
            depth=steps,
            tokens=config.step_tokens,
            sampling=config.sampling,
        )
        encode = run.experiment.template.encode_prompt
        self._length = max(len(encode(run.tokenizer, e.question)) for e in examples)
        self._layout = layout = decoding(run)
        self._rows = -(-chunk // layout.shards)
        self._chunk = -(-min(chunk, len(self._examples)) // layout.shards)
        self._chunk *= layout.shards
        walk, rows = self._walk, PartitionSpec(ROWS)
        if layout.shards > 1:
            walk = jax.shard_map(
                walk,
                mesh=layout.mesh,
                in_specs=(PartitionSpec(), rows, rows),
                out_specs=rows,
                axis_names=set(ROWS if layout.cut else layout.mesh.axis_names),
                check_vma=False,
            )
        self._program = jax.jit(walk)

    def __call__(self, params: Params, key: jax.Array, samples: int) -> Reflected:
        """`samples` answers to each question, those of a question in a row.

        What they cost, checks included, is booked as evaluation.
        """
        params, found = self._layout.place(params), []
        for start in range(0, len(self._examples), self._chunk):
            began = time.monotonic()
            asked = self._examples[start : start + self._chunk]
            walks = self._walks(params, key, start, samples)
            requests = enumerate(e for e in asked for _ in range(samples))
            found += [self._told(walks, row, example) for row, example in requests]
            self._book(walks, time.monotonic() - began)
        right, answered, tokens, judged = zip(*found)
        return Reflected(
            right=np.array(right),
            answered=np.array(answered),
            draws=np.array([len(walk) for walk in judged]),
            tokens=np.array(tokens),
            judged=list(judged),
        )

    def _walk(self, params: Params, keys: jax.Array, asked: Prompts) -> Walks:
        own = params, keys, asked, self._rules
        walks = reflect(self._run.policy, *own, rows=self._rows)
        return walks.replace(computed=walks.computed[None])  # of each shard

    def _walks(self, params: Params, key: jax.Array, start: int, samples: int) -> Walks:
        """Those of the questions from number `start` on, a call's; numpy."""
        run, shape = self._run, {"length": self._length, "rows": self._chunk}
        asked = self._examples[start : start + self._chunk]
        queue = prompts(asked, run.tokenizer, run.experiment.template, **shape)
        numbers = start * samples + jnp.arange(self._chunk * samples)
        keys = request_keys(key, numbers).reshape(self._chunk, samples)
        queue = put_batch(self._layout.mesh, queue)
        return fetch(self._program(params, keys, queue))

    def _told(
        self, walks: Walks, row: int, example: Example
    ) -> tuple[bool, bool, int, list[Judged]]:
        """(right, answered, tokens, steps that were judged) of a walk."""
        length, task = walks.length[row], self._task
        paths: dict[int, tuple[list[str], bool]] = {-1: ([], True)}  # and: all right
        judged, answer = [], None
        for n in range(np.count_nonzero(length)):
            text = self._run.tokenizer.decode(
                walks.tokens[row, n, : length[n]].tolist()
            )
            steps, alive = paths[int(walks.parent[row, n])]
            if walks.closed[row, n] and len(steps) < self._rules.depth:
                path = [*steps, text.partition(STEP_END)[0].strip()]
                right = alive and task.state_value(example, path) > 0
                accepted = bool(walks.belief[row, n] >= self._rules.threshold)
                paths[n] = path, right
                judged.append(Judged(len(steps), alive, right, accepted))
            elif not text.strip():  # else it has lost its way in a step
                answer = steps
        right = answer is not None and task.grade(example, _text(answer)) >= 1
        return right, answer is not None, int(length.sum()), judged

    def _book(self, walks: Walks, seconds: float) -> None:
        token, prompt = self._prices
        computed, questions = int(walks.computed.sum()), self._chunk
        self._run.ledger.add(
            "evaluate",
            tokens=computed + questions * self._length,
            flops=computed * token + questions * prompt,
            seconds=seconds,
        )

    @functools.cached_property
    def _prices(self) -> tuple[float, float]:
        """FLOPs of a token that is read behind all that it may see, and of a prompt."""
        rules = self._rules
        places = self._length + rules.slots + rules.tokens + len(rules.ask)
        return read_flops(self._run.policy, self._length, places)


def rates_by_step(judged: Sequence[Sequence[Judged]], steps: int) -> list[Rates]:
    """Of each of the first steps; pooled where one lacks right steps or wrong ones."""
    found = []
    for place in range(steps):
        here = [[one for one in walk if one.place == place] for walk in judged]
        try:
            found.append(measured_rates(here))
        except ValueError:
            found.append(measured_rates(judged))
    return found


def measured_rates(judged: Sequence[Sequence[Judged]]) -> Rates:
    """Of the draws of many walks, pooled. ValueError if a kind was never drawn."""
    every = [one for walk in judged for one in walk]
    ahead = [one for one in every if one.alive]
    good = [one for one in ahead if one.right]
    bad = [one for one in ahead if not one.right]
    if not good or not bad:
        raise ValueError("no rates: all drawn steps are right, or none is")
    behind = [one.accepted for one in every if not one.alive]
    return Rates(
        right=len(good) / len(ahead),
        false_accept=float(np.mean([one.accepted for one in bad])),
        false_reject=float(np.mean([not one.accepted for one in good])),
        accept_behind=float(np.mean(behind)) if behind else None,
    )


def _text(steps: Sequence[str]) -> str:
    return " ".join(f"{step} {STEP_END}" for step in steps)
