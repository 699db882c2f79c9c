"""Runs as the law sees them: their features, and which can be used."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from analysis.evidence.load import StudyData
from analysis.page.table import Column, Table
from analysis.stats.forgetting_fit import LawRuns
from grit.config.declared_knobs import KNOBS
from grit.geometry.events import Reprojection
from grit.io.files import Row
from ray_jobs.records.trial_record import TrialRecord

#: The design whose trials the law is fitted to.
DESIGN = "law"


@dataclass(frozen=True, kw_only=True)
class LawRun:
    """One run.

    Attributes:
        acting: whether geometry acts on it (GRIT), or is only watched (LoRA).
        held_out: it has the largest budget, and is not fitted to.
        features: mean effective rank and alignment over modules, and the mass that reprojections kept.
        tail_mass: mean over modules.
        exposure: of general text, summed over modules; None in records of earlier versions.
    """

    record: TrialRecord
    acting: bool
    held_out: bool
    features: tuple[float, float, float]
    tail_mass: float
    exposure: float | None

    @property
    def model(self) -> str:
        """The backbone."""
        return self.record.config.backbone.model

    @property
    def rank(self) -> int:
        """Of the adapter."""
        return self.record.config.adapter.rank

    @property
    def setting(self) -> str:
        """What all seeds of it share."""
        return self.record.plan.point_id + self.model

    @property
    def twin(self) -> tuple[str, int, int]:
        """What a run without geometry must share to be its neutral twin: backbone, rank and steps."""
        return self.model, self.rank, self.record.measured.steps or 0

    @property
    def tokens(self) -> float:
        """Unique tokens D."""
        return float(self.record.measured.unique_tokens or 0)

    @property
    def forgetting(self) -> float:
        """Nats per token."""
        return float(self.record.measured.forgetting or 0.0)


@dataclass(frozen=True, kw_only=True)
class UsableRuns:
    """Those that the law can use, and sentences on those that it cannot."""

    runs: tuple[LawRun, ...]
    remarks: tuple[str, ...]


def read_run(data: StudyData, record: TrialRecord, last: int) -> LawRun | None:
    """One trial's features; None where a module's geometry was not measured.

    Args:
        data: the study.
        record: a usable trial.
        last: steps of the largest budget, whose runs are held out.
    """
    rows = data.geometry(record)
    # Before method version 3 rho was measured in the adapter's own coordinates, and exposure of the task.
    rho = "rho_top" if _everywhere(rows, "rho_top") else "alignment_top"
    if not rows or not _everywhere(rows, rho):
        return None
    events = [event for event in data.events(record) if isinstance(event, Reprojection)]
    kept_mass = statistics.fmean([event.retained_mass for event in events] or [1.0])
    names = ("effective_rank", rho, "tail_mass")
    mean = {name: _mean_of(rows, name) for name in names}
    return LawRun(
        record=record,
        acting=record.config.grit.preconditioner != "none",
        held_out=record.measured.steps == last,
        features=(mean["effective_rank"], mean[rho], kept_mass),
        tail_mass=mean["tail_mass"],
        exposure=_sum_of(rows, "curvature_exposure"),
    )


def read_runs(studies: Sequence[StudyData]) -> UsableRuns:
    """Of all studies."""
    with_geometry: list[LawRun] = []
    trials = 0
    for data in studies:
        members = [
            r for r in data.records if r.usable and r.plan.regime == "step" and DESIGN in r.plan.designs
        ]
        last = max((record.measured.steps or 0 for record in members), default=0)
        runs = [read_run(data, record, last) for record in members]
        with_geometry += [run for run in runs if run is not None]
        trials += len(members)
    usable = [run for run in with_geometry if run.forgetting > 0]
    remarks = []
    if len(usable) < len(with_geometry):
        remarks.append(
            f"{len(with_geometry) - len(usable)} of {len(with_geometry)} runs forgot nothing (or less): a "
            "power law has no logarithm for them, and they are left out. They are those that forget least, "
            "so that what is fitted forgets more than it should, most of all at small D."
        )
    if trials > len(with_geometry):
        remarks.append(f"{trials - len(with_geometry)} runs left no geometry and are not used.")
    return UsableRuns(runs=tuple(usable), remarks=tuple(remarks))


def as_columns(runs: Sequence[LawRun], neutral: Sequence[LawRun]) -> LawRuns:
    """Runs as arrays.

    Each one's neutral features are the means of LoRA's at the same backbone, rank and steps, else of all of
    LoRA's.
    """
    twins: dict[tuple[str, int, int], list[tuple[float, float, float]]] = {}
    for run in neutral:
        twins.setdefault(run.twin, []).append(run.features)
    everywhere = [run.features for run in neutral]
    settings = sorted({run.setting for run in runs})
    beside = [np.mean(twins.get(run.twin, everywhere), axis=0) for run in runs]
    return LawRuns(
        tokens=np.array([run.tokens for run in runs], dtype=float),
        parameters=np.array([run.record.measured.backbone_parameters for run in runs], dtype=float),
        ranks=np.array([run.rank for run in runs], dtype=float),
        budgets=np.array([run.record.measured.steps for run in runs], dtype=float),
        settings=np.array([settings.index(run.setting) for run in runs], dtype=float),
        forgetting=np.array([run.forgetting for run in runs], dtype=float),
        features=np.array([run.features for run in runs]).reshape(-1, 3),
        neutral=np.array(beside).reshape(-1, 3),
    )


@dataclass(frozen=True, kw_only=True)
class SettingRow:
    """All runs of one setting; numbers are means over seeds."""

    runs: tuple[LawRun, ...]

    @property
    def first(self) -> LawRun:
        """What all of them share."""
        return self.runs[0]

    def feature(self, index: int) -> float:
        """Mean of one of the three features."""
        return statistics.fmean(run.features[index] for run in self.runs)

    @property
    def exposure(self) -> float | None:
        """Mean of the exposures, where all runs have one."""
        values = [run.exposure for run in self.runs if run.exposure is not None]
        return statistics.fmean(values) if len(values) == len(self.runs) else None

    def cadence(self) -> str:
        """T as people write it."""
        return KNOBS["T"].shown(self.first.record.config.grit.T)


def run_table(runs: Sequence[LawRun]) -> Table[SettingRow]:
    """One row per setting."""
    grouped: dict[str, list[LawRun]] = {}
    for run in runs:
        grouped.setdefault(run.setting, []).append(run)
    columns: list[Column[SettingRow]] = [
        Column(header="backbone", value=lambda row: Path(row.first.model).name),
        Column(header="method", value=lambda row: "GRIT" if row.first.acting else "LoRA, watched"),
        Column(header="r", value=lambda row: row.first.rank),
        Column(header="T", value=lambda row: row.cadence()),
        Column(header="tau", value=lambda row: row.first.record.tau if row.first.acting else None, style="g"),
        Column(header="D (unique tokens)", value=lambda row: _mean(row, "tokens"), style=",.0f"),
        Column(header="n", value=lambda row: len(row.runs)),
        Column(header="forgetting", value=lambda row: _mean(row, "forgetting"), style=".4f"),
        Column(header="r_eff", value=lambda row: row.feature(0), style=".3f"),
        Column(header="rho", value=lambda row: row.feature(1), style=".3f"),
        Column(header="pi", value=lambda row: row.feature(2), style=".3f"),
        Column(header="tail mass", value=lambda row: _mean(row, "tail_mass"), style=".3f"),
        Column(header="exposure (nats²)", value=lambda row: row.exposure, style=".3g"),
        Column(header="held out", value=lambda row: "yes" if row.first.held_out else "no"),
    ]
    rows = [SettingRow(runs=tuple(members)) for members in grouped.values()]
    return Table(name="runs", columns=columns, rows=rows)


def _mean_of(rows: Sequence[Row], name: str) -> float:
    return statistics.fmean(row[name] for row in rows)


def _everywhere(rows: Sequence[Row], name: str) -> bool:
    return all(row.get(name) is not None for row in rows)


def _sum_of(rows: Sequence[Row], name: str) -> float | None:
    if not _everywhere(rows, name):
        return None
    return float(sum(row[name] for row in rows))


def _mean(row: SettingRow, name: str) -> float:
    return statistics.fmean(getattr(run, name) for run in row.runs)
