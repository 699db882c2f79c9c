"""Ends a process that makes no progress: the deadline follows from the trial's own step times."""

from __future__ import annotations

import faulthandler
import os
import statistics
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from grit.training.trainer import TRAINING

#: The exit code of a process that was found to hang.
HUNG_EXIT = 75


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long is too long, in seconds.

    Attributes:
        step: no step is given less. factor: a step may take this many times the median of the last ones.
        phase: any other phase, and a step before there is a median.
    """

    step: float = 300.0
    factor: float = 20.0
    phase: float = 7200.0


class Watchdog:
    """Watches from a thread of its own; steps and phases are told to it.

    Args:
        patience: how long is too long.
        hung: told the reason and every thread's stack, once; the process ends after that.
        end: ends the process.
    """

    #: Step times that the median is over, and how many there must be.
    _KEPT, _ENOUGH = 50, 3

    def __init__(
        self, patience: Patience, hung: Callable[[str, str], None], end: Callable[[int], object] = os._exit
    ) -> None:
        self._patience, self._hung, self._end = patience, hung, end
        self._steps: deque[float] = deque(maxlen=self._KEPT)
        self._phase, self._since = "starting", time.monotonic()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stepped(self) -> None:
        """A step has ended."""
        now = time.monotonic()
        self._steps.append(now - self._since)
        self._since = now

    def phase(self, name: str) -> None:
        """Another phase begins."""
        self._phase, self._since = name, time.monotonic()

    def deadline(self) -> float:
        """Seconds that what is going on may take."""
        if self._phase != TRAINING or len(self._steps) < self._ENOUGH:
            return self._patience.phase
        return max(self._patience.step, self._patience.factor * statistics.median(self._steps))

    def _watch(self) -> None:
        while not self._closed.wait(min(1.0, self._patience.step / 4)):
            waited = time.monotonic() - self._since
            if waited > self.deadline():
                reason = f"hung: no progress for {waited:.0f} s in {self._phase}"
                # Where telling hangs as well (a dead network), the process ends all the same.
                faulthandler.dump_traceback_later(60, exit=True)
                self._hung(reason, stacks())
                faulthandler.cancel_dump_traceback_later()
                self._end(HUNG_EXIT)
                return

    def close(self) -> None:
        """Ends the watch."""
        self._closed.set()
        self._thread.join()


def stacks() -> str:
    """What every thread of this process is doing."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    parts = [
        f"thread {names.get(ident, ident)}:\n{''.join(traceback.format_stack(frame))}"
        for ident, frame in sys._current_frames().items()
    ]
    return "\n".join(parts)
