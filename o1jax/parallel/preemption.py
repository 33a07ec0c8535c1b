"""SIGTERM, as a machine gets it that is about to be taken away: save, then exit.

While something could be saved the run goes on to the end of the step, saves and raises
Preempted; where nothing could be, it raises at once. All processes agree on the step,
whichever of them was told. A step that takes longer than the grace period is given up:
a run that is killed goes on from its newest checkpoint anyway.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from o1jax.parallel import hosts

GRACE = 25.0  # seconds; spot machines and Kubernetes give 30


class Preempted(BaseException):
    """Raised where the run may end; its text says what is safe."""

    def __init__(self, said: str, *, together: bool = False) -> None:
        super().__init__(said)
        self.together = together  # all processes raise it


_asked = threading.Event()  # this process was told
_savers = 0  # contexts open that will save
_votes: list[jax.Array] = []  # asked of all processes, and not read yet


@contextmanager
def watching() -> Iterator[None]:
    """Inside, SIGTERM is a request. For the main thread."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    old = signal.signal(signal.SIGTERM, _on_sigterm)
    # Python runs a handler when the main thread is back from C++, which compiles for
    # minutes; a byte in the pipe is there at once.
    old_fd = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    threading.Thread(target=_count_down, args=(read,), daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(old_fd)
        signal.signal(signal.SIGTERM, old)
        os.close(write)  # which ends the thread
        _asked.clear()
        _votes.clear()


@contextmanager
def saving() -> Iterator[None]:
    """Inside, somebody calls `agreed` once a step, saves, and raises Preempted."""
    global _savers
    _savers += 1
    try:
        yield
    finally:
        _savers -= 1


def agreed(*, during: Any = None) -> bool:
    """Whether to stop here: some process was told. All processes have to ask.

    during: results of the step that the devices are at. Then nobody waits for it, and
    what was found at the call before is said.
    """
    if not hosts.several():
        return _asked.is_set()
    if during is None:
        return not hosts.everywhere(not _asked.is_set())
    if jax.default_backend() == "cpu":  # gloo would mix up messages of two programs
        jax.block_until_ready(during)
    _votes.append(_vote(_asked.is_set()))
    return len(_votes) > 1 and bool(_votes.pop(0))


def exit_code() -> int:
    """Of a run that was preempted: 0, or what a scheduler wants to see."""
    return int(os.environ.get("O1JAX_PREEMPTED_EXIT", 0))


def _vote(yes: bool) -> jax.Array:
    """bool[], on its way: whether any process says yes."""
    mesh = Mesh(np.array(jax.devices()), "all")
    each = NamedSharding(mesh, PartitionSpec("all"))
    votes = jax.make_array_from_callback(
        (mesh.size,), each, lambda at: np.full(mesh.size, yes)[at]
    )
    return _any(votes)


@jax.jit
def _any(votes: jax.Array) -> jax.Array:
    return jnp.any(votes)


def _on_sigterm(*_: object) -> None:
    _asked.set()
    if not _savers:
        raise Preempted("nothing had to be saved")


def _count_down(read: int) -> None:
    """Ends the process some time after the first SIGTERM."""
    with os.fdopen(read, "rb", buffering=0) as pipe:
        while told := pipe.read(1):
            if told[0] == signal.SIGTERM:
                break
        else:
            return
        grace = float(os.environ.get("O1JAX_GRACE", GRACE))
        timer = threading.Timer(grace, _give_up, [grace])
        timer.daemon = True
        timer.start()
        while pipe.read(1):  # a full pipe would lose other signals
            pass
        timer.cancel()


def _give_up(grace: float) -> None:
    print(
        f"o1jax: SIGTERM: no step ended within {grace:g} s; the newest checkpoint "
        "stands, run again to go on",
        file=sys.stderr,
        flush=True,
    )
    os._exit(exit_code())
