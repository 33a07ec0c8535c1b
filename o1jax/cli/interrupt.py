"""Ctrl-C that is heard wherever it lands.

Python drops what is raised inside a destructor or a callback of its garbage collector,
and jax has such a callback: a KeyboardInterrupt that comes up there is printed and
forgotten, and the run goes on.
"""

import _thread
import contextlib
import sys
import threading
from collections.abc import Iterator

AGAIN = 0.05  # seconds after which a dropped interrupt is tried again


@contextlib.contextmanager
def dropped_interrupts_come_again() -> Iterator[None]:
    """Inside, a KeyboardInterrupt that Python drops is raised anew a moment later."""
    before = sys.unraisablehook

    def hook(dropped: "sys.UnraisableHookArgs") -> None:
        if not issubclass(dropped.exc_type, KeyboardInterrupt):
            return before(dropped)
        again = threading.Timer(AGAIN, _thread.interrupt_main)
        again.daemon = True
        again.start()

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before
