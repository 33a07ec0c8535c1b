"""One program compiled for a slice, and what is known of it then.

In: a Program of shapes, the slice. Out: a Report: bytes a device, FLOPs (counted on the
program, loops included), collectives, the roofline. Compiled programs are cached by
their lowered text, the slice, and the versions of jax and libtpu.
"""

import math
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any
from unittest import mock

import jax

from o1jax.aot import cache
from o1jax.aot.chips import Topology
from o1jax.aot.collectives import collectives
from o1jax.aot.environment import libtpu_version
from o1jax.aot.hlo import parse
from o1jax.aot.roofline import Roofline, roofline, sent_by_dimensions
from o1jax.aot.traffic import traffic
from o1jax.loop.decoding_programs import Program
from o1jax.loop.ledger import count_flops
from o1jax.parallel.sharding import path_name

TOO_LARGE = "RESOURCE_EXHAUSTED"


@dataclass(frozen=True)
class Report:
    """What is known of a program. Bytes and FLOPs are a device's, of one call."""

    experiment: str
    stage: str
    program: str
    fits: bool | None  # None: it could not be compiled, see `problem`
    problem: str = ""
    limit: float = 0.0  # bytes that a program may use
    peak: float = 0.0  # held, arguments, temporaries and new outputs together
    held: dict[str, float] = field(default_factory=dict)  # beside the program's own
    arguments: float = 0.0
    outputs: float = 0.0
    aliased: float = 0.0  # outputs in the place of arguments
    temporaries: float = 0.0
    code: float = 0.0
    largest: list[tuple[str, float]] = field(default_factory=list)  # buffers
    flops: float = 0.0
    exact: bool = False  # no loop goes round as often as the data say
    memory_bytes: float | None = None  # read and written; None: no text to read it from
    sent: dict[str, float] | None = None  # bytes by mesh axes
    collectives: dict[str, int] | None = None  # how many stand in the program
    compute_seconds: float = 0.0
    memory_seconds: float | None = None
    interconnect_seconds: float | None = None
    bound: str = ""
    compile_seconds: float = 0.0
    from_cache: bool = False

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def check(experiment: str, program: Program, where: Topology) -> Report:
    """Compiles it, or takes it from the cache, and reads what came out."""
    names = {"experiment": experiment, "stage": program.stage, "program": program.name}
    held = {name: device_bytes(tree) for name, tree in program.held.items()}
    limit = float(where.chip.hbm_bytes)
    try:
        with as_on_tpu():
            lowered = program.fn.lower(*program.arguments)
            flops = count_flops(
                program.fn, *program.arguments, while_trips=_trips(program)
            )
    except (NotImplementedError, ValueError) as error:
        return Report(**names, fits=None, problem=_line(error), limit=limit, held=held)
    compiled = _compile(lowered, where)
    largest = _largest(program)
    if compiled.error:
        exhausted = TOO_LARGE in compiled.error
        return Report(
            **names,
            fits=False if exhausted else None,
            problem=_line(compiled.error),
            limit=limit,
            held=held,
            largest=_allocations(compiled.error) or largest,
            compile_seconds=compiled.seconds,
            from_cache=compiled.from_cache,
        )
    memory = compiled.memory
    new = memory["output"] - memory["alias"]
    own = memory["arguments"] + memory["temporary"] + new + memory["code"]
    peak = own + sum(held.values())
    per_device = flops.flops / program.mesh.size
    read = _read(compiled.text, program) if compiled.text else None
    line = roofline(
        where.chip,
        flops=per_device,
        memory_bytes=read["memory_bytes"] if read else 0.0,
        sent=read.pop("dimensions") if read else (),
    )
    return Report(
        **names,
        **(read or {}),
        **_seconds(line, read is not None),
        fits=peak <= limit,
        limit=limit,
        peak=peak,
        held=held,
        arguments=memory["arguments"],
        outputs=memory["output"],
        aliased=memory["alias"],
        temporaries=memory["temporary"],
        code=memory["code"],
        largest=largest,
        flops=per_device,
        exact=flops.exact and not program.trips,
        compile_seconds=compiled.seconds,
        from_cache=compiled.from_cache,
    )


@contextmanager
def as_on_tpu() -> Iterator[None]:
    """Policies are written as they are on a TPU, though this process has a CPU."""
    with mock.patch("jax.default_backend", return_value="tpu"):
        yield


def device_bytes(tree: Any) -> float:
    """Bytes that a device holds of a pytree of placed shapes, without padding."""
    return float(sum(_shard_bytes(x) for x in jax.tree.leaves(tree)))


def _shard_bytes(x: jax.ShapeDtypeStruct) -> int:
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
        return 8 * math.prod(x.sharding.shard_shape(x.shape))
    return x.dtype.itemsize * math.prod(x.sharding.shard_shape(x.shape))


def _largest(program: Program, count: int = 5) -> list[tuple[str, float]]:
    """The largest arrays that a device is given or holds, by name."""
    named = {"argument": program.arguments} | dict(program.held)
    found = [
        (f"{name} {path_name(path)}", float(_shard_bytes(leaf)))
        for name, tree in named.items()
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]
    return sorted(found, key=lambda pair: -pair[1])[:count]


def _allocations(error: str, count: int = 5) -> list[tuple[str, float]]:
    """The largest allocations that libtpu names where a program is too large."""
    units = {"K": 2**10, "M": 2**20, "G": 2**30, "": 1}
    found = []
    for size, unit, rest in re.findall(
        r"Size: ([\d.]+)([KMG]?)\w*\n(.*?)(?====|\Z)", error, re.S
    ):
        where = re.search(r'op_name="([^"]*)"', rest)
        shape = re.search(r"Shape: (\S+)", rest)
        name = " ".join(m[1] for m in (shape, where) if m) or "unnamed"
        found.append((name, float(size) * units[unit]))
    return sorted(found, key=lambda pair: -pair[1])[:count]


def _compile(lowered: jax.stages.Lowered, where: Topology) -> cache.Compiled:
    name = cache.key(lowered.as_text(), where.name, jax.__version__, libtpu_version())
    if (known := cache.read(name)) is not None:
        return known
    start = time.monotonic()
    try:
        program = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        found = cache.Compiled({}, time.monotonic() - start, "", str(error))
    else:
        seconds, stats = time.monotonic() - start, program.memory_analysis()
        memory = {
            "arguments": stats.argument_size_in_bytes,
            "output": stats.output_size_in_bytes,
            "alias": stats.alias_size_in_bytes,
            "temporary": stats.temp_size_in_bytes,
            "code": stats.generated_code_size_in_bytes,
        }
        try:
            text = program.as_text()
        except jax.errors.JaxRuntimeError:  # an internal error of some topologies
            text = ""
        found = cache.Compiled(memory, seconds, text)
    cache.write(name, found)
    return found


def _read(text: str, program: Program) -> dict[str, Any]:
    """What the compiled text says of memory and of the other devices."""
    module = parse(text)
    found = collectives(module, program.mesh, program.trips)
    sent: dict[str, float] = {}
    kinds: dict[str, int] = {}
    for c in found:
        axes = "+".join(c.axes) or "none"
        sent[axes] = sent.get(axes, 0.0) + c.bytes
        kind = f"{c.kind} over {axes}"
        kinds[kind] = kinds.get(kind, 0) + 1
    return {
        "memory_bytes": traffic(module, program.trips),
        "sent": sent,
        "collectives": kinds,
        "dimensions": sent_by_dimensions(program.mesh, found),
    }


def _seconds(line: Roofline, known: bool) -> dict[str, Any]:
    return {
        "compute_seconds": line.compute,
        "memory_seconds": line.memory if known else None,
        "interconnect_seconds": line.interconnect if known else None,
        "bound": line.bound if known else "",
    }


def _trips(program: Program) -> Any:
    """Rounds of a loop, by how many loops it is in; a bound is better known."""

    def rounds(path: str, bound: int | None) -> float:
        if bound is not None:
            return bound
        depth = path.count("while.") - 1
        return program.trips[depth] if depth < len(program.trips) else 1.0

    return rounds


def _line(error: Any) -> str:
    """The first line that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0][:300]


def mesh_text(sizes: Mapping[str, int]) -> str:
    """data 16 x fsdp 16."""
    used = [f"{name} {n}" for name, n in sizes.items() if n > 1]
    return " x ".join(used) or "one device"
