"""A function in a process of its own: hangs, crashes and floods stay there."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from o1jax.tasks.worker import SLOW, Reply, Worker

CODE = """
import os, time
def prepare():
    print("no reply")
def act(what, amount=0):
    if what == "loop":
        while True: pass
    if what == "bomb":
        return len(str(9 ** 9 ** 9))
    if what == "exit":
        os._exit(3)
    if what == "memory":
        return len(bytearray(1 << 40))
    if what == "deep":
        return act("deep")
    if what == "write":
        with open(amount, "w") as out:
            out.write("x")
    if what == "order":
        return list({"a", "b", "c", "d", "e"})
    print("nor this")
    return what * amount
"""


@pytest.fixture(scope="module", autouse=True)
def module(tmp_path_factory):
    folder = tmp_path_factory.mktemp("worker")
    (folder / "acting.py").write_text(CODE)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def worker():
    worker = Worker("acting:act", seconds=0.2)
    yield worker
    worker.close()


def test_values_come_back_and_prints_do_not(worker):
    assert worker("ab", 2) == Reply("abab")
    assert worker("ab", 500_000).value == "ab" * 500_000
    assert worker("x", "y").fault.startswith("TypeError: can't multiply")


def test_one_that_hangs_costs_the_others_nothing(worker):
    assert worker("x", 1) == Reply("x")
    starts = worker.starts
    replies = worker.batch([("a", 1), ("loop",), ("exit",), ("deep",), ("b", 1)])
    assert [reply.value for reply in replies] == ["a", None, None, None, "b"]
    assert replies[1].fault == SLOW
    assert replies[2].fault == "crash, exit code 3"
    assert replies[3].fault.startswith("RecursionError")
    assert worker.starts == starts + 1  # of the one that ended itself


def test_a_product_of_integers_is_ended_too_and_memory_is_bounded(worker):
    assert worker("bomb").fault == SLOW
    assert worker("memory").fault.startswith("MemoryError")
    assert worker("x", 1) == Reply("x")


def test_nothing_is_written_to_a_file(worker, module):
    worker("write", str(module / "out"))
    assert not (module / "out").exists() or not (module / "out").read_text()


def test_sets_have_the_same_order_in_every_process(worker):
    other = Worker("acting:act")
    assert worker("order") == other("order")
    other.close()


def test_what_cannot_be_imported_is_named():
    with pytest.raises(ValueError, match=r"missing:act: ModuleNotFoundError: No mod"):
        Worker("missing:act")()
    with pytest.raises(ValueError, match=r"acting:nothing: AttributeError"):
        Worker("acting:nothing")()
    with pytest.raises(ValueError, match=r"Worker\.seconds must be above 0, got 0"):
        Worker("acting:act", seconds=0)


def test_the_process_ends_with_its_parent(worker, module):
    """Even in the midst of a call: the parent is gone, nobody waits for the reply."""
    script = (
        "import os, sys; sys.path.insert(0, sys.argv[1])\n"
        "from o1jax.tasks.worker import Worker\n"
        "w = Worker('acting:act'); w('x', 1)\n"
        "print(w._process.pid, flush=True); os._exit(0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(module)], capture_output=True, text=True
    )
    pid, limit = int(done.stdout), time.monotonic() + 20
    while Path(f"/proc/{pid}").exists() and time.monotonic() < limit:
        time.sleep(0.05)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
