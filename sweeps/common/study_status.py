"""Where a study stands, read from its folder while it runs or after: needs neither Ray nor torch."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from analysis.studies.sensitivity.growth import LiveMarks
from grit.cli.pasted import goes_on
from grit.cli.run_file import refuse_run
from ray_jobs.execution.running_file import RunningFile, RunningTrial, read_running
from ray_jobs.records.describe import describe, duration
from ray_jobs.records.study_file import STUDY_FILE, StudyFile, read_study
from ray_jobs.records.trial_record import TrialRecord
from ray_jobs.records.trial_status import STATUSES
from ray_jobs.records.trials_file import read_trials
from ray_jobs.tracking.marks import StudyMarks

#: So long may a driver take from its study's file to its first plan.
STARTING_SECONDS = 120.0


@dataclass(frozen=True, kw_only=True)
class RunningNow:
    """One trial that runs: what it is, where it stands, and where it does.

    `seconds` are those it has run.
    """

    trial: str
    standing: str
    place: str | None
    seconds: float | None


@dataclass(frozen=True, kw_only=True)
class StudyStatus:
    """Where a study stands.

    Attributes:
        state: `starting`, `running`, `lost` (its driver was killed), `interrupted` or `finished`.
        trials: how many of each status.
        expected: trials, as far as they are planned; a search and a growing design plan on the way.
        at_most: trials that a growing study may have; None where it does not grow or has no such limit.
        hours: of training and evaluation. gpu_hours: the same times the GPUs of a trial.
        seconds_left: by the mean of the trials that ended, at the present width; None where nothing is known.
        verdicts: decided, and not.
        fronts: settings on each regime's front.
    """

    name: str
    folder: str
    state: str
    note: str
    trials: dict[str, int]
    expected: int
    at_most: int | None
    running: tuple[RunningNow, ...]
    hours: float
    gpu_hours: float
    kwh: float | None
    seconds_left: float | None
    verdicts: dict[str, int] | None
    fronts: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """For machines."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For people."""
        ended = sum(count for status, count in self.trials.items() if STATUSES[status].ended)
        counts = ", ".join(
            f"{count} {status}" for status, count in self.trials.items() if status != "planned"
        )
        grows = "" if self.at_most is None else f" (at most {self.at_most})"
        left = "" if self.seconds_left is None else f", about {duration(self.seconds_left)} left"
        kwh = "" if self.kwh is None else f", {self.kwh:.3g} kWh"
        gpus = f", {self.gpu_hours:.2f} GPU-hours" if self.gpu_hours else ""
        rows = [
            f"{self.name} in {self.folder}: {self.state}{self.note}",
            f"trials    {ended} of {self.expected}{grows} have ended{f': {counts}' if counts else ''}{left}",
            f"cost      {duration(3600 * self.hours)} of training and evaluation{gpus}{kwh}",
        ]
        if self.verdicts is not None:
            both = sum(self.verdicts.values())
            rows.append(f"verdicts  {self.verdicts['decided']} of {both} are decided")
        if self.fronts:
            fronts = ", ".join(f"{count} {regime}-matched" for regime, count in self.fronts.items())
            rows.append(f"on front  {fronts} (settings)")
        for each in self.running:
            seconds = "" if each.seconds is None else f", for {duration(each.seconds)}"
            place = "" if each.place is None else f", on {each.place}"
            rows.append(f"running   {each.trial}: {each.standing}{place}{seconds}")
        return rows


def study_status(folder: Path) -> StudyStatus:
    """Where the study in `folder` stands.

    Raises:
        ConfigError: it holds none, or its records cannot be read.
    """
    refuse_run(folder)
    study, records, running = read_study(folder), read_trials(folder), read_running(folder)
    ended = [record for record in records if STATUSES[record.status].ended]
    completed = [record for record in records if record.status == "completed"]
    state, note = _state(folder, study, records, running)
    marks = LiveMarks(folder=folder)(ended) if completed else StudyMarks()
    seconds = sum(_seconds(record) for record in ended)
    energy = [record.measured.kwh for record in ended if record.measured.kwh is not None]
    execution = study.last_call.execution
    gpus = execution.resources.get("GPU", 0.0) * execution.workers
    by_id = {record.trial_id: record for record in records}
    now = running.trials if running is not None and running.is_fresh else ()
    counts = Counter(record.status for record in records)
    return StudyStatus(
        name=study.name,
        folder=str(folder),
        state=state,
        note=note,
        trials=dict(counts),
        expected=max(len(records), _expected(study, running)),
        at_most=None if study.sequential is None else study.sequential.max_trials,
        running=tuple(_running_now(trial, by_id.get(trial.trial_id)) for trial in now),
        hours=seconds / 3600,
        gpu_hours=seconds / 3600 * gpus,
        kwh=sum(energy) if energy else None,
        seconds_left=_left(ended, counts["planned"], execution.concurrent) if state == "running" else None,
        verdicts=_verdicts(marks),
        fronts=_fronts(marks),
    )


def _expected(study: StudyFile, running: RunningFile | None) -> int:
    """Trials in the end: as the driver sees it, or as the last call that ended by itself left it."""
    return running.expected if running is not None else study.last_call.expected or 0


def _state(
    folder: Path, study: StudyFile, records: Sequence[TrialRecord], running: RunningFile | None
) -> tuple[str, str]:
    words = study.last_call.command_line
    if running is not None:
        since = f"{duration(time.time() - running.written)} ago"
        driver = f"driver {running.pid} on {running.host}"
        if running.is_fresh:
            begun = running.trials or any(STATUSES[record.status].ended for record in records)
            waits = "" if begun else "; no trial has begun"
            return "running", f", {driver}, last heard of {since}{waits}"
        return "lost", f": {driver} was last heard of {since}; {goes_on(folder, words)}"
    age = time.time() - (folder / STUDY_FILE).stat().st_mtime
    if not records and age < STARTING_SECONDS:
        return "starting", ": no trial is planned yet"
    if not records or any(STATUSES[record.status].runs_again for record in records):
        return "interrupted", f": {goes_on(folder, words)}"
    wall = sum(call.seconds or 0.0 for call in study.calls)
    return "finished", f" after {duration(wall)}"


def _seconds(record: TrialRecord) -> float:
    return (record.measured.train_seconds or 0.0) + (record.measured.eval_seconds or 0.0)


def _left(ended: Sequence[TrialRecord], planned: int, concurrent: int) -> float | None:
    own = [_seconds(record) for record in ended if record.place.reused_from is None]
    return sum(own) / len(own) * planned / concurrent if own and planned else None


def _verdicts(marks: StudyMarks) -> dict[str, int] | None:
    if marks.decided is None:
        return None
    return {"decided": marks.decided, "undecided": marks.undecided or 0}


def _fronts(marks: StudyMarks) -> dict[str, int]:
    return dict(Counter(setting.regime for setting in marks.settings if setting.on_front))


def _running_now(trial: RunningTrial, record: TrialRecord | None) -> RunningNow:
    what = f"a trunk of {trial.method}, seed {trial.seed}" if record is None else describe(record)
    return RunningNow(
        trial=" ".join(what.split()),
        standing=trial.standing(),
        place=trial.place,
        seconds=None if trial.since is None else time.time() - trial.since,
    )
