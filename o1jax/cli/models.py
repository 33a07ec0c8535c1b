"""`o1jax import` and `o1jax export`."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from o1jax.cli.arguments import place


def import_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "source", type=Path, metavar="SRC", help="folder of safetensors, or .gguf file"
    )
    parser.add_argument("workdir", type=Path, metavar="DIR", help="to make")
    _dtype(parser, "of the parameters (default: as in SRC; float32 to train)")


def export_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("workdir", type=place, metavar="DIR", help="of a run")
    parser.add_argument("folder", type=Path, metavar="DST", help="to make")
    _dtype(parser, "of the tensors (default: as imported, or as in the run)")


def _dtype(parser: ArgumentParser, help: str) -> None:
    choices = ("source", "float32", "bfloat16")
    parser.add_argument("--dtype", choices=choices, default="source", help=help)


def import_command(args: Namespace) -> None:
    """Makes a workdir of a published model."""
    from o1jax.cli.progress import bytes_progress
    from o1jax.loop.model_files import import_model

    source = import_model(
        args.source, args.workdir, dtype=args.dtype, progress=bytes_progress
    )
    numbers = sum(_size(tensor.shape) for tensor in source.tensors.values())
    print(
        f"{args.workdir}: {numbers:,} numbers of {len(source.tensors)} tensors, "
        f"{source.config.get('model_type', 'a decoder')}"
    )


def export_command(args: Namespace) -> None:
    """Writes the policy of a run as a published model."""
    from o1jax.cli.progress import bytes_progress
    from o1jax.config import ConfigError
    from o1jax.loop.bucket import open_workdir
    from o1jax.loop.model_files import export_model

    workdir = open_workdir(args.workdir)
    if not (workdir / "config.gin").is_file():
        raise ConfigError(f"{args.workdir} is no workdir: it has no config.gin")
    export_model(workdir, args.folder, dtype=args.dtype, progress=bytes_progress)
    size = sum(file.stat().st_size for file in args.folder.iterdir())
    print(f"{args.folder}: {len(list(args.folder.iterdir()))} files, {size:,} bytes")


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for n in shape:
        size *= n
    return size
