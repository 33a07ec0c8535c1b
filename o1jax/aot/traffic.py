"""What a compiled program reads from and writes to a device's memory.

In: an HLO module. Out: bytes of a call of the program. Each operation that runs by
itself reads its operands and writes its result, once; what is fused costs nothing, nor
what a layout puts on the chip; of a slice or an update in place only the part counts.
An estimate from shapes: padding is left out, and caches of the chip are not modelled.
"""

from o1jax.aot.collectives import KINDS
from o1jax.aot.hlo import Computation, Module, Operation, sizes, walk

# They move nothing, or what they run is counted by itself, or it is a part of another.
FREE = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "while",
    "conditional",
    "call",
    "after-all",
    "partition-id",
    "replica-id",
    "iota",
    "opt-barrier",
    *(f"{kind}-done" for kind in KINDS),
    "copy-done",
    "slice-done",
    "async-done",
    "async-update",
}
PARTS = {"dynamic-slice", "gather", "slice"}
IN_PLACE = {"dynamic-update-slice", "scatter"}


def traffic(module: Module, unknown: tuple[float, ...] = ()) -> float:
    """Bytes that a device's memory moves in a call; unknown: as in hlo.walk."""
    own = {name: _bytes(module, c) for name, c in module.computations.items()}
    return sum(own[c.name] * times for c, times in walk(module, unknown))


def _bytes(module: Module, computation: Computation) -> int:
    return sum(
        _of(module, computation, op)
        for op in computation.operations
        if op.kind not in FREE
    )


def _of(module: Module, computation: Computation, op: Operation) -> int:
    """Bytes of one operation."""
    if op.kind == "fusion":
        return _of_fusion(module, computation, op)
    if op.kind in PARTS:
        return 2 * _size(op)
    if op.kind in IN_PLACE:
        return 2 * _update(computation, op)
    if op.kind.endswith("-start"):  # its result holds its operands too
        return sum(sizes(op.type, hbm_only=True))
    return _size(op) + sum(_size(computation.by_name.get(x)) for x in op.operands)


def _of_fusion(module: Module, computation: Computation, op: Operation) -> int:
    inside = module.computations[op.called("calls")]
    root = inside.root
    while root.kind in ("bitcast", "convert", "copy") and root.operands:
        root = inside.by_name[root.operands[0]]
    in_place = root if root.kind in IN_PLACE else None
    moved = _size(op) if in_place is None else _update(inside, in_place)
    for inner in inside.operations:
        if inner.kind != "parameter":
            continue
        index = int(inner.text.partition(")")[0])
        if index >= len(op.operands):
            continue
        given = _size(computation.by_name.get(op.operands[index]))
        users = [x for x in inside.operations if inner.name in x.operands]
        if users and all(
            x.kind in PARTS and x.operands[0] == inner.name for x in users
        ):
            given = min(given, sum(_size(x, everywhere=True) for x in users))
        elif in_place is not None and _source(inside, in_place) == inner.name:
            given = 0
        moved += given
    return moved


def _source(inside: Computation, op: Operation) -> str:
    """The parameter that is updated, seen through casts and bitcasts."""
    name = op.operands[0]
    while (made := inside.by_name.get(name)) is not None and made.kind in (
        "bitcast",
        "convert",
        "copy",
    ):
        name = made.operands[0]
    return name


def _update(inside: Computation, op: Operation) -> int:
    place = 1 if op.kind == "dynamic-update-slice" else len(op.operands) - 1
    return _size(inside.by_name.get(op.operands[place]), everywhere=True)


def _size(op: Operation | None, *, everywhere: bool = False) -> int:
    return 0 if op is None else sum(sizes(op.type, hbm_only=not everywhere))
