"""Several processes as one: how they start, and what only one of them does.

In: O1JAX_COORDINATOR=host:port of process 0, O1JAX_PROCESSES and O1JAX_PROCESS_ID; or
O1JAX_COORDINATOR=auto on a TPU slice. Out: jax over the devices of all. Every process
runs the same program and knows the same numbers; files are written by the first one.
With one process all of this is nothing.
"""

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from o1jax.parallel.rollcall import roll_call, split

PORT = 8476  # of process 0, where a slice tells its hosts and no more
Tree = TypeVar("Tree")


@dataclass(frozen=True)
class Hosts:
    """Where this process belongs. Without an address, jax finds out by itself."""

    address: str = ""
    count: int = 0
    index: int = 0
    timeout: float = 300.0  # seconds to wait for the others at the start
    heartbeat: int = 100  # seconds of silence after which one counts as dead

    def __post_init__(self) -> None:
        if not self.address:
            return
        split(self.address)
        if self.count < 1:
            raise ValueError(f"O1JAX_PROCESSES={self.count} must be at least 1")
        if not 0 <= self.index < self.count:
            raise ValueError(
                f"O1JAX_PROCESS_ID={self.index} must be in [0, {self.count})"
            )


def hosts_of(env: Mapping[str, str]) -> Hosts | None:
    """What the environment says; None for a run of one process. ValueError if odd."""
    address = env.get("O1JAX_COORDINATOR", "")
    if not address:
        given = [n for n in ("O1JAX_PROCESSES", "O1JAX_PROCESS_ID") if n in env]
        if given:
            raise ValueError(f"{given[0]} is set, but O1JAX_COORDINATOR is not")
        return None
    waits = {
        "timeout": float(_whole(env, "O1JAX_HOSTS_TIMEOUT", 300)),
        "heartbeat": _whole(env, "O1JAX_HEARTBEAT", 100),
    }
    if address != "auto":
        count, index = (
            _whole(env, name, -1) for name in ("O1JAX_PROCESSES", "O1JAX_PROCESS_ID")
        )
        return Hosts(address, count, index, **waits)
    names = env.get("TPU_WORKER_HOSTNAMES", "").split(",")
    if len(names) == 1:
        return Hosts(**waits)  # jax asks the metadata server
    index = _whole(env, "TPU_WORKER_ID", -1)
    return Hosts(f"{names[0]}:{PORT}", len(names), index, **waits)


def _whole(env: Mapping[str, str], name: str, default: int) -> int:
    text = env.get(name, str(default))
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{name}={text!r} is not a whole number") from None


def start(mind: str = "") -> None:
    """Joins the other processes, if the environment names any.

    Call it before anything asks jax for a device. mind: what must be the same on all
    hosts. RollCallError, the same line on all hosts, if one is missing or differs.
    """
    hosts = hosts_of(os.environ)
    if hosts is None or jax.distributed.is_initialized():
        return
    place: dict[str, Any] = {}
    if hosts.address:
        mind = f"jax {jax.__version__}{mind and ', '}{mind}"
        where = (hosts.address, hosts.count, hosts.index)
        roll_call(*where, mind=mind, timeout=hosts.timeout)
        place = dict(zip(("coordinator_address", "num_processes", "process_id"), where))
    if jax.config.jax_platforms == "cpu":
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        # Programs of one process that run side by side would meet each other's
        # messages in another order elsewhere, and wait for ever; and so does a program
        # that one process compiled and the others read from the cache (jax 0.10).
        jax.config.update("jax_cpu_enable_async_dispatch", False)
        jax.config.update("jax_enable_compilation_cache", False)
    # Its handler of SIGTERM would take the place of ours (preemption.py).
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        **place,
        initialization_timeout=int(hosts.timeout),
        heartbeat_timeout_seconds=hosts.heartbeat,
        shutdown_timeout_seconds=600,  # while the first process draws the report
    )


def several() -> bool:
    """Whether this run has more than one process."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def first() -> bool:
    """Whether this is the process that writes files and speaks."""
    return jax.process_index() == 0


def everywhere(ok: bool) -> bool:
    """Whether every process says so; all have to ask."""
    return bool(np.all(multihost_utils.process_allgather(np.array(ok))))


def once(act: Callable[[], Any]) -> None:
    """The first process does it; when this returns it is done, for all of them.

    What it raises there, it raises; the others raise a RuntimeError that says where to
    look.
    """
    if not several():
        act()
        return
    error = None
    if first():
        try:
            act()
        except Exception as raised:  # the others wait for word, whatever it was
            error = raised
    if everywhere(error is None):
        return
    if error is not None:
        raise error
    raise RuntimeError("the first process failed; its log says why")


def part() -> None:
    """Ends the connection to the others, if any, who do the same now."""
    if not several():
        return
    with contextlib.suppress(RuntimeError):
        jax.distributed.shutdown()


def fetch(tree: Tree) -> Tree:
    """The numpy arrays of a pytree, whole in every process, wherever they lie."""
    if not several():
        return jax.device_get(tree)

    def whole(x: Any) -> Any:
        if isinstance(x, jax.Array) and not (
            x.is_fully_addressable or x.is_fully_replicated
        ):
            return multihost_utils.process_allgather(x, tiled=True)
        return jax.device_get(x)

    return jax.tree.map(whole, tree)
