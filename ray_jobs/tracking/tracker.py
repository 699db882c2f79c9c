"""What a study tells a tracker: small enough to read at once; vendors stand behind it, one file each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from grit.io.files import Row
from ray_jobs.records.trial_record import TrialRecord
from ray_jobs.tracking.marks import StudyMarks

#: A trial's telemetry, read only when it is needed.
Telemetry = Callable[[], Sequence[Row]]
#: What an analysis makes of the trials that have ended.
Marker = Callable[[Sequence[TrialRecord]], StudyMarks]


class Tracker(Protocol):
    """A mirror of a study's records.

    Attributes:
        failure: why something is missing in it; None where nothing is.
    """

    failure: str | None

    def running(self, record: TrialRecord, progress: Mapping[str, Any]) -> None:
        """A trial is under way, and where it is; returns at once."""

    def log_trial(self, record: TrialRecord, telemetry: Telemetry) -> None:
        """Takes an ended trial; returns at once, and a trial that is known already costs next to nothing."""

    def interrupted(self) -> None:
        """Says at once that the study is no longer running, whatever else there is time for."""

    def finish(self, marks: StudyMarks, artifacts: Iterable[Path], *, interrupted: bool) -> None:
        """Waits until everything is delivered, marks settings and trials, stores artifacts.

        And closes the study.
        """

    def log_adapters(self, adapters: Mapping[str, Path], register: Mapping[str, str]) -> dict[str, str]:
        """Logs adapters as models, by trial id; those in `register` as a version of the model named there.

        Returns the addresses of the registered ones, by trial id.
        """

    def address(self) -> Sequence[str]:
        """Lines that tell a person how to look at the study."""
