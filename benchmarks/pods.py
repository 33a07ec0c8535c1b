"""The matrix of docs/pods.md: every experiment of experiments/pod on its slice.

In: libtpu, which gets an environment of its own under .venv-bench. Out: `o1jax aot` of
each file for the slice that its header names; results_pods.json, to which a run adds,
and the table in docs/pods.md. Stopped and run again, it goes on: files whose text is
that of the results are left, and programs that were compiled before come from the
cache. Results of another text are not shown.
"""

import environments  # isort: skip

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from o1jax.aot.chips import GIB

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "experiments" / "pod"
OUT = Path(__file__).with_name("results_pods.json")
PAGE = ROOT / "docs" / "pods.md"
MARKS = ("<!-- matrix -->\n", "<!-- end of matrix -->\n")


def topology_of(file: Path) -> str:
    """The slice that a file's header names."""
    found = re.search(r"--topology (\S+)", file.read_text())
    if not found:
        raise SystemExit(f"pods.py: error: {file.name} names no --topology")
    return found[1]


def source(file: Path) -> str:
    """Changes with the text of a file and of what it includes."""
    text = file.read_text()
    included = re.findall(r"^include '(.*)'", text, re.M)
    parts = [text, *(source(file.parent / name) for name in included)]
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=6).hexdigest()


def current(results: dict) -> dict:
    """Those of the experiments as they stand."""
    now = {file.stem: source(file) for file in FOLDER.glob("*.gin")}
    return {k: v for k, v in results.items() if v.get("source") == now.get(k, "")}


def checked(file: Path, where: str, layers: int) -> dict | None:
    """What `o1jax aot` says of it; None where it ended with a mistake."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        command = [sys.executable, "-m", "o1jax", "aot", str(file.relative_to(ROOT))]
        command += ["--topology", where, "--json", str(out)]
        command += ["--layers", str(layers)] if layers else []
        subprocess.run(command, cwd=ROOT, check=False)
        if not out.exists():
            return None
        return json.loads(out.read_text()) | {"source": source(file)}


def table(results: dict) -> str:
    """A row a program."""
    lines = [
        "| experiment, slice | program | GiB of | TFLOP | GB sent | bound | compiled |",
        "|---|---|---|---|---|---|---|",
    ]
    results = current(results)
    for name, found in sorted(results.items()):
        (experiment,) = found["experiments"]
        for report in experiment["reports"]:
            lines.append(f"| {name}, {found['topology']} | {_row(report)} |")
    missing = [f.stem for f in sorted(FOLDER.glob("*.gin")) if f.stem not in results]
    if missing:
        names = ", ".join(missing)
        lines += ["", f"Not compiled as they stand, so not known to fit: {names}."]
    return "\n".join(lines) + "\n"


def _row(report: dict) -> str:
    program = f"{report['stage']}: {report['program']}"
    limit = f"{report['limit'] / GIB:.2f}"
    seconds = f"{report['compile_seconds']:.0f} s"
    if not report["peak"]:
        verdict = "not checked" if report["fits"] is None else f"**over** {limit}"
        return f"{program} | {verdict} | | | | {seconds}"
    sent = report["sent"]
    sent = "?" if sent is None else f"{sum(sent.values()) / 1e9:.3g}"
    peak = f"{report['peak'] / GIB:.2f}"
    peak = peak if report["fits"] else f"**{peak}**"
    flops = f"{report['flops'] / 1e12:.3g}"
    flops = flops if report["exact"] else f"<= {flops}"
    bound = report["bound"] or "?"
    return f"{program} | {peak} of {limit} | {flops} | {sent} | {bound} | {seconds}"


def write(results: dict) -> None:
    """The results, and the table of the page."""
    OUT.write_text(json.dumps(results, indent=1) + "\n")
    page = PAGE.read_text()
    before, rest = page.split(MARKS[0])
    _, after = rest.split(MARKS[1])
    PAGE.write_text(before + MARKS[0] + table(results) + MARKS[1] + after)
    print(f"wrote {OUT.name} and the table of {PAGE.name}")


def main(argv: list[str]) -> int:
    """Runs what the command line asks for; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME", help="of experiments; default: all")
    add("--layers", type=int, default=0, help="shallower: nothing is written")
    add("--anew", action="store_true", help="those with results too")
    add("--take", type=Path, nargs="*", help="only take these files of o1jax aot")
    args = parser.parse_args(argv)
    results = json.loads(OUT.read_text()) if OUT.exists() else {}
    if args.take:
        for file in args.take:
            found = json.loads(file.read_text())
            name = Path(found["experiments"][0]["file"]).stem
            results[name] = found | {"source": source(FOLDER / f"{name}.gin")}
        write(results)
        return 0
    if not os.environ.get("TPU_LIBRARY_PATH"):
        from search_tpu import library

        try:
            os.environ["TPU_LIBRARY_PATH"] = str(library())
        except environments.SetupError as error:
            print(f"pods.py: error: {error}", file=sys.stderr)
            return 1
    bad = 0
    for file in sorted(FOLDER.glob("*.gin")):
        if args.names and file.stem not in args.names:
            continue
        if file.stem in current(results) and not (args.anew or args.layers):
            print(f"pods.py: {file.stem}: there are results (--anew: again)")
            continue
        found = checked(file, topology_of(file), args.layers)
        fits = found and all(
            report["fits"] is not False
            for experiment in found["experiments"]
            for report in experiment["reports"]
        )
        bad += not fits
        if found and not args.layers:
            results[file.stem] = found
            write(results)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
