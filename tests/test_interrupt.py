"""A Ctrl-C that lands where Python drops exceptions."""

import gc
import signal
import sys
import time

import pytest

from o1jax.cli.interrupt import dropped_interrupts_come_again


@pytest.fixture
def heard():
    """Ctrl-C raises, also where the shell started the tests with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard")
def test_an_interrupt_inside_the_garbage_collector_is_raised_behind_it():
    def drops_it(phase, info):
        gc.callbacks.remove(drops_it)
        raise KeyboardInterrupt

    before = sys.unraisablehook
    with pytest.raises(KeyboardInterrupt), dropped_interrupts_come_again():
        gc.callbacks.append(drops_it)
        gc.collect()
        time.sleep(5)  # what a run would go on with
        pytest.fail("the run went on")
    assert sys.unraisablehook is before


def test_other_exceptions_are_told_as_before(monkeypatch):
    told = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)

    class Fails:
        def __del__(self):
            raise ValueError("no")

    with dropped_interrupts_come_again():
        Fails()
    assert [x.exc_type for x in told] == [ValueError]
