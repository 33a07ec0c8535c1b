"""A policy that checks each of its steps as it answers, and draws rejected ones again.

In: a policy that has read checks, questions, and how to go on where it rejects. Out:
graded answers, the steps drawn for them, and how often its checks were right by the
oracle: what self_verification.py turns into an expectation. A rejected step leaves no
trace: the next is drawn as if it were the first. Yu et al. 2025, arXiv 2510.12157.
"""

import copy
import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from o1jax.config import configurable
from o1jax.loop.answer import Answerer
from o1jax.loop.ledger import count_flops
from o1jax.loop.marks import step_end_ids, stop_ids
from o1jax.loop.self_evaluation import SelfEvaluation, answer_tokens
from o1jax.loop.self_verification import Rates
from o1jax.loop.workdir import Workdir
from o1jax.rollout.sampling import SamplingConfig
from o1jax.tasks.task import STEP_END, Example, Task
from o1jax.types import Params


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


class Step(NamedTuple):
    """A step as text, without the mark that closes it, and as tokens with it."""

    text: str
    ids: list[int]


@dataclass
class _Walk:
    """One request under way."""

    example: Example
    kept: list[str] = field(default_factory=list)
    ids: list[list[int]] = field(default_factory=list)  # of each of them
    alive: list[bool] = field(default_factory=lambda: [True])  # before each depth
    tried: list[list[Step]] = field(default_factory=lambda: [[]])  # at each depth
    judged: list[Judged] = field(default_factory=list)
    tokens: int = 0
    over: bool = False
    answered: bool = False

    def take(self, step: Step, right: bool) -> None:
        self.kept.append(step.text)
        self.ids.append(step.ids)
        self.alive.append(right)
        self.tried.append([])

    def drop(self) -> Step:
        """Takes the last step back."""
        self.alive.pop()
        self.tried.pop()
        return Step(self.kept.pop(), self.ids.pop())


class Reflection:
    """Answers fixed questions with compiled programs of one shape."""

    def __init__(
        self,
        run: Workdir,
        examples: Sequence[Example],
        task: Task,
        config: Reflect,
        *,
        steps: int,
        chunk: int = 512,
    ) -> None:
        """steps: that an answer may have; a walk beyond ends without one."""
        self._run, self._task, self._config = run, task, config
        self._examples, self._most = list(examples), steps
        sampler = replace(
            run.experiment.sampler,
            max_new_tokens=config.step_tokens,
            stop_ids=(*step_end_ids(run), *stop_ids(run)),
        )
        encode = run.experiment.template.encode_prompt
        self._prompt = [encode(run.tokenizer, e.question) for e in self._examples]
        self._said = run.tokenizer.encode(config.accepted) if config.accepted else []
        ask, self._yes, self._no = answer_tokens(config.check, run.tokenizer)
        self._ask = ask.tolist()
        each = config.step_tokens + len(self._said)
        self._length = max(map(len, self._prompt)) + steps * each
        self._chunk = chunk
        own = copy.copy(run)
        own.experiment = replace(run.experiment, sampler=sampler)
        self._draw = Answerer(
            own, [], config.sampling, chunk=chunk, length=self._length
        )
        self._believed = jax.jit(self._belief)

    def __call__(self, params: Params, key: jax.Array, samples: int) -> Reflected:
        """`samples` answers to each question, those of a question in a row.

        What they cost, checks included, is booked as evaluation.
        """
        walks = [_Walk(e) for e in self._examples for _ in range(samples)]
        prompts = [p for p in self._prompt for _ in range(samples)]
        for number in range(self._config.draws):
            going = [i for i, walk in enumerate(walks) if not walk.over]
            if not going:
                break
            own = jax.random.fold_in(key, number)
            here = [walks[i] for i in going], [prompts[i] for i in going]
            self._round(params, own, *here)
        grades = [
            walk.answered and self._task.grade(walk.example, _text(walk.kept)) >= 1
            for walk in walks
        ]
        return Reflected(
            right=np.array(grades, bool),
            answered=np.array([walk.answered for walk in walks]),
            draws=np.array([len(walk.judged) for walk in walks]),
            tokens=np.array([walk.tokens for walk in walks]),
            judged=[walk.judged for walk in walks],
        )

    def _round(
        self,
        params: Params,
        key: jax.Array,
        walks: list[_Walk],
        prompts: list[list[int]],
    ) -> None:
        """Draws a step for each walk, asks about it, and moves."""
        before = [
            sum((ids + self._said for ids in walk.ids), prompt)
            for walk, prompt in zip(walks, prompts)
        ]
        drawn = self._draw(
            params,
            key,
            1,
            task=_Ungraded(),
            kind="evaluate",
            examples=[walk.example for walk in walks],
            prompts=before,
        )
        asked, about, rows = [], [], drawn.rows
        for i, (walk, prompt, (text,)) in enumerate(zip(walks, before, drawn.texts)):
            ids = rows.tokens[i, rows.prompt_length[i] : rows.length[i]].tolist()
            walk.tokens += len(ids)
            step, closed, _ = text.partition(STEP_END)
            if closed and len(walk.kept) < self._most:
                asked.append(prompt + ids + self._ask)
                about.append((walk, Step(step.strip(), ids)))
            else:  # it has ended its answer, or lost its way in a step
                walk.over, walk.answered = True, not text.strip()
        for (walk, step), belief in zip(about, self._ask_about(params, asked)):
            self._move(walk, step, accepted=bool(belief >= self._config.threshold))

    def _ask_about(self, params: Params, asked: list[list[int]]) -> np.ndarray:
        """f32[R]: P(yes) of those prompts."""
        width, found = self._length + self._config.step_tokens + len(self._ask), []
        for start in range(0, len(asked), self._chunk):
            rows = asked[start : start + self._chunk]
            tokens = np.zeros((self._chunk, width), np.int32)
            length = np.ones(self._chunk, np.int32)
            for i, row in enumerate(rows):
                tokens[i, : len(row)], length[i] = row, len(row)
            found.append(
                np.asarray(self._believed(params, tokens, length))[: len(rows)]
            )
            self._run.ledger.add("evaluate", tokens=tokens.size, flops=self._asking)
        return np.concatenate(found) if found else np.zeros(0, np.float32)

    @functools.cached_property
    def _asking(self) -> float:
        """FLOPs of a call that asks about steps."""
        width = self._length + self._config.step_tokens + len(self._ask)
        params = jax.eval_shape(self._run.policy.init, self._run.key)
        tokens = jax.ShapeDtypeStruct((self._chunk, width), jnp.int32)
        length = jax.ShapeDtypeStruct((self._chunk,), jnp.int32)
        return count_flops(self._belief, params, tokens, length).flops

    def _belief(
        self, params: Params, tokens: jax.Array, length: jax.Array
    ) -> jax.Array:
        output, _ = self._run.policy.start(
            params, tokens, length, capacity=tokens.shape[1]
        )
        return jax.nn.sigmoid(
            jnp.float32(output.logits[:, self._yes] - output.logits[:, self._no])
        )

    def _move(self, walk: _Walk, step: Step, *, accepted: bool) -> None:
        config, alive = self._config, walk.alive[-1]
        right = self._right(walk, step)
        walk.judged.append(Judged(len(walk.kept), alive, right, accepted))
        if accepted or not config.heed:
            walk.take(step, right)
            return
        walk.tried[-1].append(step)
        if not config.attempts or len(walk.tried[-1]) < config.attempts:
            return
        if not config.back:
            first = walk.tried[-1][0]
            walk.take(first, self._right(walk, first))
            return
        while len(walk.tried[-1]) == config.attempts:
            if not walk.kept:
                walk.over = True
                return
            failed = walk.drop()
            walk.tried[-1].append(failed)

    def _right(self, walk: _Walk, step: Step) -> bool:
        """Whether a step may follow what is kept, all of which is right."""
        steps = [*walk.kept, step.text]
        return walk.alive[-1] and self._task.state_value(walk.example, steps) > 0


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


class _Ungraded:
    """Steps are not answers: nothing is graded while they are drawn."""

    def grade(self, example: Example, response: str) -> float:
        return 0.0


def _text(steps: Sequence[str]) -> str:
    return " ".join(f"{step} {STEP_END}" for step in steps)
