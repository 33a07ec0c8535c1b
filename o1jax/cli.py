"""The `o1jax` command: a table of subcommands, each a few lines over the library.

What a command needs is imported when it runs, so `o1jax --help` is instant. A mistake
of the user ends in one line on stderr and exit code 2; O1JAX_TRACEBACK=1 shows where it
was raised. Everything else keeps its traceback.
"""

import argparse
import contextlib
import math
import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

import o1jax
from o1jax.config import ConfigError, Loaded, check_workdir, load, nearest


class Command(NamedTuple):
    """A subcommand."""

    summary: str
    example: str
    arguments: Callable[[ArgumentParser], None]
    call: Callable[[Namespace], None]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        if argv and not argv[0].startswith("-") and argv[0] not in COMMANDS:
            hint = nearest(argv[0], COMMANDS) or f"; choose from {', '.join(COMMANDS)}"
            raise ConfigError(f"unknown command '{argv[0]}'{hint}")
        args = _parser().parse_args(argv or ["--help"])
        COMMANDS[args.command].call(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        # Everything of ours is closed by now. An orderly exit of the interpreter would
        # crash where XLA was compiling: segmentation fault, jax 0.10.
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        os._exit(130)
    except BrokenPipeError:  # `o1jax show FILE | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (ValueError, OSError, RuntimeError) as error:
        if os.environ.get("O1JAX_TRACEBACK") or not _is_users(error):
            raise
        print(f"o1jax: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def _is_users(error: Exception) -> bool:
    """Whether the message is meant for the user, not for whoever debugs the code.

    Our own code reports bad input as a ValueError and a damaged checkpoint as a
    RuntimeError; one that numpy or jax raised on the way is a bug, and its traceback is
    worth more than its message.
    """
    if isinstance(error, ConfigError):
        return True
    if isinstance(error, OSError):
        return error.filename is not None
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    module = trace.tb_frame.f_globals.get("__name__", "") if trace else ""
    # jax strips its own frames and leaves a note that it did.
    return module.startswith("o1jax") and not getattr(error, "__notes__", None)


def _show(args: Namespace) -> None:
    rows = _load(args).rows()
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text  # no markup: a value may hold [brackets]

        table = Table("field", "value", "from", box=None, title=args.file)
        for row in rows:
            style = "dim" if row.origin == "default" else ""
            table.add_row(*map(Text, row), style=style)
        Console(highlight=False).print(table)
        return
    name, value = (max(len(row[i]) for row in rows) for i in (0, 1))
    value = min(value, 60)  # one long list must not push every origin off the screen
    for row in rows:
        print(f"{row.name:{name}}  {row.value:{value}}  {row.origin}")


def _run(args: Namespace) -> None:
    loaded = _load(args)
    workdir = args.workdir or Path("runs") / Path(args.file).stem
    check_workdir(loaded, workdir)
    from o1jax.inspect.report import write_report
    from o1jax.loop.run import run

    run(loaded, workdir)
    report = write_report(workdir)
    print(report.read_text())
    print(f"Report: {report}")


def _eval(args: Namespace) -> None:
    import o1jax.loop.experiment  # noqa: F401
    from o1jax.inspect.report import evaluation_table
    from o1jax.loop.run import evaluate_workdir

    results = evaluate_workdir(
        _workdir(args),
        split=args.split,
        problems=args.problems,
        samples=args.samples,
        temperature=args.temperature,
    )
    print(evaluation_table(results))


def _ask(args: Namespace) -> None:
    import o1jax.loop.experiment  # noqa: F401
    from o1jax.loop.run import ask

    ask(_workdir(args), args.question, temperature=args.temperature)


def _reproduce(args: Namespace) -> None:
    from o1jax.loop.reproduce.registry import find_claim, listing

    if args.list:
        print(listing())
        return
    if args.claim is None:
        raise ConfigError("reproduce: which claim? --list shows them")
    claim = find_claim(args.claim)
    from o1jax.inspect.claims import write_index
    from o1jax.inspect.report import write_report
    from o1jax.loop.reproduce.record import verdict
    from o1jax.loop.reproduce.runner import reproduce

    content, folder = reproduce(
        claim, args.tier, seeds=args.seeds, results=args.results, cache=args.cache
    )
    report = write_report(folder)
    index = write_index(args.results)
    print(f"{report.read_text()}\n{verdict(content)}\nReport: {report}, index: {index}")


def _load(args: Namespace) -> Loaded:
    import o1jax.loop.experiment  # noqa: F401  registers every config class

    return load(args.file, args.set)


def _workdir(args: Namespace) -> Path:
    if not (args.workdir / "config.gin").is_file():
        raise ConfigError(f"{args.workdir} is no workdir: it has no config.gin")
    return args.workdir


def _file_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="experiment, a .gin file")
    parser.add_argument(
        "--set",
        metavar="Name.field=value",
        action="append",
        default=[],
        help="override one field; may be repeated, scopes as in scope/Name.field=value",
    )


def _run_arguments(parser: ArgumentParser) -> None:
    _file_arguments(parser)
    parser.add_argument(
        "--workdir", type=Path, help="where to write (default: runs/ and FILE's name)"
    )


def _eval_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("workdir", metavar="WORKDIR", type=Path, help="of a run")
    parser.add_argument("--split", default="test", choices=("train", "valid", "test"))
    parser.add_argument("--problems", type=_count, help="how many questions")
    parser.add_argument("--samples", type=_count, help="responses a question")
    parser.add_argument("--temperature", type=_temperature, help="0 is greedy")


def _ask_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("workdir", metavar="WORKDIR", type=Path, help="of a run")
    parser.add_argument("question", help='in the words of the task: "3 5 7 -> 22"')
    parser.add_argument(
        "--temperature",
        type=_temperature,
        default=0.0,
        help="0, the default, is greedy",
    )


def _reproduce_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("claim", metavar="CLAIM", nargs="?", help="its name, e.g. A1")
    parser.add_argument("--list", action="store_true", help="show all claims")
    parser.add_argument("--seeds", type=_count, default=3, help="default: 3")
    parser.add_argument("--tier", default="nano", help="nano (default), small or base")
    parser.add_argument(
        "--results", type=Path, default=Path("results"), help="default: results/"
    )
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path("runs/claims"),
        help="policies and predictions to reuse (default: runs/claims/)",
    )


COMMANDS = {
    "run": Command(
        "train what an experiment file describes; resumes when run again",
        "o1jax run experiments/quickstart.gin --set Imitate.steps=200",
        _run_arguments,
        _run,
    ),
    "show": Command(
        "print every field of an experiment and where it was set",
        "o1jax show experiments/quickstart.gin",
        _file_arguments,
        _show,
    ),
    "eval": Command(
        "measure a trained policy on held-out questions",
        "o1jax eval runs/quickstart --problems 200 --samples 16 --temperature 1",
        _eval_arguments,
        _eval,
    ),
    "ask": Command(
        "answer one question and show the steps",
        'o1jax ask runs/quickstart "3 5 7 -> 22"',
        _ask_arguments,
        _ask,
    ),
    "reproduce": Command(
        "redo a published claim and check its shape; resumes when run again",
        "o1jax reproduce A1 --seeds 3",
        _reproduce_arguments,
        _reproduce,
    ),
}


class _Parser(ArgumentParser):
    """argparse, but a mistake is one line like any other."""

    def error(self, message: str) -> NoReturn:
        command = self.prog.removeprefix("o1jax").strip()
        place = f"{command}: " if command else ""
        raise ConfigError(f"{place}{message}")


def _parser() -> ArgumentParser:
    parser = _Parser(
        prog="o1jax",
        description=o1jax.__doc__,
        epilog="Set O1JAX_TRACEBACK=1 to see where an error was raised.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=o1jax.__version__)
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True, parser_class=_Parser
    )
    for name, command in COMMANDS.items():
        sub = commands.add_parser(
            name,
            help=command.summary,
            description=f"{command.summary[0].upper()}{command.summary[1:]}.",
            epilog=f"example:\n  {command.example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        command.arguments(sub)
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a count of 1 or more")
    return int(text)


def _temperature(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of 0 or more")
    return value
