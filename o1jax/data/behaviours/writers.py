"""The writer of each synthetic task. One for a task of your own is a line here."""

from collections.abc import Callable
from typing import Any

from o1jax.data.behaviours.chain_writer import ChainWriter
from o1jax.data.behaviours.countdown_writer import CountdownWriter
from o1jax.data.behaviours.graph_writer import GraphWriter
from o1jax.data.behaviours.writer import Writer
from o1jax.tasks import Chain, Countdown, Graph, Task

WRITERS: dict[type, Callable[[Any], Writer]] = {
    Chain: ChainWriter,
    Countdown: CountdownWriter,
    Graph: GraphWriter,
}


def writer(task: Task) -> Writer:
    """The writer of a task. ValueError if nobody can write about it."""
    for kind, made in WRITERS.items():
        if isinstance(task, kind):
            return made(task)
    known = ", ".join(sorted(kind.__name__ for kind in WRITERS))
    raise ValueError(f"task is {type(task).__name__}; texts are for {known}")
