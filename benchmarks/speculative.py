"""Speculative sampling of one row on one core: claim A16's arms on a pinned thread.

    o1jax run experiments/claims/speculative.gin --workdir runs/target
    python benchmarks/speculative.py runs/target

In: the workdir of the target; the draft is trained beside it, once. Out: the claim's
tables and checks, and results_speculative.json. Plain decoding and each draft take
turns in one process; seconds are medians.
"""

import worker  # noqa: F401 isort: skip  (pins the process first)

import argparse
import json
import os
from pathlib import Path

import jax
from run import machine
from tables import number, table

import o1jax.loop.experiment  # noqa: F401  registers every config class
from o1jax.config import load
from o1jax.loop.reproduce.a16 import CLAIM, analyse
from o1jax.loop.reproduce.claim import Evidence
from o1jax.loop.workdir import Workdir

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Measures every arm, prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("workdir", type=Path, help="of the target")
    args = parser.parse_args()
    tier = CLAIM.tiers["nano"]
    run = Workdir(load(args.workdir / "config.gin").experiment, args.workdir.resolve())
    params, seed = run.newest_params(), run.experiment.seed
    task = run.experiment.task
    examples = [task.example(seed, tier.split, i) for i in range(tier.problems)]
    key, found = jax.random.fold_in(run.key, 2), {}
    for arm in tier.arms:
        print(f"{arm.name} ...", flush=True)
        found[arm.name] = [arm.run(run, params, key, examples, arm.method)]
    checks, sections = analyse(Evidence(tier, (seed,), [examples], found))
    for check in checks:
        print(f"{'passed' if check.passed else 'FAILED'}  {check.name}: {check.found}")
    for section in sections:
        columns, rows = section["table"]["columns"], section["table"]["rows"]
        shown = [[x if isinstance(x, str) else number(x) for x in row] for row in rows]
        print(f"\n{section['name']}\n\n{table(columns, shown)}")
    results = {
        "seed": seed,
        "machine": machine(int(os.environ.get("BENCH_CORE", "0"))),
        "load": os.getloadavg()[0],
        "checks": [check._asdict() for check in checks],
        "facts": {name: dict(arm.facts) for name, (arm,) in found.items()},
    }
    file = HERE / "results_speculative.json"
    file.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
