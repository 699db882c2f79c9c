"""The paper's sensitivity table (Table 13) filled in from records, and the table of verdicts."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from analysis.evidence.point_summary import PointSummary, control_of
from analysis.page.columns import mean_column, seeds_column, spread_column
from analysis.page.table import Column, Table, shown_p
from analysis.stats.pooled_noise import Contrast
from analysis.studies.sensitivity.bands import Band, SettingVerdict
from grit.training.measurements import QUANTITIES


@dataclass(frozen=True, kw_only=True)
class SensitivityRow:
    """One setting of one swept knob."""

    band: Band
    setting: SettingVerdict
    control: PointSummary | None

    def control_spread(self, name: str) -> float | None:
        """Deviation over seeds of what the control measured of a quantity; None where it has none."""
        has_it = self.control is not None and self.control.has(name)
        return self.control.spread(name) if self.control is not None and has_it else None

    @property
    def point(self) -> PointSummary:
        """The setting's trials."""
        return self.setting.point

    @property
    def median(self) -> float | None:
        """Median quality over seeds."""
        return statistics.median(self.point.values("quality")) if self.point.records else None

    def shown_range(self) -> str | None:
        """Median, lowest and highest quality over seeds."""
        if not self.point.records:
            return None
        quality = self.point.values("quality")
        return f"{statistics.median(quality):.3f} [{min(quality):.3f}, {max(quality):.3f}]"

    @property
    def against_default(self) -> Contrast | None:
        """Quality against the default; None for itself."""
        return None if self.setting.is_default else self.setting.quality_delta

    @property
    def score_per_hour(self) -> float | None:
        """Quality per training hour; a log-likelihood has none."""
        if not self.point.records or self.point.quality_metric == "answer_logprob":
            return None
        return self.point.mean("quality") / (self.point.mean("train_seconds") / 3600)

    @property
    def task_score(self) -> float | None:
        """Mean of the task's own metric; None where a seed has none."""
        scores = [record.measured.task_score for record in self.point.records]
        measured = [score for score in scores if score is not None]
        return statistics.fmean(measured) if measured and len(measured) == len(scores) else None

    @property
    def mean_rank(self) -> float | None:
        """Directions kept at the end, mean over modules and seeds."""
        ranks = [
            statistics.fmean(r.measured.final_ranks) for r in self.point.records if r.measured.final_ranks
        ]
        return statistics.fmean(ranks) if ranks else None


def sensitivity_rows(bands: Sequence[Band], points: Sequence[PointSummary]) -> list[SensitivityRow]:
    """Every setting of every swept knob, with its regime's control beside it."""
    controls = {band.regime: control_of(points, band.regime) for band in bands}
    return [
        SensitivityRow(band=band, setting=setting, control=controls[band.regime])
        for band in bands
        for setting in band.settings
    ]


def _control_spread(name: str) -> Column[SensitivityRow]:
    style = QUANTITIES[name].style
    return Column(
        header=f"control's sd ({name})", value=lambda row: row.control_spread(name), style=style.lstrip("+")
    )


def sensitivity_table(bands: Sequence[Band], points: Sequence[PointSummary]) -> Table[SensitivityRow]:
    """Table 13."""
    columns: list[Column[SensitivityRow]] = [
        Column(header="knob", value=lambda row: row.band.knob),
        Column(header="regime", value=lambda row: row.band.regime),
        Column(header="setting", value=lambda row: row.setting.shown_value()),
        seeds_column(),
        spread_column("quality"),
        _control_spread("quality"),
        Column(header="median [range]", value=lambda row: row.shown_range()),
        Column(header="task's own metric", value=lambda row: row.task_score, style=".3f"),
        Column(header="vs default [95%]", value=lambda row: row.against_default),
        Column(header="this contrast alone", value=lambda row: row.setting.own_delta),
        Column(header="p (Holm)", value=lambda row: row.setting.p_holm, show=shown_p),
        Column(header="answers vs default (nats/token)", value=lambda row: row.setting.answers_delta),
        spread_column("retention"),
        Column(header="forgetting vs default", value=lambda row: row.setting.forgetting_delta),
        spread_column("forgetting", header="forgetting"),
        _control_spread("forgetting"),
        mean_column("overhead"),
        Column(header="score/h", value=lambda row: row.score_per_hour, style=".0f"),
        mean_column("footprint"),
        Column(header="mean rank", value=lambda row: row.mean_rank, style=".1f"),
        mean_column("rank_events", style=".1f"),
        Column(header="verdict", value=lambda row: row.setting.word),
        Column(header="failure modes", value=lambda row: row.setting.shown_modes(), wide=True),
    ]
    return Table(name="sensitivity", columns=columns, rows=sensitivity_rows(bands, points))
