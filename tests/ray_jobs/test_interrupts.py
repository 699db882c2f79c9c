"""Ctrl-C where a library would swallow what it raises."""

import contextlib
import os
import signal
import subprocess
import sys

import pytest
from launching import environment

from ray_jobs.execution.interrupts import ended_after

#: The block goes on after Ctrl-C, which is said at once; what follows it does not run.
SWALLOWED = """
import contextlib, os, signal, sys
from ray_jobs.execution.interrupts import ended_after
try:
    with ended_after():
        with contextlib.suppress(BaseException):
            os.kill(os.getpid(), signal.SIGINT)
        print("the block ends", flush=True)
    print("never", flush=True)
except KeyboardInterrupt:
    sys.exit(130)
"""


def test_an_interrupt_that_would_be_swallowed_ends_everything_after_the_block():
    done = subprocess.run(
        [sys.executable, "-c", SWALLOWED], capture_output=True, text=True, env=environment(), timeout=60
    )
    assert (done.returncode, done.stdout) == (130, "the block ends\n")
    assert "interrupted: ends once Ray has started" in done.stderr


def test_a_second_one_is_raised_where_it_comes_and_the_handler_is_put_back():
    number, reached = signal.SIGINT, []
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), ended_after():
        os.kill(os.getpid(), number)
        reached.append("after the first")
        os.kill(os.getpid(), number)
        reached.append("after the second")
    assert reached == ["after the first"] and signal.getsignal(number) is before


def test_without_an_interrupt_nothing_happens():
    before, closed = signal.getsignal(signal.SIGINT), []
    with contextlib.ExitStack() as stack:
        with ended_after():
            stack.callback(closed.append, "after all")
        assert signal.getsignal(signal.SIGINT) is before and closed == []
    assert closed == ["after all"]


def test_an_interrupt_counts_where_the_block_fails():
    with pytest.raises(KeyboardInterrupt), ended_after():
        os.kill(os.getpid(), signal.SIGINT)
        raise ValueError("Ray did not start")
    with pytest.raises(ValueError, match="did not start"), ended_after():
        raise ValueError("Ray did not start")


def test_what_the_block_sets_itself_stays():
    before = signal.getsignal(signal.SIGTERM)
    try:
        with ended_after():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
