"""What a compiled program moves between devices: bytes sent, along which mesh axes.

In: an HLO module and the mesh it was compiled for. Out: its collectives. Bytes are
those that a device sends in a ring over a group of n, the least that each needs:
(n-1)/n of what is gathered or scattered, twice that of what is reduced for everyone
(Patarasuk & Yuan 2009, doi 10.1016/j.jpdc.2008.09.002). Latency is not counted.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh

from o1jax.aot.hlo import Computation, Module, Operation, sizes, walk

KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
# Of 8 devices: {{0,1},{2,3},{4,5},{6,7}}, the same as [4,2]<=[8], or by named axes
# mesh['a'=4,'b'=2] {'b'}; a list of pairs is a permute's.
IOTA = re.compile(r"replica_groups=\[[\d,]+,(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
LISTED = re.compile(r"(?:replica_groups|source_target_pairs)=\{((?:\{[\d,]+\},?)*)\}")
NAMED = re.compile(
    r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(([^{]*)\))? \{([^}]*)\}"
)
IDS = re.compile(r"\[([\d,]+)\](?:T\(([\d,]+)\))?$")
PIECE = "AsyncCollectiveStart"  # of a collective that is spread over several fusions


class Collective(NamedTuple):
    """An operation that communicates."""

    kind: str
    axes: tuple[str, ...]  # of the mesh, along which its devices differ
    size: int  # devices that talk to one another
    sent: float  # bytes that a device sends, each time
    times: float  # of a call of the program
    scope: str  # where it comes from: metadata's op_name

    @property
    def bytes(self) -> float:
        """Sent by a device in a call of the program."""
        return self.sent * self.times


def collectives(
    module: Module, mesh: Mesh, unknown: tuple[float, ...] = ()
) -> list[Collective]:
    """All of a program's; unknown: as in hlo.walk."""
    found = []
    for computation, times in walk(module, unknown):
        for inside, op in _communicating(module, computation):
            found.append(_read(inside, op, mesh, times))
    return found


def _communicating(
    module: Module, computation: Computation
) -> Iterator[tuple[Computation, Operation]]:
    """Collectives of a computation and of what it fuses, each once."""
    for op in computation.operations:
        if op.kind.removesuffix("-start") in KINDS:
            yield computation, op
        elif op.kind == "fusion" and (name := op.called("calls")):
            inside = module.computations[name]
            for inner, own in _communicating(module, inside):
                # Spread over fusions, it stands in each of them; one of them begins it.
                spread = "chain_id=" in own.text
                if not spread or any(PIECE in x.text for x in inner.operations):
                    yield inner, own


def _read(inside: Computation, op: Operation, mesh: Mesh, times: float) -> Collective:
    kind = op.kind.removesuffix("-start")
    among = groups(op.text) or [np.arange(mesh.size)]
    where = [np.unravel_index(ids, mesh.devices.shape) for ids in among]
    axes = tuple(
        name
        for i, name in enumerate(mesh.axis_names)
        if any(np.ptp(places[i]) for places in where)
    )
    size = max(len(ids) for ids in among)
    if kind == "all-reduce" and "all-reduce-scatter" in inside.name:
        kind, sent = "reduce-scatter", _result(op) * (size - 1) / size
    else:
        sent = _sent(kind, op, size, among)
    scope = re.search(r'op_name="([^"]*)"', op.text)
    return Collective(kind, axes, size, sent, times, scope[1] if scope else "")


def _result(op: Operation) -> int:
    """Bytes of what comes out; a `-start` of a gather also holds what goes in."""
    parts = sizes(op.type)
    if op.kind == "all-gather-start":
        return sum(parts[len(parts) // 2 :])
    if op.kind == "collective-permute-start":
        return parts[0]
    return sum(parts)


def _sent(kind: str, op: Operation, n: int, among: list[np.ndarray]) -> float:
    size = _result(op)
    if kind == "all-reduce":
        return 2 * size * (n - 1) / n
    if kind == "reduce-scatter":
        return size * (n - 1)
    if kind == "collective-permute":
        return float(size if any(pair[0] != pair[-1] for pair in among) else 0)
    if kind == "collective-broadcast":
        return float(size)
    return size * (n - 1) / n


def groups(text: str) -> list[np.ndarray]:
    """The devices of an operation that talk to one another; empty for all of them."""
    if found := IOTA.search(text):
        size, shape, order = found.groups()
        return list(_ids(shape, order).reshape(-1, int(size)))
    if found := NAMED.search(text):
        return _by_axes(*found.groups())
    listed = LISTED.search(text)
    rows = re.findall(r"\{([\d,]+)\}", listed[1]) if listed else []
    return [np.array(_numbers(row)) for row in rows]


def _by_axes(axes: str, ids: str | None, wanted: str) -> list[np.ndarray]:
    """Groups along axes of a mesh of their own; 'a':(2)4 is a part of an axis."""
    named = {name: int(n) for name, n in re.findall(r"'([^']*)'=(\d+)", axes)}
    parts = {}  # name -> (before, its part)
    for name, before, part in re.findall(r"'([^']*)'(?::\((\d+)\)(\d+))?", wanted):
        parts[name] = (int(before or 1), int(part or named[name]))
    shape, along = [], []
    for name, size in named.items():
        before, part = parts.get(name, (1, 1))
        shape += [before, part, size // (before * part)]
        along += [False, name in parts, False]
    count = math.prod(shape)
    order = np.arange(count)
    if ids and (iota := IDS.match(ids)):
        order = _ids(*iota.groups()).ravel()
    elif ids:
        order = np.array(_numbers(ids))
    placed = order.reshape(shape)
    inner = [i for i, own in enumerate(along) if own]
    outer = [i for i, own in enumerate(along) if not own]
    size = math.prod(shape[i] for i in inner)
    return list(placed.transpose(outer + inner).reshape(-1, size))


def _ids(shape: str, order: str | None) -> np.ndarray:
    sizes_ = _numbers(shape)
    ids = np.arange(math.prod(sizes_)).reshape(sizes_)
    return ids.transpose(_numbers(order)) if order else ids


def _numbers(text: str) -> list[int]:
    return [int(n) for n in text.split(",")]
