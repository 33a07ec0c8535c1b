"""A round of PPO at 7B compiled for a TPU slice, without a TPU: does it fit?

In: libtpu, which gets an environment of its own under .venv-bench. Out: for the
programs of a round, bytes a device and the collectives in the compiled HLO;
results_learn_tpu.json holds a full run. Policy, critic and reference have 7B f32
parameters each, the first two with Adam's moments, all cut by the table of
parallel/sharding.py; the networks compute in bfloat16. All layers are compiled, as one
scan. attention.attend and transformer.mean_square choose their form by the backend of
the process, here the CPU: what is compiled moves the same shards.
"""

import environments  # isort: skip

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from run import machine
from search_tpu import TOPOLOGY, begun

from o1jax.aot.chips import CHIPS
from o1jax.aot.collectives import collectives
from o1jax.aot.hlo import parse
from o1jax.learn.experience import Experience
from o1jax.learn.kl import KLControl
from o1jax.learn.optimizer import OptimizerConfig, build_optimizer
from o1jax.learn.policy_objective import RECIPES, policy_gradient_objective
from o1jax.learn.reading import read_responses
from o1jax.learn.update import build_update
from o1jax.parallel.mesh import AXES, ROWS
from o1jax.parallel.sharding import TRANSFORMER_RULES, shardings
from o1jax.policy.policy import Policy, PolicyConfig, build_policy
from o1jax.types import TrainState

OUT = Path(__file__).with_name("results_learn_tpu.json")
HBM = CHIPS["v5e"].hbm_bytes
NETWORK = PolicyConfig(
    vocab=32_000, width=4096, layers=32, heads=32, ff=11_008, dtype="bfloat16"
)
RESPONSES, LENGTH = 512, 2048  # of a round; one update reads them all
PPO = replace(RECIPES["ppo"], kl=KLControl(0.05))


@dataclass(frozen=True)
class Layout:
    """How a round is cut."""

    data: int
    fsdp: int
    tensor: int
    remat: str = "full"

    @property
    def rows(self) -> int:
        """Parts that the rows are cut into."""
        return self.data * self.fsdp

    @property
    def microbatches(self) -> int:
        """One row a part at a time."""
        return RESPONSES // self.rows

    @property
    def name(self) -> str:
        sizes = [(axis, getattr(self, axis)) for axis in AXES]
        cut = " x ".join(f"{axis} {n}" for axis, n in sizes if n > 1)
        return f"{cut}, remat {self.remat}"


LAYOUTS = (Layout(1, 256, 1), Layout(1, 64, 4), Layout(4, 64, 1))


def placed(tree: Any, on: Any) -> Any:
    """Shapes with their shardings."""
    put = lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s)
    return jax.tree.map(put, tree, on)


def rows_of(mesh: Mesh, count: int) -> Experience:
    """The shapes of a batch."""
    on = NamedSharding(mesh, P(ROWS))
    row = lambda dtype: jax.ShapeDtypeStruct((count,), dtype, sharding=on)
    token = lambda dtype: jax.ShapeDtypeStruct((count, LENGTH), dtype, sharding=on)
    real = ("logprob", "ref_logprob", "value", "advantage", "target", "weight")
    return Experience(
        tokens=token(jnp.int32),
        prompt_length=row(jnp.int32),
        length=row(jnp.int32),
        share=row(jnp.float32),
        kl_coef=row(jnp.float32),
        **{name: token(jnp.float32) for name in real},
    )


def compiled(name: str, fn: Callable, *arguments: Any, **options: Any) -> dict:
    """A row of the results."""
    start = time.perf_counter()
    lowered = jax.jit(fn, **options).lower(*arguments)
    try:
        program = lowered.compile()
    except jax.errors.JaxRuntimeError as error:  # it does not fit
        print(f"  {name}: {str(error).splitlines()[0]}", flush=True)
        raise SystemExit(1) from error
    seconds = time.perf_counter() - start
    mesh = jax.tree.leaves(arguments)[0].sharding.mesh
    memory = program.memory_analysis()
    row = {
        "program": name,
        "argument_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "new_output_bytes": memory.output_size_in_bytes - memory.alias_size_in_bytes,
        "compile_seconds": round(seconds, 1),
        "collectives": None,
    }
    try:
        found = collectives(parse(program.as_text()), mesh)
    except jax.errors.JaxRuntimeError:
        return row
    kinds = [f"{c.kind} along {'+'.join(c.axes)}" for c in found]
    return row | {"collectives": {k: kinds.count(k) for k in sorted(set(kinds))}}


def programs(layout: Layout, network: PolicyConfig, mesh: Mesh) -> list[dict]:
    """A round's, in order."""
    policy = build_policy(replace(network, remat=layout.remat))
    place = lambda tree: placed(tree, shardings(tree, TRANSFORMER_RULES, mesh))
    one = jax.eval_shape(policy.init, jax.random.key(0))
    optimizer = build_optimizer(OptimizerConfig(1e-6), 1000)
    both = {"policy": one, "critic": one}
    state = place(
        TrainState(
            jax.ShapeDtypeStruct((), jnp.int32),
            both,
            jax.eval_shape(optimizer.init, both),
            jax.eval_shape(lambda: jax.random.key(0)),
        )
    )
    update = build_update(
        policy_gradient_objective(policy, PPO, critic=policy),
        optimizer,
        microbatches=layout.microbatches,
    )
    few = rows_of(mesh, layout.rows)
    text = (few.tokens, few.prompt_length, few.length)
    stay = jax.tree.map(lambda x: x.sharding, state)
    return [
        compiled("reference", logprobs_of(policy), place(one), *text),
        compiled("critic", values_of(policy), state.params, *text),
        compiled(
            "update",
            update,
            state,
            rows_of(mesh, RESPONSES),
            donate_argnums=0,
            out_shardings=(stay, None),
        ),
    ]


def logprobs_of(policy: Policy) -> Callable:
    """What is asked of a reference."""
    return lambda params, *text: read_responses(policy, params, *text).logprob


def values_of(policy: Policy) -> Callable:
    """What is asked of a critic."""
    read = partial(read_responses, policy, critic=policy)
    return lambda params, *text: read(params, *text).value


def measure(layout: Layout, network: PolicyConfig) -> dict:
    """A layout's programs, and the most that a device holds while they run."""
    devices = topologies.get_topology_desc(TOPOLOGY, platform="tpu").devices
    shape = (layout.data, layout.fsdp, layout.tensor)
    mesh = Mesh(np.reshape(devices, shape), AXES, axis_types=(AxisType.Auto,) * 3)
    rows = programs(layout, network, mesh)
    reference, _, update = rows
    # The update's arguments stay; so does the reference, which it does not read.
    held = update["argument_bytes"] + reference["argument_bytes"]
    most = held + max(r["temporary_bytes"] + r["new_output_bytes"] for r in rows)
    print(f"\n{layout.name}: {held / 2**30:.2f} GiB held, at most {most / 2**30:.2f}")
    for row in rows:
        told = row["collectives"]
        told = (
            "not readable"
            if told is None
            else ", ".join(f"{n} {kind}" for kind, n in told.items())
        )
        print(
            f"  {row['program']:10} {row['argument_bytes'] / 2**30:7.2f} GiB arguments "
            f"{row['temporary_bytes'] / 2**30:7.2f} temporary "
            f"{row['compile_seconds']:6.1f} s  {told}",
            flush=True,
        )
    return {
        **asdict(layout),
        "microbatches": layout.microbatches,
        "held_bytes": held,
        "most_bytes": most,
        "fits": most < HBM,
        "programs": rows,
    }


def main(argv: list[str]) -> int:
    """Runs what the command line asks for; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--layers", type=int, default=NETWORK.layers, help="fewer: not written")
    add("--layout", type=int, help="only this one of the layouts: not written")
    args = parser.parse_args(argv)
    if not begun(__file__, argv):
        return 1
    network = replace(NETWORK, layers=args.layers)
    params = jax.eval_shape(build_policy(network).init, jax.random.key(0))
    count = sum(x.size for x in jax.tree.leaves(params))
    print(f"{count / 1e9:.2f}e9 parameters a network, {RESPONSES} x {LENGTH} tokens")
    whole = args.layers == NETWORK.layers and args.layout is None
    wanted = LAYOUTS if args.layout is None else [LAYOUTS[args.layout]]
    layouts = [measure(layout, network) for layout in wanted]
    if whole:
        on = machine(0)
        del on["core_used"]  # compiling is not pinned
        libtpu = environments.requests()["tpu"][0][-1].partition("==")[2]
        versions = {name: metadata.version(name) for name in ("jax", "flax", "o1jax")}
        results = {
            "topology": TOPOLOGY,
            "network": asdict(network) | {"parameters": count},
            "responses": RESPONSES,
            "length": LENGTH,
            "hbm_bytes": HBM,
            "versions": versions | {"libtpu": libtpu},
            "machine": on,
            "layouts": layouts,
        }
        OUT.write_text(json.dumps(results, indent=1) + "\n")
        print(f"wrote {OUT.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
