"""`o1jax run`: one process, or one of several that the environment names."""

import contextlib
import errno
import os
import sys
from argparse import Namespace
from pathlib import Path
from typing import NoReturn

from o1jax.config import check_workdir, load

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def run_command(args: Namespace) -> None:
    """Runs what is not done yet. A run that is preempted ends the process."""
    import o1jax.loop.experiment  # registers every config class
    from o1jax.inspect.report import write_report
    from o1jax.loop.bucket import open_workdir, push
    from o1jax.loop.run import run
    from o1jax.parallel import hosts, preemption

    loaded = load(args.file, args.set)
    where = args.workdir or Path("runs") / Path(args.file).stem
    hosts.start(f"o1jax {o1jax.__version__}, config {loaded.fingerprint()[:8]}")
    try:
        with preemption.watching():
            workdir = open_workdir(where, to_run=True)
            hosts.once(lambda: check_workdir(loaded, workdir, where))
            run(loaded, workdir)
    except preemption.Preempted as reason:
        if hosts.first() or not reason.together:
            print(f"o1jax: SIGTERM: {reason}; run again to go on", file=sys.stderr)
        if reason.together:
            hosts.part()
        _exit(preemption.exit_code())
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise RuntimeError(
            f"{where}: {error.strerror}; what was saved stands: make room, run again"
        ) from error
    if hosts.first():
        report = write_report(workdir)
        print(report.read_text())
        print(f"Report: {report}")
        push(workdir)


def leave(code: int, why: str = "") -> int:
    """The exit code; one of several processes that failed says why and ends right here.

    An orderly exit would wait for the others, and they for it.
    """
    hosts = sys.modules.get("o1jax.parallel.hosts")
    if code and hosts is not None and hosts.several():
        sys.stderr.write(why)
        _exit(code)
    return code


def _exit(code: int) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)  # XLA may be compiling: an orderly exit would crash, jax 0.10
