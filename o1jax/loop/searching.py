"""Answering questions by search: examples in, graded answers out, with what they cost.

The sibling of answer.py. Each call of the compiled program searches for `chunk`
problems; grading comes after all searching, so what a search finds is never told it.
"""

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from o1jax.data.batches import prompts
from o1jax.loop.answer import Call, request_keys
from o1jax.loop.choosing import Answer, answers
from o1jax.loop.drafts import draft_of
from o1jax.loop.judges import guide_of, reader_of, trained_aggregate
from o1jax.loop.layout import decoding
from o1jax.loop.marks import plain_ends, step_end_ids, stop_ids
from o1jax.loop.methods import Found, Search, build_program
from o1jax.loop.search_flops import draw_flops, judge_flops
from o1jax.loop.workdir import Workdir
from o1jax.parallel.hosts import fetch
from o1jax.parallel.mesh import ROWS, put_batch
from o1jax.reward.outcome import grade
from o1jax.search.harvest import on_host
from o1jax.search.nodes import Nodes
from o1jax.search.steps import StepSearch
from o1jax.search.trace import Trace, trace_of
from o1jax.tasks.task import Example, Task
from o1jax.types import Params, Prompts, Spent

__all__ = ["Searched", "Searcher", "step_end_ids", "trained_aggregate"]

ROWS_AT_ONCE = 1024  # network rows of a call, which its problems share


class Searched(NamedTuple):
    """What a search answered to P questions."""

    texts: list[str]  # "" where no answer was finished
    grades: np.ndarray  # f64[P]
    found: np.ndarray  # bool[P]  among the finished answers one is right
    answers: np.ndarray  # i64[P]  finished answers to choose from
    spent: Spent  # f64[P] each
    exhausted: np.ndarray  # bool[P]  the pool of nodes was full


class Searcher:
    """Searches for answers to fixed questions with a compiled program of one shape."""

    def __init__(
        self,
        run: Workdir,
        examples: Sequence[Example],
        task: Task,
        config: Search,
        *,
        graded: bool = True,
    ) -> None:
        """graded False allows guides that know the answer, to make training data."""
        self._run, self._examples, self._task = run, list(examples), task
        depth, tokens = worked_size(run, task)
        self.config = config = replace(
            config,
            depth=config.depth or depth,
            answer_tokens=config.answer_tokens or tokens,
        )
        encode = run.experiment.template.encode_prompt
        self._length = max(len(encode(run.tokenizer, e.question)) for e in examples)
        self._reward, self._weights = None, None
        if config.reward:
            self._reward, self._weights = run.reward_model(config.reward)
        reader = reader_of(run, config, self._reward) if self._reward else None
        asked = self._prompts(self._examples, len(self._examples))
        self._draft = draft_of(run, config.steps.draft)
        self._search = StepSearch(
            run.policy,
            config.steps,
            () if config.steps.ends else step_end_ids(run),
            stop_ids(run),
            guide_of(run, config, task, self._examples, asked, graded=graded),
            ends=plain_ends(run, config.steps.ends),
            draft=self._draft and self._draft.of_steps,
        )
        program = build_program(self._search, config, reader)
        self._layout = decoding(run)
        mesh, shards = self._layout.mesh, self._layout.shards
        if shards > 1:
            rows = PartitionSpec(ROWS)
            program = jax.shard_map(
                program,
                mesh=mesh,
                in_specs=(PartitionSpec(), rows, rows, PartitionSpec()),
                out_specs=rows,
                axis_names=set(ROWS if self._layout.cut else mesh.axis_names),
                check_vma=False,
            )
        self._program = jax.jit(program)
        chunk = min(len(self._examples), max(1, ROWS_AT_ONCE // config.rows))
        self._chunk = -(-chunk // shards) * shards

    def __call__(
        self,
        params: Params,
        key: jax.Array,
        *,
        kind: str = "search",
        done: Callable[[int], None] = lambda questions: None,
    ) -> Searched:
        """One answer to each question, graded. Booked in the ledger as `kind`.

        `done` is told of every few questions that are answered.
        """
        began = time.monotonic()
        parts = []
        for start in range(0, len(self._examples), self._chunk):
            part = self._part(params, key, start)
            parts.append(part)
            done(len(part.texts))
        join = lambda *columns: np.concatenate(columns)
        arrays = jax.tree.map(join, *(part._replace(texts=()) for part in parts))
        spent = arrays.spent
        self._run.ledger.add_spent(
            kind,
            Spent(*(float(np.sum(amount)) for amount in spent)),
            seconds=time.monotonic() - began,
        )
        return arrays._replace(texts=[text for part in parts for text in part.texts])

    @property
    def program(self) -> Call:
        """What each call runs, to be looked at; it takes a reward's params too."""
        return Call(self._program, self._chunk, self._length, self.config.rows)

    @property
    def width(self) -> int:
        """Tokens of a question and the longest answer that a search may find."""
        return self._length + (self.config.depth + 1) * self.config.steps.room

    def trees(
        self, params: Params, key: jax.Array, *, kind: str = "search"
    ) -> Iterator[tuple[Nodes, Prompts]]:
        """The trees of all questions, chunk by chunk, to learn from: nothing is graded.

        A row of the prompts whose prompt_id is -1 fills the last chunk up; its tree is
        a finished root. Booked in the ledger as `kind`.
        """
        for start in range(0, len(self._examples), self._chunk):
            began = time.monotonic()
            nodes, _, _, account = self._nodes(params, key, start)
            asked = self._examples[start : start + self._chunk]
            spent = Spent(*(float(x[: len(asked)].sum()) for x in account))
            seconds = time.monotonic() - began
            self._run.ledger.add_spent(kind, spent, seconds=seconds)
            yield nodes, self._prompts(asked, self._chunk)

    def trace(self, params: Params, key: jax.Array) -> Trace:
        """The tree of the first question, with the task's verdict on every step."""
        nodes, *chosen, account = self._nodes(params, key, 0)
        example, task = self._examples[0], self._task
        answer = self._answers(nodes, *chosen)[0]
        trace = trace_of(
            nodes,
            0,
            question=self._run.experiment.template.prompt(example.question),
            method=f"{self.config.label}, budget {self.config.budget}",
            decode=self._run.tokenizer.decode,
            chosen=answer.node,
            answer_verdict="right"
            if task.grade(example, answer.text) >= 1
            else "wrong",
            spent=Spent(*(float(x[0]) for x in account)),
        )
        texts = map(trace.text, range(len(trace.parent)))
        if self.config.attempts:
            texts = trace.step
        return replace(
            trace, verdict=tuple(last_verdict(task, example, text) for text in texts)
        )

    def given(self, params: Params) -> Params:
        """The parameters that the program takes; with a draft's own, if it has any."""
        return params if self._draft is None else self._draft.beside(params)

    def _part(self, params: Params, key: jax.Array, start: int) -> Searched:
        """The questions of one chunk."""
        nodes, *chosen, account = self._nodes(params, key, start)
        examples = self._examples[start : start + self._chunk]
        count = len(examples)
        answers = self._answers(nodes, *chosen)[:count]
        right = [
            any(self._task.grade(example, text) >= 1 for text in set(answer.all))
            for example, answer in zip(examples, answers)
        ]
        texts = [answer.text for answer in answers]
        return Searched(
            texts=texts,
            grades=grade(self._task, examples, texts),
            found=np.array(right),
            answers=np.array([len(answer.all) for answer in answers]),
            spent=Spent(*(x[:count] for x in account)),
            exhausted=nodes.exhausted[:count],
        )

    def _prompts(self, examples: Sequence[Example], rows: int) -> Prompts:
        run = self._run
        template, length = run.experiment.template, self._length
        return prompts(examples, run.tokenizer, template, length=length, rows=rows)

    def _nodes(
        self, params: Params, key: jax.Array, start: int
    ) -> tuple[Nodes, np.ndarray | None, np.ndarray | None, Spent]:
        """The trees of a chunk, which nodes may answer (None: all), their scores by
        each head of a reward model, and what was spent."""
        asked = self._examples[start : start + self._chunk]
        queue = self._prompts(asked, self._chunk)
        # prompt_id is the question's place among all; a guide may look it up.
        there = queue.prompt_id >= 0
        queue = queue.replace(prompt_id=np.where(there, queue.prompt_id + start, -1))
        keys = request_keys(key, start + jnp.arange(self._chunk))
        place = self._layout.place
        queue, params = put_batch(self._layout.mesh, queue), place(self.given(params))
        reward_params = None if self._weights is None else place(self._weights.params)
        found: Found = self._program(params, keys, queue, reward_params)
        survivors, score, spent = fetch((found.survivors, found.score, found.spent))
        return on_host(found.nodes), survivors, score, self._spent(spent)

    def _answers(
        self, nodes: Nodes, allowed: np.ndarray | None, heads: np.ndarray | None
    ) -> list[Answer]:
        """What is answered to each problem of a chunk."""
        parse = self._run.experiment.template.parse
        return answers(
            nodes,
            allowed,
            self.config.select,
            decode=self._run.tokenizer.decode,
            vote=lambda text: parse(text)[1] or None,
            heads=heads,
            alone=self.config.attempts,
        )

    def _spent(self, spent: Spent) -> Spent:
        """f64[B] each; FLOPs are those of the prompt and of every token read.

        A token that a reward model reads costs what it costs that model.
        """
        spent = Spent(*(np.asarray(amount, np.float64) for amount in spent))
        token, prompt, judged = self._prices
        tokens = spent.generated_tokens + spent.reread_tokens
        flops = tokens * token + prompt + spent.reward_tokens * judged
        return spent._replace(flops=flops)

    @functools.cached_property
    def _prices(self) -> tuple[float, float, float]:
        """FLOPs of a token that the policy reads, of a prompt, and of a token that a
        guide reads."""
        config, length = self.config, self._length
        read, prompt = draw_flops(self._run.policy, config, length)
        token = read
        if self._draft is not None:
            proposed, asked = draw_flops(self._draft.policy, config, length)
            token += proposed * self._draft.of_steps.share
            prompt += 0 if self._draft.layers else asked
        if self._reward is None:
            return token, prompt, read
        params = self._weights.params
        return token, prompt, judge_flops(self._reward, params, config, length)


def last_verdict(task: Task, example: Example, text: str) -> str:
    """What the task says of the last closed step of a text: "ok", what is wrong, ""."""
    checks = task.check_steps(example, text)
    if not checks:
        return ""
    return "ok" if checks[-1].correct else checks[-1].reason


def worked_size(run: Workdir, task: Task) -> tuple[int, float]:
    """(most steps and one for the end, mean tokens) of worked training examples."""
    template, seed = run.experiment.template, run.experiment.seed
    worked = [task.example(seed, "train", i) for i in range(64)]
    tokens = [len(template.encode(run.tokenizer, example)[1]) for example in worked]
    return 1 + max(len(example.steps) for example in worked), float(np.mean(tokens))
