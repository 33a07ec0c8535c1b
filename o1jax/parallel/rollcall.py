"""Who came: hosts of a run find each other before jax waits for them in silence.

In: the first process's address and how many are expected. Out: nothing once all are
there and of one mind; else an error on every host that came, which names who is missing
or different. One JSON line each way over TCP, on the port that jax takes afterwards.
"""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

EVERY = 0.2  # seconds between two attempts to reach the first process
PATIENCE = 5.0  # seconds longer than process 0 waits: its word says more than silence


class RollCallError(ValueError):
    """Who is missing, or does not belong here, in one line."""


def roll_call(
    address: str, count: int, index: int, *, mind: str, timeout: float
) -> None:
    """Returns once `count` processes with different indices and one `mind` are there.

    address: host:port of process 0. mind: what must be the same everywhere, such as the
    version and the config. RollCallError after `timeout` seconds, or at a mismatch.
    """
    own = {"index": index, "count": count, "host": socket.gethostname(), "mind": mind}
    deadline = time.monotonic() + timeout
    answer = _call if index == 0 else _answer
    answer(address, own, deadline, timeout)


def _call(address: str, own: dict[str, Any], deadline: float, timeout: float) -> None:
    """Process 0: waits for the others, and tells them how it went."""
    _, port = split(address)
    came = {0: own}
    with ExitStack() as open_ones:
        server = open_ones.enter_context(socket.create_server(("", port), backlog=4096))
        lines: list[socket.socket] = []
        problem = ""
        while len(came) < own["count"] and not problem:
            server.settimeout(max(deadline - time.monotonic(), 0.01))
            try:
                line, _ = server.accept()
            except TimeoutError:
                problem = _missing(came, own["count"], timeout)
                break
            open_ones.enter_context(line)
            line.settimeout(5)
            if (said := _read(line)) is None or "index" not in said:
                continue  # a port scanner, or a host that was killed
            index = said["index"]
            old = came.get(index)
            lines.append(line)
            problem = _mismatch(own, said, old)
            came.setdefault(index, said)
        for line in lines:
            with suppress(OSError):  # it has gone: jax will say so
                line.sendall(json.dumps({"problem": problem}).encode() + b"\n")
    if problem:
        raise RollCallError(problem)


def _answer(address: str, own: dict[str, Any], deadline: float, timeout: float) -> None:
    """Another process: says who it is until process 0 has heard everybody."""
    while True:
        left = deadline + PATIENCE - time.monotonic()
        if left <= 0:
            raise RollCallError(
                f"process 0 did not answer at {address} within {timeout:g} s; this is "
                f"process {own['index']} of {own['count']} on {own['host']}"
            )
        with suppress(OSError), socket.create_connection(split(address), left) as line:
            line.settimeout(left)
            line.sendall(json.dumps(own).encode() + b"\n")
            if (said := _read(line)) is not None and "problem" in said:
                if said["problem"]:
                    raise RollCallError(said["problem"])
                return
        time.sleep(EVERY)  # not there yet, or still the process of an earlier run


def _read(line: socket.socket) -> dict[str, Any] | None:
    """One JSON object of a line; None for anything else."""
    with suppress(OSError, ValueError), line.makefile("rb") as file:
        said = json.loads(file.readline(1 << 16))
        return said if isinstance(said, dict) else None
    return None


def _mismatch(own: dict, said: dict, old: dict | None) -> str:
    index, host = said["index"], said["host"]
    if said["count"] != own["count"]:
        return (
            f"process {index} on {host} expects {said['count']} processes, process 0 "
            f"on {own['host']} expects {own['count']}"
        )
    if old is not None or not 0 <= index < own["count"]:
        also = f"; it is on {old['host']} already" if old else ""
        return f"process {index} of {own['count']} came from {host}{also}"
    if said["mind"] != own["mind"]:
        return (
            f"process {index} on {host} runs {said['mind']}, process 0 on "
            f"{own['host']} runs {own['mind']}"
        )
    return ""


def _missing(came: dict[int, dict], count: int, timeout: float) -> str:
    there = ", ".join(f"{i} ({came[i]['host']})" for i in sorted(came))
    lost = [i for i in range(count) if i not in came]
    return (
        f"{len(lost)} of {count} processes did not come within {timeout:g} s: "
        f"{', '.join(_ranges(lost))} missing; came: {there}"
    )


def _ranges(numbers: list[int]) -> Iterator[str]:
    """[1, 2, 3, 7] -> 1-3, 7"""
    start = 0
    for end in range(1, len(numbers) + 1):
        if end == len(numbers) or numbers[end] != numbers[end - 1] + 1:
            first, last = numbers[start], numbers[end - 1]
            yield str(first) if first == last else f"{first}-{last}"
            start = end


def split(address: str) -> tuple[str, int]:
    """host:port in two. ValueError if it is not that."""
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isdecimal() and 0 < int(port) < 1 << 16):
        raise ValueError(f"the first process's address must be host:port: {address!r}")
    return host.strip("[]"), int(port)
