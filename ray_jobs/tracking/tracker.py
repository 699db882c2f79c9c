"""What a study tells a tracker: small enough to read at once; vendors stand behind it, one file each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

from grit.io.files import Row
from ray_jobs.records.trial_record import TrialRecord

#: A trial's telemetry, read only when it is needed.
Telemetry = Callable[[], Sequence[Row]]


class Tracker(Protocol):
    """A mirror of a study's records.

    Attributes:
        failure: why something is missing in it; None where nothing is.
    """

    failure: str | None

    def log_trial(self, record: TrialRecord, telemetry: Telemetry) -> None:
        """Takes an ended trial; returns at once, and a trial that is known already costs next to nothing."""

    def interrupted(self) -> None:
        """Says at once that the study is no longer running, whatever else there is time for."""

    def finish(self, front: Iterable[str], artifacts: Iterable[Path], *, interrupted: bool) -> None:
        """Waits until everything is delivered, marks the trials of the front, stores artifacts.

        And closes the study.
        """

    def address(self) -> Sequence[str]:
        """Lines that tell a person how to look at the study."""
