"""Results of neighbouring studies: the folders beside a study's own."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import get_args

from grit.config.differences import difference
from grit.config.sections import Regime
from grit.errors import ConfigError
from ray_jobs.records.kept_adapters import has_adapter
from ray_jobs.records.study_file import STUDY_FILE, Call, read_study
from ray_jobs.records.trial_record import TrialRecord
from ray_jobs.records.trial_status import STATUSES
from ray_jobs.records.trials_file import read_trials


def _nobody(_record: TrialRecord) -> bool:
    return False


class Neighbours:
    """What other studies in the same store have run.

    A result counts only where it was made under the same versions, on the same kind of machine, with as many
    trials at once (`Call.environment`).

    Args:
        folder: this study's own.
        call: how this study runs.
        needs_adapter: whether a trial's adapter must be there too.
        device: that the time budget is for, where it is known; else that of the first time-matched trial
            that is taken over.
    """

    def __init__(
        self,
        folder: Path,
        call: Call,
        *,
        needs_adapter: Callable[[TrialRecord], bool] = _nobody,
        device: str | None = None,
    ) -> None:
        self._needs_adapter, self._device = needs_adapter, device
        self._usable: dict[str, list[tuple[Path, TrialRecord]]] = {}
        self._elsewhere: dict[str, tuple[str, str]] = {}
        self._declined: dict[str, tuple[str, str]] = {}
        own = folder.absolute()
        for path in sorted(own.parent.glob(f"*/{STUDY_FILE}")):
            if path.parent != own:
                # Somebody else's folder, a damaged one, or one being made: nothing to take from it.
                with contextlib.suppress(ConfigError, OSError):
                    self._take(path.parent, call)

    def _take(self, folder: Path, call: Call) -> None:
        calls = read_study(folder).calls
        apart = {regime: _difference(calls, call, regime) for regime in get_args(Regime)}
        for record in read_trials(folder):
            if not STATUSES[record.status].reusable:
                continue
            if reason := apart[record.plan.regime]:
                self._elsewhere.setdefault(record.trial_id, (folder.name, reason))
            else:
                self._usable.setdefault(record.trial_id, []).append((folder, record))

    def find(self, record: TrialRecord) -> tuple[Path, TrialRecord] | None:
        """Where the trial of a planned `record` has been run.

        And its outcome under the names of this plan. One that is there and cannot be used is remembered for
        `declined`.
        """
        trial_id, needs_adapter = record.trial_id, self._needs_adapter(record)
        for folder, outcome in self._usable.get(trial_id, ()):
            if needs_adapter and not has_adapter(folder, trial_id):
                self._declined[trial_id] = (folder.name, "its adapter is wanted and was not kept there")
            elif self._is_of_another_device(outcome):
                there = f"a {outcome.device}" if outcome.device else "what is not on record"
                reason = f"time budgets of this study are for a {self._device}, and it ran on {there}"
                self._declined[trial_id] = (folder.name, reason)
            else:
                self._declined.pop(trial_id, None)
                return folder, outcome.model_copy(update={"plan": record.plan, "config": record.config})
        if trial_id in self._elsewhere:
            self._declined.setdefault(trial_id, self._elsewhere[trial_id])
        return None

    def _is_of_another_device(self, outcome: TrialRecord) -> bool:
        """Whether seconds of its device are not those of this study."""
        if outcome.plan.regime != "time":
            return False
        self._device = self._device or outcome.device
        return outcome.device != self._device

    def declined(self) -> list[str]:
        """A sentence per folder and reason: how many trials that were asked for lie there unused, and why."""
        counts = Counter(self._declined.values())
        return [
            f"not reused: {count} trial(s) of {name}: {reason}" for (name, reason), count in counts.items()
        ]


def _difference(calls: Iterable[Call], here: Call, regime: Regime) -> str:
    """Where the first call that differs from this one differs, in words; empty where none does."""
    own = here.environment(regime)
    words = (_words(call.environment(regime), own) for call in calls)
    return next(filter(None, words), "")


def _words(there: Mapping[str, object], here: Mapping[str, object]) -> str:
    apart = []
    for name in dict.fromkeys((*there, *here)):
        if there.get(name) != here.get(name):
            apart.append(difference(name, _shown(there, name), _shown(here, name)))
    return ", ".join(apart)


def _shown(values: Mapping[str, object], name: str) -> str:
    return "unknown" if values.get(name) is None else str(values[name])
