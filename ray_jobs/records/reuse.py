"""Results of neighbouring studies: the folders beside a study's own."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from grit.errors import ConfigError
from ray_jobs.records.trial_record import STUDY_FILE, TrialRecord, read_study, read_trials

#: What must be the same for one study's result to count as another's.
ENVIRONMENT_KEYS = ("platform", "cpu_count", "python", "versions", "execution")


class Neighbours:
    """Results of other studies in the same store: the folders beside this one.

    A result counts only where it was made under the same versions, on the same kind of machine, with as many
    trials at once: a time-matched
    trial is a measurement of its machine.

    Args:
        folder: this study's own.
        call: how this study runs (see `StudyStore.open`).
    """

    def __init__(self, folder: Path, call: dict[str, Any]) -> None:
        self._found: dict[str, tuple[Path, TrialRecord]] = {}
        wanted = [json.loads(json.dumps(call.get(key))) for key in ENVIRONMENT_KEYS]
        for path in sorted(folder.absolute().parent.glob(f"*/{STUDY_FILE}")):
            if path.parent == folder.absolute():
                continue
            with contextlib.suppress(
                ConfigError, OSError
            ):  # somebody else's folder, or one being made: nothing to take from it
                calls = read_study(path.parent).get("calls", [])
                if calls and all([made.get(key) for key in ENVIRONMENT_KEYS] == wanted for made in calls):
                    for record in read_trials(path.parent):
                        if record.status in ("completed", "diverged"):
                            self._found.setdefault(record.trial_id, (path.parent, record))

    def find(self, record: TrialRecord) -> tuple[Path, TrialRecord] | None:
        """Where the trial of a planned `record` has been run.

        And its outcome under the names of this plan.
        """
        found = self._found.get(record.trial_id)
        if found is None:
            return None
        return found[0], replace(
            found[1], design=record.design, also_designs=record.also_designs, overrides=record.overrides
        )
