"""A train step on 8 simulated devices beside the same step on one, on all cores.

    python benchmarks/devices.py [--rounds ROUNDS] [--size SIZE]

The same rows, microbatches of as many rows a device, and the update as a stage jits it;
one process for each side, warm, asked in turns. What is more than 1 is the price of
sharding: collectives in memory, and matrix products on smaller pieces. Out: a table,
and results_devices.json.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parent
SIDES = {"1 device": (1, 1, 1), "data=8": (8, 8, 1), "fsdp=8": (8, 1, 8)}
ROWS = 4  # of a microbatch, on a device: what is fastest on one


def serve(name: str, size_name: str) -> None:
    """A side: measures a step for each line on stdin."""
    import jax
    import ours_decode
    import sizes
    from ours_train import some_batch
    from worker import measure

    from o1jax.learn.objectives import imitation
    from o1jax.learn.optimizer import OptimizerConfig, build_optimizer
    from o1jax.learn.state import init_params, new_state
    from o1jax.learn.update import build_update, jit_update
    from o1jax.parallel.mesh import MeshConfig, build_mesh, put_batch
    from o1jax.parallel.sharding import TRANSFORMER_RULES

    os.sched_setaffinity(0, range(os.cpu_count()))  # worker pins; all cores here
    count, data, fsdp = SIDES[name]
    mesh = build_mesh(MeshConfig(data=data, fsdp=fsdp))
    size = sizes.SIZES[size_name]
    policy = ours_decode.load(size, unroll=size.layers)
    optimizer = build_optimizer(OptimizerConfig(learning_rate=3e-4), steps=10_000)
    placed = {"mesh": mesh, "rules": TRANSFORMER_RULES}
    params = init_params(policy, jax.random.key(0), **placed)
    state = new_state(params, optimizer, jax.random.key(2), **placed)
    microbatches = size.train_rows // (ROWS * count)
    update = build_update(imitation(policy), optimizer, microbatches=microbatches)
    update = jit_update(update, state)
    batch = put_batch(mesh, some_batch(size))

    def step() -> None:
        nonlocal state
        state, metrics = jax.block_until_ready(update(state, batch))
        serve.loss = float(metrics["loss"])

    for _ in range(3):
        step()
    print(json.dumps({"loss": serve.loss, "devices": jax.device_count()}), flush=True)
    for _ in sys.stdin:
        print(json.dumps(measure(step)), flush=True)


def start(name: str, size: str) -> subprocess.Popen:
    count = SIDES[name][0]
    flags = f"--xla_force_host_platform_device_count={count}"
    env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, __file__, "--side", name, "--size", size]
    return subprocess.Popen(
        command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", default="1m", choices=("1m", "20m"))
    parser.add_argument("--side", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        serve(args.side, args.size)
        return
    sides = {name: start(name, args.size) for name in SIDES}
    losses = {name: json.loads(p.stdout.readline()) for name, p in sides.items()}
    first = losses["1 device"]["loss"]
    for name, said in losses.items():
        if abs(said["loss"] - first) > 1e-3 * abs(first):
            raise SystemExit(f"{name}: loss {said['loss']}, on one device {first}")
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(args.rounds):
        names = list(sides)
        for name in names[turn % 3 :] + names[: turn % 3]:
            sides[name].stdin.write("step\n")
            sides[name].stdin.flush()
            seconds[name].append(json.loads(sides[name].stdout.readline())["seconds"])
    for side in sides.values():
        side.stdin.close()
        side.wait()
    print("| mesh | seconds a step | of one device's | spread | goal |")
    print("| --- | --- | --- | --- | --- |")
    results = {}
    for name, found in seconds.items():
        ratios = [a / b for a, b in zip(found, seconds["1 device"])]
        results[name] = {"seconds": found, "ratios": ratios}
        spread = f"[{min(ratios):.2f}, {max(ratios):.2f}]"
        print(
            f"| {name} | {median(found):.3f} | **{median(ratios):.2f}x** | {spread} | "
            "<= 1.25x |"
        )
    content = {"size": args.size, "cores": os.cpu_count(), "load": os.getloadavg()[0]}
    file = HERE / "results_devices.json"
    file.write_text(json.dumps(content | {"sides": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
