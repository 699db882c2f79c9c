"""The adapters that a study has kept, as a section of its page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from analysis.evidence.study_marks import kept_trials
from analysis.page.table import Column, Table
from ray_jobs.records.describe import describe
from ray_jobs.records.kept_adapters import ADAPTERS, Keep
from ray_jobs.records.study_file import StudyFile
from ray_jobs.records.trial_record import TrialRecord
from ray_jobs.tracking.marks import StudyMarks


@dataclass(frozen=True, kw_only=True)
class AdapterRow:
    """One kept trial, and what it is kept for."""

    record: TrialRecord
    roles: tuple[str, ...]

    def where(self) -> str:
        """Its folder below the study's, or why there is none."""
        reason = self.record.config.why_no_adapter
        return f"none: {reason}" if reason else f"{ADAPTERS}/{self.record.trial_id}"


def adapters_table(study: StudyFile, records: Sequence[TrialRecord], marks: StudyMarks) -> Table[AdapterRow]:
    """Whose adapters the study's last call kept; without rows where it kept none, or is not finished."""
    keep: Keep = study.last_call.keep  # type: ignore[assignment]  # written by a call that chose among them
    finished = all(record.ended for record in records)
    kept = kept_trials(records, marks, keep) if finished else {}
    by_id = {record.trial_id: record for record in records}
    columns: list[Column[AdapterRow]] = [
        Column(header="kept as", value=lambda row: ", ".join(row.roles) or "all"),
        Column(header="trial", value=lambda row: " ".join(describe(row.record).split()), wide=True),
        Column(header="folder", value=AdapterRow.where),
    ]
    rows = [AdapterRow(record=by_id[name], roles=roles) for name, roles in kept.items()]
    return Table(name="adapters", columns=columns, rows=rows)
