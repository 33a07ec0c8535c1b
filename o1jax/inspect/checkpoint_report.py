"""`o1jax inspect`: everything that was asked about a checkpoint, in one record.

In: a path or the address of an object store, whether to measure the arrays, and another
checkpoint to compare with. Out: an Inspection, which checkpoint_text draws for a
terminal and checkpoint_page for a browser; or JSON.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from o1jax.inspect.checkpoint import Checkpoint, read_checkpoint, wrong_checksums
from o1jax.inspect.checkpoint_diff import (
    Moved,
    MovedError,
    Structure,
    comparable,
    compare_arrays,
    compare_structure,
)
from o1jax.inspect.checkpoint_item import Array
from o1jax.inspect.checkpoint_pieces import GIB
from o1jax.inspect.checkpoint_place import Place, find_place, find_stages
from o1jax.inspect.checkpoint_stats import ArrayStats, StatsError, measure, work

MEMORY = 1.5  # GiB, of 2 that the whole program may take
# Told what is done, and of how many bytes in all; a context that gives what to call
# with the bytes of each piece.
Progress = Callable[[str, int], Any]


class StageSummary(NamedTuple):
    """A folder of steps, and the newest that was committed."""

    name: str  # below the path that was asked for
    steps: tuple[str, ...]  # names of their folders, oldest first
    newest: Checkpoint | None  # None if no step was committed


class Diff(NamedTuple):
    """What differs from another checkpoint."""

    other: Checkpoint  # the one before
    structure: Structure
    moved: tuple[Moved, ...]  # by kind, then by relative distance, farthest first
    failed: tuple[MovedError, ...]


class Inspection(NamedTuple):
    """What was found out."""

    where: str  # as it was asked for
    stages: tuple[StageSummary, ...]  # () if that is itself a step
    checkpoint: Checkpoint | None  # None if no step was committed
    stats: tuple[ArrayStats, ...] | None  # None if they were not asked for
    failed: tuple[StatsError, ...]
    diff: Diff | None
    problems: tuple[str, ...]  # a line for each file


@contextmanager
def no_progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """For whoever does not watch."""
    yield lambda _: None


def inspect_checkpoint(
    where: str,
    *,
    stats: bool = False,
    diff: str = "",
    only: str = "",
    memory: float = MEMORY,
    progress: Progress = no_progress,
) -> Inspection:
    """Look at a checkpoint: a workdir, a stage's folder or a step; of several, the
    newest. `only` is a pattern for the paths of arrays to measure and compare.

    ValueError if there is none, or the pattern is none.
    """
    wanted = _pattern(only)
    budget = int(memory * GIB)
    place, stages, found = _find(where)
    problems = _stage_problems(stages, found)
    checkpoint = found[1] if found else None
    measured, failed, difference = None, [], None
    if checkpoint:
        problems += checkpoint.problems
    if diff:
        _, _, other = _find(diff)
        if not checkpoint or not other:
            raise ValueError(f"{diff if checkpoint else where}: no step was committed")
        problems += [f"{diff}: {problem}" for problem in other[1].problems]
        difference = _compare(other[1], checkpoint, wanted, budget, progress)
        problems += _unreadable(difference.failed)
    if stats and checkpoint:
        arrays = [a for a in checkpoint.arrays if wanted(a.path) and a.zarr]
        params = {a.path for a in checkpoint.params}
        total = sum(work(a, a.path in params) for a in arrays)
        measured = []
        with progress("measuring", total) as advance:
            for result in measure(
                arrays, checkpoint.params, memory=budget, advance=advance
            ):
                good = isinstance(result, ArrayStats)
                (measured if good else failed).append(result)
        problems += _unreadable(failed)
        if not only and checkpoint.stored is not None:
            with progress("checksums", checkpoint.stored) as advance:
                for size, problem in wrong_checksums(place.under(found[0])):
                    advance(size)
                    problems += [problem] if problem else []
    return Inspection(
        where=where,
        stages=tuple(stages),
        checkpoint=checkpoint,
        stats=None if measured is None else tuple(measured),
        failed=tuple(failed),
        diff=difference,
        problems=tuple(dict.fromkeys(problems)),
    )


def _find(
    where: str,
) -> tuple[Place, list[StageSummary], tuple[str, Checkpoint] | None]:
    """The place, its stages, and name and metadata of the newest step."""
    place = find_place(where)
    stages = find_stages(place)
    if not stages:
        raise ValueError(f"{where}: no checkpoint there, and no run with one")
    if stages[0].steps[0].name == "":
        return place, [], ("", read_checkpoint(place, stages[0].steps[0].number))
    summaries, newest = [], None
    for stage in stages:
        step = stage.newest
        read = step and read_checkpoint(place.under(step.name), step.number)
        names = tuple(step.name.rpartition("/")[2] for step in stage.steps)
        summaries.append(StageSummary(stage.name, names, read))
        if read and (newest is None or newest[1].written <= read.written):
            newest = step.name, read
    return place, summaries, newest


def _stage_problems(
    stages: Sequence[StageSummary], found: tuple[str, Checkpoint] | None
) -> list[str]:
    problems = []
    for stage in stages:
        start = f"{stage.name}/" if stage.name else ""
        for name in stage.steps:
            if re.search(r"\.(orbax-checkpoint-tmp|partial)\b", name):
                problems.append(f"{start}{name}: half-written, never committed")
            elif name.startswith("broken-"):
                problems.append(f"{start}{name}: damaged, and moved aside by its run")
        if stage.newest and (found is None or stage.newest is not found[1]):
            step = start + stage.newest.url.rpartition("/")[2]
            problems += [f"{step}: {line}" for line in stage.newest.problems]
    return problems


def _compare(
    before: Checkpoint,
    after: Checkpoint,
    wanted: Callable[[str], bool],
    memory: int,
    progress: Progress,
) -> Diff:
    pairs = [pair for pair in comparable(before, after) if wanted(pair[0].path)]
    total = sum(array.nbytes for pair in pairs for array in pair)
    moved, failed = [], []
    with progress("comparing", total) as advance:
        for result in compare_arrays(pairs, memory=memory, advance=advance):
            (moved if isinstance(result, Moved) else failed).append(result)
    weights = {array.path for array in after.params}
    moved.sort(key=lambda m: (m.path not in weights, -_rank(m.relative), m.path))
    structure = compare_structure(before, after)
    return Diff(before, structure, tuple(moved), tuple(failed))


def _rank(relative: float | None) -> float:
    return -1.0 if relative is None else relative


def _unreadable(failed: Sequence[StatsError | MovedError]) -> list[str]:
    return [f"{e.path}: can't be read: {e.reason}" for e in failed if e.damaged]


def _pattern(only: str) -> Callable[[str], bool]:
    try:
        pattern = re.compile(only)
    except re.error as error:
        raise ValueError(f"--only: {only!r} is no pattern: {error}") from None
    return lambda path: pattern.search(path) is not None


def to_json(inspection: Inspection) -> dict[str, Any]:
    """The same as objects and lists of plain JSON; no NaN."""
    stages = [
        {"name": s.name, "steps": s.steps, "newest": s.newest and s.newest.number}
        for s in inspection.stages
    ]
    whole = {
        "where": inspection.where,
        "stages": stages,
        "checkpoint": inspection.checkpoint and _checkpoint(inspection.checkpoint),
        "stats": inspection.stats,
        "not_measured": inspection.failed,
        "diff": inspection.diff,
        "problems": inspection.problems,
    }
    if inspection.diff:
        before = inspection.diff.other
        short = {"url": before.url, "number": before.number}
        whole["diff"] = inspection.diff._replace(other=short)
    return _plain(whole)


def _checkpoint(checkpoint: Checkpoint) -> dict[str, Any]:
    fields = checkpoint._asdict()
    for kind in ("params", "optimizer", "other"):
        fields[kind] = [_array(array) for array in fields[kind]]
    if checkpoint.config:
        fields["config"] = dict(zip(("file", "text"), checkpoint.config))
    return fields


def _array(array: Array) -> dict[str, Any]:
    fields = array._asdict()
    del fields["spec"]
    sharding = array.sharding and {
        **array.sharding._asdict(),
        "mesh": dict(array.sharding.mesh),
    }
    return {**fields, "sharding": sharding, "bytes": array.nbytes}


def _plain(value: Any) -> Any:
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, dict):
        return {str(key): _plain(cell) for key, cell in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(cell) for cell in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
