"""Hosts find each other, or learn in one line who did not come."""

import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from o1jax.parallel.rollcall import RollCallError, roll_call


@pytest.fixture
def address():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return f"localhost:{free.getsockname()[1]}"


def call(address, *processes, timeout=10.0):
    """What each (count, index, mind) of `processes` was told, "" where all is well."""

    def said(count, index, mind):
        try:
            roll_call(address, count, index, mind=mind, timeout=timeout)
        except RollCallError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(len(processes)) as pool:
        return list(pool.map(lambda process: said(*process), processes))


def test_all_came(address):
    assert call(address, *((5, i, "v1") for i in range(5))) == [""] * 5


def test_everyone_who_came_is_told_who_is_missing(address):
    host = socket.gethostname()
    line = (
        "4 of 6 processes did not come within 0.5 s: 1-3, 5 missing; "
        f"came: 0 ({host}), 4 ({host})"
    )
    assert call(address, (6, 0, ""), (6, 4, ""), timeout=0.5) == [line] * 2


def test_without_process_0_the_others_say_so(address, monkeypatch):
    monkeypatch.setattr("o1jax.parallel.rollcall.PATIENCE", 0.2)
    (line,) = call(address, (2, 1, ""), timeout=0.2)
    assert line.startswith(f"process 0 did not answer at {address} within 0.2 s; this")


def test_another_version_or_config_is_refused_at_once(address):
    host = socket.gethostname()
    line = f"process 1 on {host} runs jax 2, process 0 on {host} runs jax 1"
    assert call(address, (3, 0, "jax 1"), (3, 1, "jax 2")) == [line] * 2


def test_two_processes_of_one_number_are_refused(address):
    host = socket.gethostname()
    lines = call(address, (3, 0, ""), (3, 1, ""), (3, 1, ""))
    assert lines == [f"process 1 of 3 came from {host}; it is on {host} already"] * 3


def test_another_number_of_processes_is_refused(address):
    (line, same) = call(address, (3, 0, ""), (2, 1, ""))
    assert "process 1 on" in line and "expects 2 processes, process 0 on" in line
    assert same == line


def test_what_is_no_process_is_passed_over(address):
    """A port scanner, or a process of an earlier run that was killed."""
    _, port = address.split(":")
    waiting = threading.Thread(target=lambda: call(address, (2, 0, "")))
    waiting.start()
    for content in (b"", b"GET / HTTP/1.1\r\n\r\n", b"[1, 2]\n"):
        while True:
            try:
                with socket.create_connection(("localhost", int(port))) as line:
                    line.sendall(content)
                break
            except ConnectionRefusedError:  # it does not listen yet
                continue
    assert call(address, (2, 1, "")) == [""]
    waiting.join()
