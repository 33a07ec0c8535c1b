"""Measures o1jax beside its peers on this machine and writes the tables.

In: nothing but the project's environment; the peers' own are made under .venv-bench.
Out: benchmarks/README.md and results.json. Every worker is one process pinned to one
core; they take turns case by case, so drift of the machine hits all sides alike, and a
ratio is the median over rounds of the ratio inside a round.
"""

import argparse
import datetime
import importlib.util
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

import environments
import report
import sizes

HERE = Path(__file__).resolve().parent
VENVS = HERE.parent / ".venv-bench"
ROUNDS = 5

# side -> (environment, script); the project's own environment is "".
SIDES = {
    "machine": ("", "machine.py"),
    "machine-torch": ("transformers", "machine.py"),
    "transformers": ("transformers", "transformers_decode.py"),
    "torch": ("transformers", "torch_train.py"),
    "tunix": ("tunix", "tunix_decode.py"),
    "o1jax-decode": ("", "ours_decode.py"),
    "o1jax-train": ("", "ours_train.py"),
    "o1jax-refill": ("", "refill.py"),
    "o1jax-search": ("", "search_ours.py"),
    "mctx": ("", "search_mctx.py"),
    "loop": ("", "search_loop.py"),
    "o1jax-grpo": ("", "ours_grpo.py"),
    "trl": ("transformers", "trl_grpo.py"),
    "tunix-grpo": ("tunix", "tunix_grpo.py"),
}
# One thread each, and freed memory is kept, in one arena: without that, growing caches
# in torch fault their pages in again at every token and run at half the speed, and so
# do the activations of a large step in XLA, which frees them on a thread of its own.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "JAX_PLATFORMS": "cpu",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**34),
    "MALLOC_TOP_PAD_": str(2**28),
}


def plan() -> list[tuple[str, list[str]]]:
    """Every case with the sides that are asked for it, in order."""
    cases = [
        ("gemm/numpy", ["machine"]),
        ("gemm/jax", ["machine"]),
        ("gemm/torch", ["machine-torch"]),
        ("bandwidth", ["machine"]),
    ]
    for name in sizes.SIZES:
        for rows in sizes.ROWS:
            sides = ["transformers", "tunix", "o1jax-decode"]
            if (name, rows) == ("20m", 128):
                sides.remove("tunix")  # a quarter of the whole run's time
            for mode in sizes.MODES if name == "1m" else ("sample",):
                cases.append((sizes.decode_case(name, rows, mode), sides))
    cases.append((sizes.decode_case("1m", 128) + "/128", ["o1jax-decode"]))
    for name in sizes.SIZES:
        cases.append((sizes.train_case(name), ["torch", "o1jax-train"]))
        cases.append((f"products/{name}", ["o1jax-train"]))
    cases.append((sizes.train_case("1m") + "/4", ["torch"]))
    cases += [("refill/1m", ["o1jax-refill"]), ("batches/1m", ["o1jax-refill"])]
    for case in sizes.search_cases():
        kind = case.split("/")[1]
        peer = {"memory": [], "steps": ["loop"]}.get(kind, ["mctx"])
        cases.append((case, ["o1jax-search", *peer]))
    for case in ("grpo/1m", "grpo-rollout/1m"):
        cases.append((case, ["o1jax-grpo", "trl", "tunix-grpo"]))
    cases.append(("ppo-update/1m", ["o1jax-grpo", "o1jax-train"]))
    return cases


class Worker:
    """A measuring process that waits for its turn."""

    def __init__(self, side: str, core: int) -> None:
        environment, script = SIDES[side]
        self.side = side
        if environment:
            python = environments.ensure(environment, VENVS)
        else:
            python = Path(sys.executable)
        VENVS.mkdir(exist_ok=True)
        self.log = VENVS / f"{side}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [str(python), str(HERE / script)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, **ENVIRONMENT, "BENCH_CORE": str(core)},
            )
        self.versions: dict[str, str] = self._answer("start")["versions"]

    def _answer(self, what: str) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise environments.SetupError(
                f"{self.side} stopped at {what}: see {self.log}"
            )
        return json.loads(line)

    def ask(self, case: str) -> dict:
        """One measurement."""
        self.process.stdin.write(case + "\n")
        self.process.stdin.flush()
        return self._answer(case)

    def stop(self) -> None:
        """Ends the process."""
        self.process.kill()
        self.process.wait()


def measure(cases: list[tuple[str, list[str]]], rounds: int, core: int) -> dict:
    """All rounds of all cases: {"samples": {case: {side: [...]}}, "versions": ...}."""
    names = dict.fromkeys(side for _, sides in cases for side in sides)
    workers: dict[str, Worker] = {}
    samples: dict[str, dict[str, list[dict]]] = {}
    try:
        for side in names:
            workers[side] = Worker(side, core)
        for turn in range(rounds):
            for case, sides in cases:
                first = turn % len(sides)
                for side in sides[first:] + sides[:first]:
                    sample = workers[side].ask(case)
                    samples.setdefault(case, {}).setdefault(side, []).append(sample)
                    line = f"round {turn + 1}/{rounds}  {case:30} {side:14}"
                    print(line, report.brief(case, sample), file=sys.stderr, flush=True)
        versions = {k: v for w in workers.values() for k, v in w.versions.items()}
    finally:
        for worker in workers.values():
            worker.stop()
    return {"samples": samples, "versions": versions}


def machine(core: int) -> dict[str, object]:
    """What was measured on."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [s for s in info.read_text().splitlines() if s.startswith("model name")]
        cpu = lines[0].split(":", 1)[1].strip() if lines else cpu
    git = ["git", "-C", str(HERE), "describe", "--always", "--dirty"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "core_used": core,
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
        "commit": commit or "unknown",
    }


def merged(page: dict, new: dict) -> dict:
    """The page's results with new ones among them, and when those were measured."""
    rounds = max(len(x) for sides in new["samples"].values() for x in sides.values())
    line = "{date}, commit {commit}, {rounds} rounds, load average {load:.1f}".format(
        **new["machine"], rounds=rounds, load=os.getloadavg()[2]
    )
    return page | {
        "samples": page["samples"] | new["samples"],
        "versions": page["versions"] | new["versions"],
        "when": page.get("when", {}) | dict.fromkeys(new["samples"], line),
    }


class Parser(argparse.ArgumentParser):
    """argparse, with an error in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"run.py: error: {message}; see --help\n")


def arguments(argv: list[str]) -> argparse.Namespace:
    """The parsed command line."""
    parser = Parser(
        description="Measure o1jax beside transformers, tunix and torch, one thread.",
        epilog="example: python benchmarks/run.py --quick --only decode/1m --only gemm",
    )
    add = parser.add_argument
    add("--rounds", type=int, default=ROUNDS, help="measurements a case (default 5)")
    add("--quick", action="store_true", help="2 rounds, without the slowest cases")
    add(
        "--only",
        action="append",
        metavar="CASE",
        help="cases whose name starts so, e.g. decode/1m, train, search; repeatable",
    )
    add("--core", type=int, help="the core to pin to (default: the last one)")
    add(
        "--merge",
        action="store_true",
        help="with --only: put the new rows into README.md and results.json",
    )
    add("--list", action="store_true", help="print the names of the cases and stop")
    args = parser.parse_args(argv)
    if args.rounds < 1:
        parser.error(f"--rounds must be at least 1, not {args.rounds}")
    if hasattr(os, "sched_getaffinity"):
        cores = sorted(os.sched_getaffinity(0))
    else:
        cores = list(range(os.cpu_count() or 1))
    if args.core is None:
        args.core = cores[-1]
    if args.core not in cores:
        parser.error(f"--core {args.core} is not one of this machine's {cores}")
    if args.merge and not args.only:
        parser.error("--merge needs --only: without it every row is new")
    names = [case for case, _ in plan()]
    for prefix in args.only or []:
        if not any(name.startswith(prefix) for name in names):
            parser.error(f"--only {prefix!r} names no case; --list shows them")
    return args


def main(argv: list[str]) -> int:
    """Runs what the command line asks for; the exit code."""
    args = arguments(argv)
    cases = plan()
    if args.only:
        cases = [c for c in cases if c[0].startswith(tuple(args.only))]
    if args.quick:
        cases = [c for c in cases if c[0] != sizes.decode_case("20m", 128)] or cases
        args.rounds = min(args.rounds, 2)
    if args.list:
        print("\n".join(case for case, _ in cases))
        return 0
    if not importlib.util.find_spec("o1jax"):
        print(
            "run.py: error: run it with the project's .venv/bin/python", file=sys.stderr
        )
        return 2
    start = time.monotonic()
    try:
        results = measure(cases, args.rounds, args.core)
    except environments.SetupError as error:
        print(f"run.py: error: {error}", file=sys.stderr)
        return 1
    results["machine"] = machine(args.core)
    results["seconds"] = time.monotonic() - start
    if args.merge:
        results = merged(json.loads((HERE / "results.json").read_text()), results)
    text = report.render(results)
    if (args.only or args.quick) and not args.merge:
        print(text)
        print("(a partial run: README.md and results.json are left alone)")
        return 0
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (HERE / "README.md").write_text(text)
    print(f"wrote {HERE / 'README.md'} and results.json")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
