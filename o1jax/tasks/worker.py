"""A function in a process of its own, for code that may hang, crash or print.

In: the function as "module:name" and arguments that JSON can hold. Out: a Reply a call:
its value or its fault, in bounded time whatever the arguments are. The process stays
and is started again after it was ended. Not a sandbox: it keeps a process from hanging
or filling the memory, and cannot write to files; what it evaluates is to be looked at
before.
"""

import atexit
import functools
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

START = 600.0  # seconds in which it must have imported what it needs
WALL = 20  # times the processor time: how long a call may take on a busy machine
SLOW = "time"  # the fault of a call that took too long


class Reply(NamedTuple):
    """What a call gave."""

    value: Any  # None where there is a fault
    fault: str = ""  # SLOW, "crash ..." or the exception


class Worker:
    """Calls one function in a process of its own, one call at a time.

    `seconds` of processor time for each call, `memory` MiB for the process. Any thread
    may call it. Close it, or leave that to the end of the program.
    """

    def __init__(
        self, target: str, *, seconds: float = 5.0, memory: int = 4096
    ) -> None:
        if not seconds > 0:
            raise ValueError(f"Worker.seconds must be above 0, got {seconds}")
        self._command = [
            *(sys.executable, "-m", "o1jax.tasks.worker_process"),
            *(target, str(seconds), str(memory)),
        ]
        self._seconds = seconds
        self._process: subprocess.Popen | None = None
        self._buffer = b""
        self._lock = threading.Lock()
        self.starts = 0  # of the process
        atexit.register(self.close)

    def __call__(self, *args: Any) -> Reply:
        """The function of these arguments. ValueError if it cannot be imported."""
        line = json.dumps(args).encode() + b"\n"
        with self._lock:
            if self._process is None:
                self._start()
            return self._ask(line)

    def batch(self, calls: Iterable[Sequence[Any]]) -> list[Reply]:
        """A reply to each; a call that hangs or crashes costs the others nothing."""
        return [self(*args) for args in calls]

    def close(self) -> None:
        """Ends the process. The next call starts another."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()

    def _start(self) -> None:
        paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
        # Sets are written down in the same order by every process.
        own = {"PYTHONPATH": paths, "PYTHONHASHSEED": "0", "PYTHONWARNINGS": "ignore"}
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | own,
            bufsize=0,
        )
        self._buffer = b""
        self.starts += 1
        ready = self._read(START)
        if ready is None or ready.fault:
            why = self._ended() if ready is None else ready.fault
            self.close()
            raise ValueError(f"{self._command[3]}: {why}")

    def _ask(self, line: bytes) -> Reply:
        try:
            self._process.stdin.write(line)
        except BrokenPipeError:
            reply = None
        else:
            reply = self._read(WALL * self._seconds)
        if reply is None:
            fault = self._ended()
            self.close()
            return Reply(None, fault)
        return reply

    def _read(self, seconds: float) -> Reply | None:
        """The next line; None if none came in time, or if the process has ended."""
        stdout, limit = self._process.stdout, time.monotonic() + seconds
        while b"\n" not in self._buffer:
            left = max(0.0, limit - time.monotonic())
            if not select.select([stdout], [], [], left)[0]:
                return None
            if not (part := os.read(stdout.fileno(), 1 << 16)):
                return None
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\n")
        return Reply(*json.loads(line))

    def _ended(self) -> str:
        """Why there is no reply."""
        try:
            code = self._process.wait(0.2)
        except subprocess.TimeoutExpired:
            return SLOW
        return SLOW if code == -signal.SIGPROF else f"crash, exit code {code}"


@functools.cache
def shared_worker(target: str, seconds: float = 5.0, memory: int = 4096) -> Worker:
    """The worker for a function that everybody in this process uses."""
    return Worker(target, seconds=seconds, memory=memory)
