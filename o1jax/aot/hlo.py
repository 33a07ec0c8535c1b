"""A compiled program's text, taken apart: computations, operations, sizes.

In: the text of an optimised HLO module. Out: its computations, with what each calls and
how often its loops go round. What is made of that: collectives.py, traffic.py.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

SHAPE = re.compile(r"\b(pred|[suf]\d+|bf16|f8\w*|c\d+)\[([\d,]*)\](\{[^}]*\})?")
HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
OPERATION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*?)\s([a-z][\w\-]*)\((.*)$")
CALLED = re.compile(r"(calls|to_apply|body|condition)=%?([\w.\-]+)")
BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
TWO = re.compile(r"(?:true|false)_computation=%?([\w.\-]+)")
KNOWN_TRIPS = re.compile(r'"?known_trip_count"?:\s*\{"n":\s*"?(\d+)')
BITS = {"pred": 8, "bf16": 16}


@dataclass(frozen=True)
class Operation:
    """One instruction."""

    name: str
    kind: str  # its opcode
    type: str  # of the result, as written
    operands: tuple[str, ...]
    text: str  # behind the opcode
    root: bool

    @cached_property
    def bytes(self) -> int:
        """Of the result, all parts of a tuple together."""
        return sum(sizes(self.type))

    def called(self, what: str) -> str | None:
        """The computation it names as `calls`, `body`, ..."""
        return next((n for k, n in CALLED.findall(self.text) if k == what), None)

    @property
    def branches(self) -> list[str]:
        """Of a conditional."""
        if found := BRANCHES.search(self.text):
            return re.findall(r"%?([\w.\-]+)", found[1])
        return TWO.findall(self.text)


@dataclass
class Computation:
    """A list of operations."""

    name: str
    operations: list[Operation] = field(default_factory=list)

    @cached_property
    def by_name(self) -> dict[str, Operation]:
        return {op.name: op for op in self.operations}

    @cached_property
    def root(self) -> Operation:
        return next((op for op in self.operations if op.root), self.operations[-1])


@dataclass
class Module:
    """A compiled program."""

    computations: dict[str, Computation]
    entry: str

    def trips(self, loop: Operation, inside: Computation) -> int | None:
        """How often a while goes round; None where the data decide.

        Understood is a counter that goes up by one to a constant.
        """
        if known := KNOWN_TRIPS.search(loop.text):
            return int(known[1])
        condition = self.computations[loop.called("condition")]
        test = condition.root
        if test.kind != "compare" or "direction=LT" not in test.text:
            return None
        counter, limit = (condition.by_name.get(name) for name in test.operands)
        end = _constant(limit)
        if end is None or counter is None or counter.kind != "get-tuple-element":
            return None
        index = int(re.search(r"index=(\d+)", counter.text)[1])
        begin = inside.by_name.get(loop.operands[0])
        start = None
        if begin is not None and begin.kind == "tuple":
            start = _constant(inside.by_name.get(begin.operands[index]))
        return max(0, end - (start or 0))


def parse(text: str) -> Module:
    """The module of a text."""
    computations: dict[str, Computation] = {}
    entry, current = "", None
    for line in text.splitlines():
        if head := HEAD.match(line):
            current = computations[head[2]] = Computation(head[2])
            entry = head[2] if head[1] else entry
        elif line.rstrip() == "}":  # a kernel's metadata may have "}}, ..." on a line
            current = None
        elif current is not None and (found := OPERATION.match(line)):
            root, name, type_, kind, rest = found.groups()
            operands = tuple(re.findall(r"%([\w.\-]+)", _arguments(rest)))
            current.operations.append(
                Operation(name, kind, type_, operands, rest, bool(root))
            )
    return Module(computations, entry)


def sizes(type_: str, *, hbm_only: bool = False) -> list[int]:
    """Bytes of each array of a type, without padding.

    hbm_only: 0 for those that a layout puts into another memory (S(1): on the chip).
    """
    return [
        0 if hbm_only and "S(" in (layout or "") else _bytes(kind, shape)
        for kind, shape, layout in SHAPE.findall(type_)
    ]


def _bytes(kind: str, shape: str) -> int:
    bits = BITS.get(kind) or int(re.match(r"[a-z]+(\d+)", kind)[1])
    count = math.prod(int(n) for n in shape.split(",") if n)
    return -(-count * bits // 8)


def _arguments(rest: str) -> str:
    """What stands between the opcode's parentheses."""
    return rest[: _closing(rest)]


def _closing(rest: str) -> int:
    depth = 1
    for match in re.finditer(r"[()]", rest):
        depth += 1 if match[0] == "(" else -1
        if not depth:
            return match.start()
    return len(rest)


def _constant(op: Operation | None) -> int | None:
    """The value of a constant integer."""
    if op is None or op.kind != "constant":
        return None
    value = op.text.partition(")")[0]
    return int(value) if re.fullmatch(r"-?\d+", value) else None


def walk(
    module: Module, unknown: tuple[float, ...] = ()
) -> Iterator[tuple[Computation, float]]:
    """Every computation that runs as such, and how often in a call of the program.

    A computation that is called in several places comes several times. unknown: rounds
    of loops whose end the data decide, by how many of such they are in; 1 behind the
    last. Of a conditional all branches come, each with its share of the runs.
    """

    def visit(
        name: str, times: float, depth: int
    ) -> Iterator[tuple[Computation, float]]:
        computation = module.computations[name]
        yield computation, times
        for op in computation.operations:
            if op.kind == "while":
                rounds, below = module.trips(op, computation), depth
                if rounds is None:
                    rounds = unknown[depth] if depth < len(unknown) else 1.0
                    below = depth + 1
                yield from visit(op.called("body"), times * rounds, below)
                yield from visit(op.called("condition"), times * (rounds + 1), below)
            elif op.kind == "conditional":
                for branch in op.branches:
                    yield from visit(branch, times / len(op.branches), depth)
            elif op.kind == "call":
                yield from visit(op.called("to_apply"), times, depth)
            elif op.kind.endswith("-start") and (inner := op.called("calls")):
                yield from visit(inner, times, depth)

    return visit(module.entry, 1.0, 0)
