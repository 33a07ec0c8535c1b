"""The step-level tree search compiled for a TPU slice, without a TPU.

In: libtpu, which gets an environment of its own under .venv-bench. Out: for programs of
1,024 trees, the collectives found in the compiled HLO, the bytes a device next to those
of its own trees' arrays, and the compile time; results_tpu.json holds a full run.
attention.attend and transformer.mean_square choose their form by the backend of the
process, here the CPU: what is compiled is the CPU's form, which moves the same shards.
A policy of dtype auto would be f32 for the same reason, so bfloat16 is asked for.
"""

import environments  # isort: skip

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from importlib import metadata
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from run import VENVS, machine
from sizes import SIZES

from o1jax.aot.collectives import Collective, collectives
from o1jax.aot.environment import QUIET
from o1jax.aot.hlo import parse
from o1jax.parallel.sharding import DECODE_RULES, TRANSFORMER_RULES, Rules, shardings
from o1jax.policy.policy import Policy, PolicyConfig, build_policy
from o1jax.search.mcts import Mcts
from o1jax.search.steps import Steps, StepSearch
from o1jax.search.tree import SearchResult
from o1jax.types import Params, Prompts

OUT = Path(__file__).with_name("results_tpu.json")
TOPOLOGY = "v5e:16x16"
TREES = 1024
TENSOR = 4
PROMPT = 64
STEPS = Steps(children=4, tokens=8)
LANES = 128  # a TPU pads the innermost axis of an array to a multiple of it
# That of the result's pages is their number, so 128 of them need no padding.
SEARCH = Mcts(simulations=120, leaves=8, max_depth=16, nodes=128)
ROWS = PartitionSpec("data")


@dataclass(frozen=True)
class Compiled:
    """What is known of a program."""

    name: str
    seconds: float  # of compiling
    argument_bytes: int  # a device
    output_bytes: int
    temporary_bytes: int
    collectives: tuple[Collective, ...] | None  # None: libtpu could not print it

    @property
    def kinds(self) -> Counter:
        """How many of each kind."""
        return Counter(c.kind for c in self.collectives or ())

    @property
    def axes(self) -> Counter:
        """How many along which axes of the mesh."""
        return Counter("+".join(c.axes) for c in self.collectives or ())

    @property
    def of_policy(self) -> Counter:
        """How many of each kind are the network's own."""
        return Counter(c.kind for c in self.collectives or () if of_policy(c))


def of_policy(collective: Collective) -> bool:
    """Whether it is part of the network's own computation."""
    return "policy" in collective.scope.split("/")


def compiled(name: str, fn: Callable, arguments: tuple, mesh: Mesh) -> Compiled:
    """Compiles fn for the devices of the mesh."""
    start = time.perf_counter()
    program = jax.jit(fn).lower(*arguments).compile()
    seconds = time.perf_counter() - start
    try:
        found = tuple(collectives(parse(program.as_text()), mesh))
    except jax.errors.JaxRuntimeError:
        found = None
    memory = program.memory_analysis()
    return Compiled(
        name,
        seconds,
        memory.argument_size_in_bytes,
        memory.output_size_in_bytes,
        memory.temp_size_in_bytes,
        found,
    )


def mesh_of(devices: list, tensor: int = 1) -> Mesh:
    """data x fsdp x tensor, the last one within neighbours."""
    shape = (len(devices) // tensor, 1, tensor)
    names = ("data", "fsdp", "tensor")
    return Mesh(np.reshape(devices, shape), names, axis_types=(AxisType.Auto,) * 3)


def local(fn: Callable, mesh: Mesh, rows: int) -> Callable:
    """fn(params, *rows) on each shard's own rows; the tensor axis is left automatic."""
    return jax.shard_map(
        fn,
        mesh=mesh,
        in_specs=(PartitionSpec(), *[ROWS] * rows),
        out_specs=ROWS,
        axis_names={"data"},
        check_vma=False,
    )


def build(size: str) -> Policy:
    """The policy of a size; its operations bear the scope `policy`."""
    own = SIZES[size]
    config = PolicyConfig(
        vocab=own.vocab,
        width=own.width,
        layers=own.layers,
        heads=own.heads,
        ff=own.ff,
        dtype="bfloat16",
    )
    policy = build_policy(config)
    scoped = jax.named_scope("policy")
    return policy._replace(start=scoped(policy.start), extend=scoped(policy.extend))


def parameters(policy: Policy, mesh: Mesh, rules: Rules) -> Params:
    """Shapes, placed as the rules say."""
    shapes = jax.eval_shape(policy.init, jax.random.key(0))
    place = lambda x, on: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=on)
    return jax.tree.map(place, shapes, shardings(shapes, rules, mesh))


def row_arguments(mesh: Mesh, trees: int) -> tuple[jax.ShapeDtypeStruct, Prompts]:
    """Keys and prompts of `trees` problems, cut over data."""
    place = partial(jax.ShapeDtypeStruct, sharding=NamedSharding(mesh, ROWS))
    key = jax.eval_shape(lambda: jax.random.key(0))
    number = lambda *shape: place((trees, *shape), jnp.int32)
    prompts = Prompts(tokens=number(PROMPT), length=number(), prompt_id=number())
    return place((trees,), key.dtype), prompts


def search_fn(policy: Policy) -> Callable[..., SearchResult]:
    """(params, keys, prompts) -> SearchResult, with an axis put to what has none."""
    searcher = StepSearch(policy, STEPS, step_end_ids=(1,), stop_ids=(2,))

    def search(params: Params, keys: jax.Array, prompts: Prompts) -> SearchResult:
        result = searcher.search(params, keys, prompts, SEARCH)
        return jax.tree.map(jnp.atleast_1d, result)

    return search


def expected_bytes(policy: Policy, mesh: Mesh, trees: int) -> dict[str, int]:
    """Bytes a device by shapes: its trees, and what the search makes of their pages.

    In the loop a TPU pads the innermost axis, here the head width, to LANES; and the
    leaves' contexts are gathered, a page for each level.
    """
    own = row_arguments(mesh, trees // mesh.shape["data"])
    params = jax.eval_shape(policy.init, jax.random.key(0))
    tree = jax.eval_shape(search_fn(policy), params, *own).tree
    size = lambda x: sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(x))
    all_pages = size((tree.store.k, tree.store.v))
    pages = all_pages // mesh.shape["tensor"]  # heads lie over tensor
    contexts = pages * SEARCH.leaves * SEARCH.max_depth // SEARCH.pool
    padded = pages * LANES // tree.store.k[0].shape[-1]
    return {
        "tree_bytes": size(tree) - all_pages + pages,
        "loop_bytes": padded + contexts,
    }


def network_alone(policy: Policy, mesh: Mesh, rules: Rules) -> list[Compiled]:
    """What the network says for itself: a prompt read, and a token a leaf."""
    params = parameters(policy, mesh, rules)
    _, prompts = row_arguments(mesh, TREES)
    token = row_arguments(mesh, TREES * SEARCH.leaves)[1].length

    def read(params: Params, prompts: Prompts) -> tuple:
        return policy.start(params, prompts.tokens, prompts.length, capacity=PROMPT)

    def extend(params: Params, token: jax.Array) -> tuple:
        row = token[:, None]
        return policy.extend(params, row, row, [], at=jnp.zeros_like(row))

    return [
        compiled("policy.start alone", local(read, mesh, 1), (params, prompts), mesh),
        compiled("policy.extend alone", local(extend, mesh, 1), (params, token), mesh),
    ]


def times_called(search: Compiled, start: Compiled, extend: Compiled) -> int | None:
    """n where the network's collectives in `search` are start's and n extend's."""
    if None in (search.collectives, start.collectives, extend.collectives):
        return None
    left, one = search.of_policy, extend.of_policy
    left.subtract(start.of_policy)
    n = sum(left.values()) // max(sum(one.values()), 1)
    return n if left == Counter({kind: n * one[kind] for kind in one}) else None


def record(
    size: str, program: Compiled, trees: int = 0, expected: dict | None = None
) -> dict:
    """A row of the results; also printed."""
    expected = expected or {"tree_bytes": 0, "loop_bytes": 0}
    row = {
        "size": size,
        "program": program.name,
        "trees_a_device": trees,
        **expected,
        "argument_bytes": program.argument_bytes,
        "output_bytes": program.output_bytes,
        "temporary_bytes": program.temporary_bytes,
        "compile_seconds": round(program.seconds, 1),
        "collectives": None,
    }
    told = "not readable"
    if program.collectives is not None:
        row["collectives"] = dict(program.kinds)
        row["along"] = dict(program.axes)
        row["of_policy"] = dict(program.of_policy)
        told = ", ".join(f"{n} {kind}" for kind, n in program.kinds.items()) or "none"
        if program.kinds:
            own = sum(program.of_policy.values())
            told += f"; along {', '.join(program.axes)}; {own} of the policy"
    columns = (*expected.values(), program.output_bytes, program.temporary_bytes)
    print(
        f"{size:4} {program.name:33} {trees:5}",
        *(f"{n / 1e6:9.2f}" for n in columns),
        f"{program.seconds:7.1f}  {told}",
        flush=True,
    )
    return row


def measure(size: str) -> list[dict]:
    """All rows of one size."""
    policy = build(size)
    devices = list(topologies.get_topology_desc(TOPOLOGY, platform="tpu").devices)
    pod, chip = mesh_of(devices), mesh_of(devices[:1])
    cut = mesh_of(devices, TENSOR)
    search = search_fn(policy)

    def searched(
        name: str, mesh: Mesh, trees: int, rules: Rules, *, inside: bool
    ) -> tuple[Compiled, dict]:
        fn = local(search, mesh, 2) if inside else search
        arguments = (parameters(policy, mesh, rules), *row_arguments(mesh, trees))
        program = compiled(name, fn, arguments, mesh)
        expected = expected_bytes(policy, mesh, trees)
        return program, record(size, program, trees // mesh.shape["data"], expected)

    rules, count = TRANSFORMER_RULES, len(devices)
    rows = [
        searched(f"data {count}", pod, TREES, rules, inside=True)[1],
        searched("one chip", chip, TREES // count, rules, inside=False)[1],
    ]
    if size == min(SIZES):  # of 20m it would take 36 GB a device, more than there is
        name = f"data {count}, without shard_map"
        rows.append(searched(name, pod, TREES, rules, inside=False)[1])
    for note, rules in (("", TRANSFORMER_RULES), (", whole logits", DECODE_RULES)):
        name = f"data {count // TENSOR} x tensor {TENSOR}{note}"
        program, row = searched(name, cut, TREES, rules, inside=True)
        parts = network_alone(policy, cut, rules)
        rows += [row, *(record(size, part) for part in parts)]
        row["extends"] = times_called(program, *parts)
        print(f"     of its policy: those of start and of extend x {row['extends']}")
    return rows


def library() -> Path:
    """libtpu, installed where it is not there."""
    folder = environments.ensure("tpu", VENVS).parent.parent
    return next(folder.glob("lib/python*/site-packages/libtpu/libtpu.so"))


def begun(script: str, argv: list[str]) -> bool:
    """Begins the process anew where libtpu's variables are not set; False: no libtpu.

    jax reads them when it is imported.
    """
    if QUIET.items() <= os.environ.items():
        return True
    try:
        path = os.environ.get("TPU_LIBRARY_PATH") or str(library())
    except environments.SetupError as error:
        print(f"{Path(script).name}: error: {error}", file=sys.stderr)
        return False
    command = [sys.executable, str(Path(script).resolve()), *argv]
    os.execve(sys.executable, command, os.environ | QUIET | {"TPU_LIBRARY_PATH": path})


def main(argv: list[str]) -> int:
    """Runs what the command line asks for; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--size", choices=SIZES, help="one size only; the results are not written"
    )
    args = parser.parse_args(argv)
    if not begun(__file__, argv):
        return 1
    print(f"{TREES} trees of {SEARCH.pool} nodes for {TOPOLOGY}; MB a device, seconds")
    print("by shapes: a device's trees, and what the loop holds; as compiled: output")
    print("(the trees), temporaries in HBM (0: all of them fit on the chip)")
    print(
        f"size {'program':33} trees   (trees    (loop    output      temp compile  "
        "collectives"
    )
    sizes = [args.size] if args.size else list(SIZES)
    rows = [row for size in sizes for row in measure(size)]
    if not args.size:
        on = machine(0)
        del on["core_used"]  # compiling is not pinned
        libtpu = environments.requests()["tpu"][0][-1].partition("==")[2]
        versions = {name: metadata.version(name) for name in ("jax", "flax", "o1jax")}
        results = {
            "topology": TOPOLOGY,
            "trees": TREES,
            "search": asdict(SEARCH),
            "steps": asdict(STEPS),
            "prompt": PROMPT,
            "dtype": "bfloat16",
            "versions": versions | {"libtpu": libtpu},
            "machine": on,
            "rows": rows,
        }
        OUT.write_text(json.dumps(results, indent=1) + "\n")
        print(f"wrote {OUT.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
