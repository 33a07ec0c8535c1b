"""The gym's worker process beside a stand-in for the library, see standin/."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from o1jax.tasks import gym
from o1jax.tasks.worker import Worker

STANDIN = str(Path(__file__).parent / "standin")


@contextlib.contextmanager
def standin() -> Iterator[Worker]:
    """A worker process of its own, which the tasks use meanwhile."""
    sys.path.insert(0, STANDIN)
    worker, before = Worker(gym.PROCESS, seconds=0.5), gym._worker
    gym._worker = lambda: worker
    caches = (gym.families, gym._example)
    for cache in caches:
        cache.cache_clear()
    try:
        yield worker
    finally:
        sys.path.remove(STANDIN)
        gym._worker = before
        for cache in caches:
            cache.cache_clear()
        worker.close()
