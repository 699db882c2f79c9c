"""Ctrl-C and SIGTERM end a study in order: `ray job stop` sends the latter, and kills after three seconds."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from grit.cli.phases import phase

#: Seconds that the study's loop has to end after SIGTERM. A Ray that was told to end as well (a service, a
#: container: all their processes are) answers no more, and takes the driver with it after a minute.
PATIENCE_SECONDS = 20.0


@contextmanager
def ended_after() -> Iterator[None]:
    """Ctrl-C within the block is acknowledged at once, and ends everything when the block has ended.

    A library may swallow the exception that it raises otherwise (seen in Ray's start). A second one is raised
    where it comes. SIGTERM is Ray's own from its start on.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = threading.Event()

    def note(_number: int, _frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        phase("interrupted: ends once Ray has started (once more ends at once)")

    before = signal.signal(signal.SIGINT, note)
    try:
        yield
    except Exception as error:
        if asked.is_set():
            raise KeyboardInterrupt from error
        raise
    finally:
        if signal.getsignal(signal.SIGINT) is note:
            signal.signal(signal.SIGINT, before)
    if asked.is_set():
        raise KeyboardInterrupt


@contextmanager
def ended_in_order(
    acknowledge: Callable[[], None], at_once: Callable[[], None], left_alone: Callable[[], None]
) -> Iterator[None]:
    """Within the block the first Ctrl-C, or SIGTERM, lets Tune end its loop; a second one ends everything.

    Args:
        acknowledge: says so, at once.
        at_once: what is done beside on SIGTERM: there may be no time for more.
        left_alone: ends the process, where the loop has not ended `PATIENCE_SECONDS` after SIGTERM.
    """
    patience = threading.Timer(PATIENCE_SECONDS, left_alone)
    patience.daemon = True
    if threading.current_thread() is not threading.main_thread():  # only there may handlers be set
        yield
        return

    def end(number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        threading.Thread(target=acknowledge, daemon=True).start()
        if number == signal.SIGTERM:
            threading.Thread(target=at_once, daemon=True).start()
            patience.start()
        if callable(signal.getsignal(signal.SIGUSR1)):  # Tune's loop runs: this is how it is asked to end
            signal.raise_signal(signal.SIGUSR1)
        else:
            raise KeyboardInterrupt

    # Tune would take Ctrl-C for itself, and be silent about it.
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    asked = signal.getsignal(signal.SIGUSR1)
    try:
        yield
    finally:
        patience.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.signal(signal.SIGUSR1, asked)
