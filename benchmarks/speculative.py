"""Speculative sampling of one row on one core: claim A16's arms on a pinned thread.

    o1jax run experiments/claims/speculative.gin --workdir runs/target
    python benchmarks/speculative.py runs/target

In: the workdir of the target; the draft is trained beside it, once. Out: the claim's
tables and checks, the same for tree searches of one leaf at a time, and
results_speculative.json. Plain decoding and each draft take turns in one process;
seconds are medians. `--trees` measures the searches alone.
"""

import worker  # noqa: F401 isort: skip  (pins the process first)

import argparse
import json
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
from run import machine
from tables import number, table

import o1jax.loop.experiment  # noqa: F401  registers every config class
from o1jax.config import load
from o1jax.data.batches import prompts
from o1jax.loop.drafts import draft_of
from o1jax.loop.reproduce.a16 import CLAIM, SMALL, analyse
from o1jax.loop.reproduce.a16_arms import draft_folder, in_turns
from o1jax.loop.reproduce.claim import Evidence
from o1jax.loop.workdir import Workdir
from o1jax.rollout.decode import Draft
from o1jax.search.mcts import Mcts
from o1jax.search.pages import spent
from o1jax.search.steps import Steps, StepSearch
from o1jax.tasks.task import Example
from o1jax.types import Params

HERE = Path(__file__).resolve().parent
FILE = HERE / "results_speculative.json"
# A step of a chain has two tokens, as no text has: here one is twelve tokens long.
STEPS = Steps(children=4, tokens=12, guide="likelihood")
MCTS = Mcts(simulations=16, leaves=1, max_depth=3)
SEARCHES = 4  # of one question, each with a key of its own


def trees(
    run: Workdir, params: Params, example: Example, draft: Draft | None
) -> tuple[Callable[[], Any], dict[str, float]]:
    """The searches with a draft, to be timed, and what they spent together."""
    other = draft_of(run, draft)
    search = StepSearch(
        run.policy,
        STEPS,
        step_end_ids=(),
        stop_ids=(run.tokenizer.eos_id,),
        draft=other and other.of_steps,
    )
    template = run.experiment.template
    length = len(template.encode_prompt(run.tokenizer, example.question))
    queue = prompts([example], run.tokenizer, template, length=length, rows=1)
    given = params if other is None else other.beside(params)
    program = jax.jit(partial(search.search, config=MCTS))
    keys = jax.random.split(run.key, SEARCHES)
    grow = lambda: [program(given, key, queue).tree for key in keys]
    found = [spent(tree) for tree in grow()]
    total = lambda name: float(sum(getattr(x, name).sum() for x in found))
    facts = {"tokens": total("generated_tokens"), "in_vain": total("reread_tokens")}
    return grow, facts


def searched(
    run: Workdir, params: Params, example: Example, drafts: Mapping[str, Draft | None]
) -> dict[str, dict[str, float]]:
    """Milliseconds of processor time a token of a tree; the drafts take turns."""
    programs, facts = {}, {}
    for name, draft in drafts.items():
        print(f"tree search, {name} ...", flush=True)
        programs[name], facts[name] = trees(run, params, example, draft)
    for name, (_, seconds) in zip(facts, in_turns(*programs.values())):
        facts[name]["milliseconds"] = 1e3 * seconds / facts[name]["tokens"]
    return facts


def tree_table(facts: Mapping[str, Mapping[str, float]]) -> str:
    """A row a draft."""
    rows, plain = [], facts["none"]["milliseconds"]
    for name, said in facts.items():
        vain = said["in_vain"] / said["tokens"]
        cells = said["milliseconds"], plain / said["milliseconds"], vain
        rows.append([name, *map(number, cells)])
    columns = ["draft", "ms a token", "speed-up", "in vain, each"]
    return table(columns, rows)


def answered(run: Workdir, params: Params, examples: list[Example]) -> dict[str, Any]:
    """Measures every arm of the claim, prints its tables."""
    tier, seed = CLAIM.tiers["nano"], run.experiment.seed
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
    return {
        "seed": seed,
        "machine": machine(int(os.environ.get("BENCH_CORE", "0"))),
        "load": os.getloadavg()[0],
        "checks": [check._asdict() for check in checks],
        "facts": {name: dict(arm.facts) for name, (arm,) in found.items()},
    }


def main() -> None:
    """Measures, prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("workdir", type=Path, help="of the target")
    parser.add_argument("--trees", action="store_true", help="tree searches alone")
    args = parser.parse_args()
    tier = CLAIM.tiers["nano"]
    run = Workdir(load(args.workdir / "config.gin").experiment, args.workdir.resolve())
    params, task = run.newest_params(), run.experiment.task
    seed = run.experiment.seed
    examples = [task.example(seed, tier.split, i) for i in range(tier.problems)]
    results = json.loads(FILE.read_text()) if args.trees else {}
    if not args.trees:
        results = answered(run, params, examples)
    folder = str(draft_folder(run, SMALL))
    drafts = {"none": None}
    drafts |= {f"1M, g = {g}": Draft(tokens=g, workdir=folder) for g in (2, 4, 8)}
    drafts |= {"its own first 2 layers, g = 4": Draft(tokens=4, layers=2)}
    results["trees"] = searched(run, params, examples[0], drafts)
    print(f"\nTree search\n\n{tree_table(results['trees'])}")
    results["trees_load"] = os.getloadavg()[0]
    FILE.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
