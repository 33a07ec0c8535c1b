"""What every measuring process shares: one pinned thread, a warm-up, a median.

A worker is started once and then asked, one line on stdin a time, to measure a case; it
answers with one line of JSON on stdout. Workers wait in turn, so the orchestrator can
interleave the sides of a comparison and drift of the machine hits them all.
Import this module before numpy, torch or jax: the pin must come first.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from importlib import metadata
from statistics import median

Run = Callable[[], object]  # does the work once and returns when it is really done
MIN_SECONDS = 0.5  # repeat short work so long that a timer tick is invisible

if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {int(os.environ.get("BENCH_CORE", "0"))})


def versions(*names: str) -> dict[str, str]:
    """Installed versions of the named distributions."""
    return {name: metadata.version(name) for name in names}


def measure(run: Run) -> dict[str, float]:
    """Median seconds of one call over at least MIN_SECONDS of calls."""
    times: list[float] = []
    while sum(times) < MIN_SECONDS:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return {"seconds": median(times), "calls": len(times)}


def serve(build: Callable[[str], tuple[Run, Run]], used: dict[str, str]) -> None:
    """Answers cases from stdin until it closes.

    `build(case)` gives the work and a first call that compiles or warms it. Where the
    first call is the work itself, what it took longer than the median is reported as
    compile time; it never counts in the measurement.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # a library that prints must not break the protocol

    def answer(record: dict[str, object]) -> None:
        print(json.dumps(record), file=answers, flush=True)

    answer({"versions": used})
    ready: dict[str, Run] = {}
    for line in sys.stdin:
        case, first = line.strip(), None
        if case not in ready:
            run, warm = build(case)
            start = time.perf_counter()
            warm()
            if warm is run:
                first = time.perf_counter() - start
            ready[case] = run
        result: dict[str, object] = dict(measure(ready[case]))
        if first is not None:
            result["compile"] = max(0.0, first - result["seconds"])
        note = getattr(ready[case], "note", dict)  # numbers beside the time
        answer({"case": case, **result, **note()})
