"""`o1jax aot`: compiles the programs of experiments for a TPU slice, without a TPU."""

import json
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from o1jax.cli.arguments import _count, _file


def aot_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "files", metavar="FILE", nargs="+", help="experiments, .gin files"
    )
    parser.add_argument(
        "--topology",
        metavar="CHIP:SIZES",
        required=True,
        help="the slice: v5e:16x16, v6e:4x4, v5p:4x4x4, v4:2x2x4",
    )
    parser.add_argument(
        "--set",
        metavar="Name.field=value",
        action="append",
        default=[],
        help="override one field; may be repeated",
    )
    parser.add_argument(
        "--all",
        action="store_true",
        help="smaller variants of a program too: probes, lesser budgets",
    )
    parser.add_argument(
        "--layers",
        metavar="N",
        type=_count,
        help="compile policies of so many layers, for a quick look: less than it needs",
    )
    parser.add_argument("--json", metavar="OUT", type=_file, help="write all as JSON")
    parser.add_argument("--html", metavar="OUT", type=_file, help="write it as a page")


def aot_command(args: Namespace) -> int:
    """0: everything fits; 1: something does not."""
    from o1jax.aot.chips import topology
    from o1jax.aot.environment import libtpu_version, prepare

    where = topology(args.topology)
    prepare()  # before jax is imported
    import jax

    from o1jax.aot.check import check_file
    from o1jax.aot.text import heading, lines

    def show(report) -> None:
        for line in lines(report):
            print(line, flush=True)

    found = []
    for file in args.files:
        print(f"{file} on {where.name}", flush=True)
        checked = check_file(
            file,
            where,
            overrides=args.set,
            everything=args.all,
            layers=args.layers or 0,
            done=show,
        )
        for note in checked.notes:
            print(f"  left out: {note}")
        print(f"  {heading(checked)}")
        found.append(checked)
    if args.json:
        versions = {"jax": jax.__version__, "libtpu": libtpu_version()}
        content = {
            "topology": where.name,
            "versions": versions,
            "experiments": [checked.to_json() for checked in found],
        }
        _write(args.json, json.dumps(content, indent=1) + "\n")
    if args.html:
        from o1jax.aot.page import page

        _write(args.html, page(found))
    bad = [checked.file for checked in found if not checked.fits]
    if bad:
        print(f"does not fit {where.name}: {', '.join(bad)}", file=sys.stderr)
    return int(bool(bad))


def _write(file: Path, text: str) -> None:
    """Whole or not at all."""
    partial = file.with_name(f".{file.name}.partial")
    partial.write_text(text, "utf-8")
    partial.replace(file)
