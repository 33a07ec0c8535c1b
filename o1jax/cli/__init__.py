"""The `o1jax` command.

A mistake of the user ends in one line on stderr and exit code 2; O1JAX_TRACEBACK=1
shows where it was raised. Everything else keeps its traceback.
"""

import argparse
import contextlib
import os
import sys
import traceback
from argparse import ArgumentParser
from collections.abc import Sequence
from typing import NoReturn

import o1jax
from o1jax.cli.commands import COMMANDS
from o1jax.cli.interrupt import dropped_interrupts_come_again
from o1jax.cli.run import leave
from o1jax.config import ConfigError, nearest


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    try:
        return leave(_main(argv))
    except Exception:  # a bug: one of several processes ends here, alone it is raised
        leave(1, traceback.format_exc())
        raise


def _main(argv: Sequence[str] | None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        if argv and not argv[0].startswith("-") and argv[0] not in COMMANDS:
            hint = nearest(argv[0], COMMANDS) or f"; choose from {', '.join(COMMANDS)}"
            raise ConfigError(f"unknown command '{argv[0]}'{hint}")
        args = _parser().parse_args(argv or ["--help"])
        with dropped_interrupts_come_again():
            code = COMMANDS[args.command].call(args)
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
    return code or 0


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
