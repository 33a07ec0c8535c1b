"""Collectives of a compiled program: what kind, along which axes, and whose.

In: the text of an optimised HLO module, and its mesh. Out: each operation that
communicates, in order. The policy's own are told by their scope, `policy`.
"""

import re
from dataclasses import dataclass

import numpy as np
from jax.sharding import Mesh

KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
OPERATION = re.compile(rf" ({'|'.join(KINDS)})(?:-start)?\(")
# Of 8 devices: {{0,1},{2,3},{4,5},{6,7}}, or the same as [4,2]<=[8]; a list of pairs is
# a permute's.
IOTA = re.compile(r"replica_groups=\[[\d,]+,(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
LISTED = re.compile(r"(?:replica_groups|source_target_pairs)=\{((?:\{[\d,]+\},?)*)\}")


@dataclass(frozen=True)
class Collective:
    """One operation that communicates, as it stands in a compiled program."""

    kind: str
    axes: tuple[str, ...]  # of the mesh, along which its devices differ
    policy: bool  # it is part of the network's own computation


def groups(line: str) -> list[np.ndarray]:
    """The devices of an operation that talk to one another; empty for all of them."""
    if found := IOTA.search(line):
        size, shape, order = found.groups()
        ids = np.arange(np.prod([int(n) for n in shape.split(",")]))
        ids = ids.reshape([int(n) for n in shape.split(",")])
        if order:
            ids = ids.transpose([int(n) for n in order.split(",")])
        return list(ids.reshape(-1, int(size)))
    listed = LISTED.search(line)
    rows = re.findall(r"\{([\d,]+)\}", listed[1]) if listed else []
    return [np.array([int(n) for n in row.split(",")]) for row in rows]


def collectives(text: str, mesh: Mesh) -> tuple[Collective, ...]:
    """All of a compiled program's, in order."""
    found = []
    for line in text.splitlines():
        if not (operation := OPERATION.search(line)):
            continue
        among = groups(line) or [np.arange(mesh.size)]
        where = [np.unravel_index(ids, mesh.devices.shape) for ids in among]
        axes = tuple(
            name
            for i, name in enumerate(mesh.axis_names)
            if any(np.ptp(places[i]) for places in where)
        )
        scope = re.search(r'op_name="([^"]*)"', line)
        own = scope is not None and "policy" in scope[1].split("/")
        found.append(Collective(operation[1], axes, own))
    return tuple(found)
