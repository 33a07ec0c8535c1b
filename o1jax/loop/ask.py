"""One question to a trained policy: its steps, or the tree of a search for them.

In: a workdir and a question in the words of the task. Out: lines to print, or the trace
of the search, which inspect/tree.py draws.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from o1jax.config import load
from o1jax.data.template import Template
from o1jax.data.tokenizer import Tokenizer
from o1jax.loop.answer import Answerer
from o1jax.loop.chat import Chat
from o1jax.loop.methods import Search
from o1jax.loop.run import graded_task
from o1jax.loop.searching import Searcher
from o1jax.loop.workdir import Workdir
from o1jax.rollout.sampling import SamplingConfig
from o1jax.search.trace import Trace
from o1jax.tasks.task import Example, Task
from o1jax.types import Trajectory

CUT = ", cut off at SamplerConfig.max_new_tokens"


def ask(workdir: Path, question: str, *, temperature: float) -> None:
    """Answers one question and prints its steps, their log-probs and the verdict.

    The verdict is that of the run's last task. A run without one prints the answer
    while it is sampled.
    """
    state = Workdir(load(workdir / "config.gin").experiment, workdir)
    if not (tasks := state.tasks()):
        chat = Chat(workdir, temperature=temperature)
        if not chat.remembers:  # no words around the question that everybody knows
            print(state.experiment.template.prompt(question))
        return _stream(chat, question)
    params, task = state.newest_params(), tasks[-1]
    template, example = state.experiment.template, task.parse(question)
    answerer = Answerer(
        state, [example], SamplingConfig(temperature=temperature), chunk=1
    )
    key = jax.random.key(time.time_ns() % 2**32) if temperature else state.key
    answer = jax.device_get(answerer.trajectory(params, key))
    for line in _shown(answer, example, task, state.tokenizer, template):
        print(line)


def ask_by_search(workdir: Path, question: str, method: Search) -> Trace:
    """The tree of a search for the answer to one question.

    ValueError if the run has no task: nothing would tell which steps are right.
    """
    state = Workdir(load(workdir / "config.gin").experiment, workdir)
    params, task = state.newest_params(), graded_task(state)
    example = task.parse(question)
    return Searcher(state, [example], task, method).trace(params, state.key)


def _stream(chat: Chat, question: str) -> None:
    for piece in chat.reply(question):
        print(piece, end="", flush=True)
    tokens, logprob, finished = chat.said
    cut = "" if finished else CUT
    print(f"\nnot graded  (log-prob {logprob:.3f}, {tokens} tokens{cut})")


class _Step(NamedTuple):
    end: int  # character offset behind the step
    verdict: str


def _shown(
    answer: Trajectory,
    example: Example,
    task: Task,
    tokenizer: Tokenizer,
    template: Template,
) -> Iterator[str]:
    """The lines that `ask` prints: the prompt, the steps, the verdict."""
    response = slice(int(answer.prompt_length[0]), int(answer.length[0]))
    tokens, logprob = answer.tokens[0, response].tolist(), answer.logprob[0, response]
    written = len(tokens) - bool(answer.finished[0])  # the stop token is in no step
    text = tokenizer.decode(tokens[:written])
    steps = _steps(text, example, task)
    ends = [len(tokenizer.decode(tokens[:n])) for n in range(1, written + 1)]
    # Half of a character may decode to more than the whole of it.
    ends = np.minimum.accumulate(np.array(ends[::-1], int))[::-1]
    owner = np.searchsorted([step.end for step in steps], ends)
    chance = np.bincount(owner, logprob[:written], minlength=len(steps) + 1)
    yield template.prompt(example.question)
    begin = 0
    for step, its_chance in zip([*steps, _Step(len(text), "")], chance):
        if shown := text[begin : step.end].strip():
            yield f"  {shown:28} {its_chance:8.3f}  {step.verdict}".rstrip()
        begin = step.end
    verdict = "right" if task.grade(example, text) >= 1 else "wrong"
    cut = "" if answer.finished[0] else CUT
    yield f"{verdict}  (log-prob {logprob.sum():.3f}, {len(tokens)} tokens{cut})"


def _steps(text: str, example: Example, task: Task) -> list[_Step]:
    """Where each closed step ends, and what the task's oracle says of it."""
    checks = task.check_steps(example, text)
    return [_Step(c.end, "ok" if c.correct else c.reason) for c in checks]
