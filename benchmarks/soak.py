"""The soak of docs/hosts.md: kill -9 at random, twenty times over 1, 2 and 4 processes.

In: nothing. Out: each part of tests/hosts/test_soak.py run as a test of its own;
results_soak.json, to which each part adds when it has passed, and the table in
docs/hosts.md. Stopped and run again, it goes on with the parts that are left. On two
quiet cores a part takes 2 minutes.
"""

import argparse
import datetime
import json
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEST = "tests/hosts/test_soak.py::test_killed_at_random_it_ends_where_it_would_have"
PARTS = {"1-8": (1, 8), "2-7": (2, 7), "4-5": (4, 5)}  # processes, kills
OUT = Path(__file__).with_name("results_soak.json")
PAGE = ROOT / "docs" / "hosts.md"
MARKS = ("<!-- soak -->\n", "<!-- end of soak -->\n")
KILL = re.compile(r"^\d+ processes, kill (\d+): (\d+) saved", re.M)


def part(name: str) -> dict | None:
    """Runs a part; None if it failed, whose output is shown."""
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-m", "slow"]
    began = time.monotonic()
    done = subprocess.run(
        [*command, f"{TEST}[{name}]"], cwd=ROOT, text=True, stdout=subprocess.PIPE
    )
    seconds = time.monotonic() - began
    kills = KILL.findall(done.stdout)
    if done.returncode or len(kills) != PARTS[name][1]:
        print(done.stdout)
        return None
    return {
        "processes": PARTS[name][0],
        "kills": len(kills),
        "saved": [int(step) for _, step in kills],
        "seconds": seconds,
        "date": datetime.date.today().isoformat(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
    }


def table(results: dict) -> str:
    """A row a part."""
    lines = [
        "| processes | kills | newest step that stood behind each kill | minutes |",
        "|---|---|---|---|",
    ]
    for found in results.values():
        saved = ", ".join(map(str, found["saved"]))
        minutes = f"{found['seconds'] / 60:.0f}"
        lines.append(
            f"| {found['processes']} | {found['kills']} | {saved} of 60 | {minutes} |"
        )
    left = [name for name in PARTS if name not in results]
    if left:
        lines += ["", f"Not run yet: {len(left)} of {len(PARTS)} parts."]
    return "\n".join(lines) + "\n"


def write(results: dict) -> None:
    """The results, and the table of the page."""
    OUT.write_text(json.dumps(results, indent=1) + "\n")
    before, rest = PAGE.read_text().split(MARKS[0])
    _, after = rest.split(MARKS[1])
    PAGE.write_text(before + MARKS[0] + table(results) + MARKS[1] + after)


def main(argv: list[str]) -> int:
    """Runs what is left; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--anew", action="store_true", help="all parts again")
    args = parser.parse_args(argv)
    results = json.loads(OUT.read_text()) if OUT.exists() and not args.anew else {}
    for name in PARTS:
        if name in results:
            print(f"soak.py: {name} has passed already (--anew runs it again)")
            continue
        found = part(name)
        if found is None:
            print(f"soak.py: error: {name} failed", file=sys.stderr)
            return 1
        results[name] = found
        write(results)
        print(f"soak.py: {name} passed in {found['seconds']:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
