"""What can be known of a run on a slice before money is spent.

In: an experiment and a slice. Out: exit code 0, or 2 with one line: a config that does
not load, a mesh that the chips do not fill, rows that it cannot share out; or 1 where
`o1jax aot`, which compiles every program for the slice, finds one too large.
"""

import argparse
import math
import subprocess
import sys
from types import SimpleNamespace

import o1jax.loop.experiment  # noqa: F401  registers every config class
from o1jax.config import ConfigError, load
from o1jax.loop.run import check_rows
from o1jax.parallel.mesh import AXES, MeshConfig


def mesh_sizes(config: MeshConfig, chips: int) -> dict[str, int]:
    """Chips along each axis. ValueError where they don't fill the slice."""
    sizes = {axis: getattr(config, axis) for axis in AXES}
    fixed = math.prod(size for size in sizes.values() if size != -1)
    asked = " x ".join(f"{axis}={size}" for axis, size in sizes.items())
    free = -1 in sizes.values()
    if chips % fixed or (not free and fixed != chips):
        raise ValueError(f"mesh {asked} does not fill the {chips} chips of the slice")
    return {
        axis: chips // fixed if size == -1 else size for axis, size in sizes.items()
    }


def check(file: str, topology: str) -> None:
    """ConfigError or ValueError, in one line, if the run can't even begin."""
    chip, _, sides = topology.partition(":")
    if not chip or not all(side.isdecimal() for side in sides.split("x")):
        raise ValueError(f"topology {topology!r} is not CHIP:SIZES, such as v5e:16x16")
    experiment = load(file).experiment
    chips = math.prod(map(int, sides.split("x")))
    sizes = mesh_sizes(experiment.mesh, chips)
    # Of a run, the rule reads no more than this.
    check_rows(
        SimpleNamespace(experiment=experiment, shards=sizes["data"] * sizes["fsdp"])
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file", metavar="FILE", help="experiment, a .gin file")
    parser.add_argument("--topology", metavar="CHIP:SIZES", required=True)
    parser.add_argument(
        "--no-compile", action="store_true", help="leave `o1jax aot` out"
    )
    args = parser.parse_args()
    try:
        check(args.file, args.topology)
    except (ConfigError, ValueError, OSError) as error:
        print(
            f"preflight: {args.file}: {' '.join(str(error).split())}", file=sys.stderr
        )
        return 2
    if args.no_compile:
        return 0
    command = [sys.executable, "-m", "o1jax", "aot", args.file]
    return subprocess.run([*command, "--topology", args.topology]).returncode


if __name__ == "__main__":
    sys.exit(main())
