"""When a worker of Ray's own engine saves: on wall time, before its node goes, and when it is told to end."""

from __future__ import annotations

import time
from collections.abc import Callable

from grit.runtime.workers import Workers

#: Seconds between looks for a notice that the node is about to go.
NOTICE_SECONDS = 2.0


class SavingTimes:
    """Asked between steps by all workers of a trial, who hear the first.

    Args:
        workers: that train together.
        seconds: of wall time between checkpoints.
        leaving: whether this worker's node is about to go.
        told_to_end: whether this process was (SIGTERM).

    Attributes:
        urgent: whether what is saved must be written before anything else: the node, or the process, goes.
        ending: whether the process ends once it has saved.
    """

    def __init__(
        self,
        workers: Workers,
        *,
        seconds: float,
        leaving: Callable[[], bool],
        told_to_end: Callable[[], bool],
    ) -> None:
        self._workers, self._seconds = workers, seconds
        self._leaving, self._told_to_end = leaving, told_to_end
        self._saved_at = self._looked_at = time.monotonic()
        self.urgent = self.ending = False

    def due(self) -> bool:
        """Whether a checkpoint is wanted now; the same on all workers.

        A notice is answered once, for training goes on after it; that a process ends is answered whenever it
        is heard, for the notice of its node usually came before.
        """
        now = time.monotonic()
        due = now - self._saved_at > self._seconds
        if self._workers.first_says(now - self._looked_at > NOTICE_SECONDS):
            self._looked_at = now
            self.ending = self._workers.any_says(self._told_to_end())
            leaving = self.ending or self._leaving()
            due = due or self.ending or (leaving and not self.urgent)
            self.urgent = self.urgent or leaving
        return bool(self._workers.first_says(due))

    def saved(self) -> None:
        """A checkpoint has been made."""
        self._saved_at = time.monotonic()
