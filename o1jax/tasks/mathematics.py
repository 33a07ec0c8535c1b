r"""Grades of mathematical answers in free text, by rules first and then by sympy.

In: a response and the gold answer. Out: 1.0 or 0.0. The response's final answer is
found (final.py) and compared by rules of spelling (latex.py); where those cannot tell,
math-verify compares both in a worker process, with a time-out (extra `math`). What each
of the two gets wrong is in docs/answers.md.
"""

from collections.abc import Callable, Sequence

from o1jax.tasks.answers import exact, numeric
from o1jax.tasks.final import find_answer, plain
from o1jax.tasks.latex import same
from o1jax.tasks.math_process import MAX_LENGTH
from o1jax.tasks.worker import Worker, shared_worker

PROCESS = "o1jax.tasks.math_process:call"
SECONDS = 2.0  # of processor time for a comparison


def grade_math(response: str, gold: str) -> float:
    """1.0 if the final answer of a response is the gold answer, however written."""
    return float(equal_math(find_answer(response), gold))


def equal_math(answer: str, gold: str) -> bool:
    """Whether two answers are the same. ValueError for a gold answer that is blank."""
    if not gold.strip():
        raise ValueError("the gold answer is blank")
    decided = same(answer, gold)
    if decided is not None:
        return decided
    if max(len(answer), len(gold)) > MAX_LENGTH:
        return False
    reply = math_worker()("equal", answer, gold)
    return reply.value is True


def grade_many(responses: Sequence[str], golds: Sequence[str]) -> list[float]:
    """A grade for each; one that takes too long is 0.0 and holds up no other."""
    return [grade_math(text, gold) for text, gold in zip(responses, golds, strict=True)]


def grade_words(response: str, gold: str) -> float:
    """1.0 if the final answer is the gold answer in the same words."""
    return exact(plain(find_answer(response)), gold)


def grade_number(response: str, gold: str) -> float:
    """1.0 if the final answer is the gold number, as a number: no words beside it."""
    return numeric(plain(find_answer(response)), gold)


# By what name a task chooses one: function(response, gold) -> grade.
VERIFIERS: dict[str, Callable[[str, str], float]] = {
    "words": grade_words,
    "number": grade_number,
    "math": grade_math,
}


def math_worker() -> Worker:
    """The process that compares. ValueError if math-verify is not installed."""
    return shared_worker(PROCESS, SECONDS)
