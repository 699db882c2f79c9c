"""SIGTERM to a worker: it leaves a checkpoint, and what ends is a preemption, no fault of its trial.

Ray runs a training function beside the process's main thread, where alone Python lets signals be handled: the
handler is set there, by a callback of Ray Train, and the running attempt is told.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from ray.train.v2._internal.execution.callback import WorkerGroupCallback

#: Seconds after which a process that was told to end does, whatever it is at: a checkpoint takes less.
GRACE_SECONDS = 20.0
#: Why such a process ends.
TOLD_TO_END = "its process was told to end (SIGTERM)"
#: The exit code of a process that SIGTERM has ended.
TERMINATED_EXIT = 128 + signal.SIGTERM


class TerminatedError(RuntimeError):
    """The process was told to end, and has left a checkpoint."""


class Termination:
    """Whether this process was told to end.

    Args:
        grace_seconds: until it ends, whatever it is at.
        end: ends the process.
    """

    def __init__(
        self, *, grace_seconds: float = GRACE_SECONDS, end: Callable[[int], object] = os._exit
    ) -> None:
        self._grace_seconds, self._end = grace_seconds, end
        self._heard = threading.Event()
        self._farewell: Callable[[], None] | None = None
        self._before: Any = signal.SIG_DFL

    @property
    def heard(self) -> bool:
        """Whether it was."""
        return self._heard.is_set()

    def listen(self) -> None:
        """Hears SIGTERM from now on; called on the main thread."""
        self._before = signal.signal(signal.SIGTERM, self._hear)

    def expect(self, farewell: Callable[[], None] | None) -> None:
        """From now on something is left before the process ends; None: nothing is any more.

        `farewell` is called where there was no time to leave it.
        """
        self._farewell = farewell

    def _hear(self, number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, self._before)  # a second one ends it at once
        if self._farewell is None:
            signal.raise_signal(number)
            return
        self._heard.set()
        late = threading.Timer(self._grace_seconds, self._too_late)
        late.daemon = True
        late.start()

    def _too_late(self) -> None:
        if self._farewell is None:
            return
        try:
            self._farewell()
        finally:  # whoever is not there to hear it any more
            self._end(TERMINATED_EXIT)


#: Of this process.
TERMINATION = Termination()


def _listen() -> None:
    TERMINATION.listen()


class HeedTermination(WorkerGroupCallback):
    """Lets every worker of a Ray Train run hear SIGTERM."""

    def after_worker_group_start(self, worker_group: Any) -> None:
        """Runs on each worker's main thread, before training begins."""
        worker_group.execute(_listen)
