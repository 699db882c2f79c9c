"""Results of neighbouring studies: the folders beside a study's own."""

from __future__ import annotations

import contextlib
from pathlib import Path

from grit.errors import ConfigError
from ray_jobs.records.study_file import STUDY_FILE, Call, read_study
from ray_jobs.records.trial_record import TrialRecord
from ray_jobs.records.trial_status import STATUSES
from ray_jobs.records.trials_file import read_trials


class Neighbours:
    """What other studies in the same store have run.

    A result counts only where it was made under the same versions, on the same kind of machine, with as many
    trials at once: a
    time-matched trial is a measurement of its machine.

    Args:
        folder: this study's own.
        call: how this study runs.
    """

    def __init__(self, folder: Path, call: Call) -> None:
        self._found: dict[str, tuple[Path, TrialRecord]] = {}
        own = folder.absolute()
        for path in sorted(own.parent.glob(f"*/{STUDY_FILE}")):
            if path.parent != own:
                # Somebody else's folder, a damaged one, or one being made: nothing to take from it.
                with contextlib.suppress(ConfigError, OSError):
                    self._take(path.parent, call)

    def _take(self, folder: Path, call: Call) -> None:
        if any(made.environment() != call.environment() for made in read_study(folder).calls):
            return
        for record in read_trials(folder):
            if STATUSES[record.status].reusable:
                self._found.setdefault(record.trial_id, (folder, record))

    def find(self, record: TrialRecord) -> tuple[Path, TrialRecord] | None:
        """Where the trial of a planned `record` has been run.

        And its outcome under the names of this plan.
        """
        match = self._found.get(record.trial_id)
        if match is None:
            return None
        folder, outcome = match
        return folder, outcome.model_copy(update={"plan": record.plan, "config": record.config})
