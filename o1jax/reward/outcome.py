"""Outcome reward by verifier: each response graded by its task, on the host or not.

In: what was answered, as text or as tokens, and to which question. Out: grades in
[0, 1]. `grade` and `Grader` (while the device works) ask the task itself; `token_match`
and `steps_match` are jitted forms for tasks with one right response. Only the verifier
sees the answer, and nothing here runs during a search.
"""

import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from o1jax.tasks.task import Example, Task

SHOWN = 60  # characters of a question in an error


class GradeError(ValueError):
    """A verifier that gave no grade. Never a reward of 0: that would be learned from.

    Its message names the task and the question.
    """

    def __init__(self, task: Task, example: Example, reason: str) -> None:
        question = example.question
        if len(question) > SHOWN:
            question = question[: SHOWN - 3] + "..."
        super().__init__(f"{task.name}, question {question!r}: {reason}")


def grade(task: Task, examples: Sequence[Example], texts: Sequence[str]) -> np.ndarray:
    """f64[B] in [0, 1]: the grade of texts[i] as an answer to examples[i].

    GradeError if the task can't read a question or its gold answer, fails in another
    way, or gives something other than a number in [0, 1].
    """
    pairs = zip(examples, texts, strict=True)
    return np.array([_grade(task, e, t) for e, t in pairs], np.float64)


def _grade(task: Task, example: Example, text: str) -> float:
    try:
        value = float(task.grade(example, text))
    except Exception as error:  # a task is anybody's code
        reason = str(error).partition("\n")[0] or "no reason given"
        raise GradeError(task, example, f"{type(error).__name__}: {reason}") from error
    if not 0 <= value <= 1:  # which NaN is not, either
        raise GradeError(task, example, f"the grade {value} is not in [0, 1]")
    return value


class Grading:
    """A batch that is being graded."""

    def __init__(self, task: Task, parts: Sequence["_Part"], timeout: float) -> None:
        self._task, self._parts, self._timeout = task, parts, timeout

    def done(self) -> bool:
        """Whether `result` would return, or raise, at once."""
        return all(part.future.done() for part in self._parts)

    def result(self) -> np.ndarray:
        """f64[B], in the order of submission.

        GradeError as in `grade`, or if grades are missing after the grader's timeout.
        """
        return np.concatenate([self._wait(part) for part in self._parts])

    def _wait(self, part: "_Part") -> np.ndarray:
        try:
            return part.future.result(self._timeout)
        except TimeoutError as error:
            at = part.examples[min(len(part.grades), len(part.examples) - 1)]
            reason = f"not graded within {self._timeout:g} s"
            raise GradeError(self._task, at, reason) from error


class _Part(NamedTuple):
    """What one worker does in one go. It fills `grades`, which shows how far it is."""

    examples: Sequence[Example]
    texts: Sequence[str]
    grades: list[float]
    future: "Future[np.ndarray]"


class Grader:
    """Grades batches in the background, while the device computes.

        with Grader(task) as grader:
            grading = grader.submit(examples, texts)
            ...                                       # the next batch is sampled
            outcome = grading.result()

    Threads, because jax lets go of the GIL while a device works, and because a grade is
    cheaper than its way to another process: 4,096 answers took 9 / 33 / 74 ms to grade
    (chain / countdown / graph) and 10 / 58 / 95 ms to pickle. Those of graph beside
    125 ms of work on the same 2 cores: 199 ms in turn, 136 with a thread, 176 with two
    processes. More workers help a task only if it waits for something itself, such as
    a checker it has started.
    """

    def __init__(self, task: Task, *, workers: int = 1, timeout: float = 60.0) -> None:
        """`timeout`: seconds that Grading.result waits for a worker's part."""
        if workers < 1:
            raise ValueError(f"Grader needs at least one worker, not {workers}")
        if not timeout > 0:
            raise ValueError(f"Grader's timeout must be above 0 s, not {timeout}")
        self._task, self._workers, self._timeout = task, workers, timeout
        self._queue: queue.SimpleQueue[_Part | None] = queue.SimpleQueue()
        self._closed = False
        # Daemons: a verifier that hangs must not keep the program from ending, and an
        # executor of the standard library would wait for it.
        for _ in range(workers):
            threading.Thread(target=self._work, daemon=True).start()

    def __enter__(self) -> "Grader":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    def close(self) -> None:
        """Ends the workers once what was submitted is graded; does not wait for it."""
        if not self._closed:
            self._closed = True
            for _ in range(self._workers):
                self._queue.put(None)

    def submit(self, examples: Sequence[Example], texts: Sequence[str]) -> Grading:
        """Begins to grade texts[i] as an answer to examples[i]."""
        if self._closed:
            raise ValueError("the Grader is closed")
        if len(examples) != len(texts):
            raise ValueError(f"{len(texts)} answers to {len(examples)} questions")
        parts = []
        share = max(1, -(-len(texts) // self._workers))
        for start in range(0, max(len(texts), 1), share):
            rows = slice(start, start + share)
            # Copies, since the caller may fill the same lists again.
            part = _Part(list(examples[rows]), list(texts[rows]), [], Future())
            parts.append(part)
            self._queue.put(part)
        return Grading(self._task, parts, self._timeout)

    def _work(self) -> None:
        while (part := self._queue.get()) is not None:
            try:
                for example, text in zip(part.examples, part.texts):
                    part.grades.append(_grade(self._task, example, text))
            except GradeError as error:
                part.future.set_exception(error)
            else:
                part.future.set_result(np.array(part.grades, np.float64))


def gold_tokens(rows: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """(i32[B, A] right-padded with 0, i32[B]) of encoded gold answers or responses.

    ValueError for an empty one, which no response could match.
    """
    for i, row in enumerate(rows):
        if not len(row):
            raise ValueError(f"gold answer {i} has no tokens")
    length = np.array([len(row) for row in rows], np.int32)
    tokens = np.zeros((len(rows), max(length, default=0)), np.int32)
    for row, ids in zip(tokens, rows):
        row[: len(ids)] = ids
    return tokens, length


def token_match(
    tokens: jax.Array,
    prompt_length: jax.Array,
    length: jax.Array,
    answer: jax.Array,
    answer_length: jax.Array,
    *,
    step_end_id: int,
    stop_ids: Sequence[int],
) -> jax.Array:
    """f32[B]: 1.0 where the last step is the answer and the text stops behind it.

    `... ; 34 ; EOS` matches the answer `34`. It differs from Task.grade in three ways:
    the steps before the last are not checked, a text that was cut off in front of its
    stop token earns nothing, and a pad or BOS token inside is a fault, which decoding
    would drop.

    Args:
      tokens: i32[B, T], prompt then response; prompt_length, length: i32[B].
      answer: i32[B, A], without the mark; answer_length: i32[B], both of gold_tokens.
      step_end_id: the mark that closes a step; stop_ids: what ends a response.
    """
    B, T = tokens.shape
    chex.assert_shape([prompt_length, length, answer_length], (B,))
    t = jnp.arange(T)[None]
    mark = tokens == step_end_id
    end = length - 2  # where the mark must be: the last token is the stop token
    closed = jnp.any(mark & (t == end[:, None]), axis=1)
    last = jnp.sum(jnp.where(t == length[:, None] - 1, tokens, 0), axis=1)
    stopped = jnp.isin(last, jnp.array(stop_ids, tokens.dtype))
    earlier = mark & (t < end[:, None])
    # Marks of the prompt are passed over: a step begins behind the prompt at least.
    begin = jnp.max(jnp.where(earlier, t + 1, prompt_length[:, None]), axis=1)
    same = _same(tokens, begin, end, answer, answer_length)
    return (closed & stopped & same).astype(jnp.float32)


def steps_match(
    tokens: jax.Array,
    prompt_length: jax.Array,
    length: jax.Array,
    gold: jax.Array,
    gold_length: jax.Array,
) -> jax.Array:
    """f32[B]: 1.0 where the response is the gold response, stop token included.

    On a task with one right response, such as chain, this is Task.grade, but for texts
    that were cut off and for special tokens inside, as in `token_match`.

    Args:
      tokens: i32[B, T], prompt then response; prompt_length, length: i32[B].
      gold: i32[B, G]; gold_length: i32[B], both of gold_tokens.
    """
    chex.assert_shape([prompt_length, length, gold_length], tokens.shape[:1])
    same = _same(tokens, prompt_length, length, gold, gold_length)
    return same.astype(jnp.float32)


def _same(
    tokens: jax.Array,
    begin: jax.Array,
    end: jax.Array,
    gold: jax.Array,
    gold_length: jax.Array,
) -> jax.Array:
    """bool[B]: whether tokens[begin:end] are the first `gold_length` of gold, not 0."""
    chex.assert_equal_shape_prefix([tokens, gold], 1)
    i = jnp.arange(gold.shape[1])[None]
    # Places outside the row are read as its nearest one; lengths then differ anyway.
    place = jnp.clip(begin[:, None] + i, 0, tokens.shape[1] - 1)
    equal = jnp.take_along_axis(tokens, place, axis=1) == gold
    equal = jnp.all(equal | (i >= gold_length[:, None]), axis=1)
    return equal & (end - begin == gold_length) & (gold_length > 0)
