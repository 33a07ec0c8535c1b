"""The other side of tasks/worker.py: `python -m o1jax.tasks.worker_process ...`.

In: a line of JSON for each call, its arguments. Out: a line each, [value, fault], the
first one once the function is imported and its module's `prepare()`, if any, has run.
A call that takes its processor time gets an exception; if that does not stop it (one
long product of integers cannot be interrupted), the kernel ends the process at twice
that time.
"""

import importlib
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

MIB = 1 << 20
SHOWN = 300  # characters of a fault


class _Slow(BaseException):
    """Not an Exception: libraries catch those."""


def main(target: str, seconds: float, memory: int) -> None:
    """Serves calls until stdin ends."""
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what libraries print is no reply
    function, fault = _import(target)
    _limit(memory)
    _reply(replies, None, fault)
    signal.signal(signal.SIGVTALRM, _raise_slow)
    for line in sys.stdin.buffer:
        _reply(replies, *_call(function, json.loads(line), seconds))


def _import(target: str) -> tuple[Callable[..., Any] | None, str]:
    module, _, name = target.partition(":")
    try:
        found = importlib.import_module(module)
        if hasattr(found, "prepare"):
            found.prepare()
        return getattr(found, name), ""
    except Exception as error:
        return None, _shown(error)


def _limit(memory: int) -> None:
    """Bounds memory, and lets nothing be written to files."""
    size = memory * MIB
    for kind, most in (
        (resource.RLIMIT_AS, size),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        if hard != resource.RLIM_INFINITY:
            most = min(most, hard)
        resource.setrlimit(kind, (most, hard))
    sys.setrecursionlimit(2000)


def _call(
    function: Callable[..., Any], args: list[Any], seconds: float
) -> tuple[Any, str]:
    try:
        signal.setitimer(signal.ITIMER_PROF, 2 * seconds)
        signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
        value = function(*args)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        return value, ""
    except _Slow:
        return None, "time"
    except Exception as error:
        return None, _shown(error)
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)


def _raise_slow(number: int, frame: Any) -> NoReturn:
    raise _Slow


def _shown(error: Exception) -> str:
    text = f"{type(error).__name__}: {error}".split("\n")[0]
    return text[:SHOWN]


def _reply(replies: Any, value: Any, fault: str) -> None:
    replies.write(json.dumps([value, fault]).encode() + b"\n")


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))
