"""The adapters that a study has kept, as a section of its page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.evidence.study_marks import kept_trials
from analysis.page.table import Column, Table
from ray_jobs.records.describe import describe
from ray_jobs.records.kept_adapters import ADAPTERS, Keep, why_missing
from ray_jobs.records.study_file import StudyFile
from ray_jobs.records.trial_record import TrialRecord
from ray_jobs.records.trial_status import STATUSES
from ray_jobs.tracking.marks import StudyMarks


@dataclass(frozen=True, kw_only=True)
class AdapterRow:
    """One kept trial, and what it is kept for."""

    study: Path
    record: TrialRecord
    roles: tuple[str, ...]

    def where(self) -> str:
        """Its folder below the study's, or why there is none."""
        reason = why_missing(self.study, self.record) if self.is_out_of_reach() else None
        return f"none: {reason}" if reason else f"{ADAPTERS}/{self.record.trial_id}"

    def is_out_of_reach(self) -> bool:
        """Whether it cannot come into the folder any more, which it may while the page is written."""
        record = self.record
        return record.config.why_no_adapter is not None or record.place.reused_from is not None


def adapters_table(
    folder: Path, study: StudyFile, records: Sequence[TrialRecord], marks: StudyMarks
) -> Table[AdapterRow]:
    """Whose adapters the study's last call kept; without rows where it kept none, or is not finished."""
    keep: Keep = study.last_call.keep  # type: ignore[assignment]  # written by a call that chose among them
    owed = any(STATUSES[record.status].runs_again for record in records)
    kept = {} if owed else kept_trials(records, marks, keep)
    by_id = {record.trial_id: record for record in records}
    columns: list[Column[AdapterRow]] = [
        Column(header="kept as", value=lambda row: ", ".join(row.roles) or "all"),
        Column(header="trial", value=lambda row: describe(row.record), wide=True),
        Column(header="folder", value=AdapterRow.where),
    ]
    rows = [AdapterRow(study=folder, record=by_id[name], roles=roles) for name, roles in kept.items()]
    return Table(name="adapters", columns=columns, rows=rows)
