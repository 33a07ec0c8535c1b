"""What of math-verify runs in a worker process (its own time-outs use SIGALRM).

In: two answers in LaTeX. Out: whether sympy finds them equal. Source:
https://github.com/huggingface/Math-Verify
"""

from typing import Any

MAX_LENGTH = 2000  # characters of an answer


def prepare() -> None:
    """Imports the library; it logs what it cannot parse, which is nothing new."""
    import logging

    import math_verify  # noqa: F401

    logging.disable(logging.CRITICAL)


def equal(answer: str, gold: str) -> bool:
    """Whether the answers are equal; neither has text around it."""
    from math_verify import LatexExtractionConfig, parse, verify

    if max(len(answer), len(gold)) > MAX_LENGTH:
        return False
    config = [LatexExtractionConfig()]
    read = lambda text: parse(
        f"\\boxed{{{text}}}",
        config,
        fallback_mode="no_fallback",
        parsing_timeout=None,
    )
    right, found = read(gold), read(answer)
    if not right or not found:
        return False
    # Either way round: the comparison is not symmetric for equations and sets.
    return any(
        verify(a, b, timeout_seconds=None) for a, b in ((right, found), (found, right))
    )


def whole(response: str, gold: str) -> bool:
    """As the library's own example does it: the whole response, all defaults."""
    from math_verify import parse, verify

    read: Any = lambda text: parse(text, parsing_timeout=None)
    return bool(verify(read(gold), read(response), timeout_seconds=None))


def call(what: str, *args: Any) -> Any:
    """The function that a worker serves."""
    return {"equal": equal, "whole": whole}[what](*args)
