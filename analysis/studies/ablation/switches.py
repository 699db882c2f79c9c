"""Each switch alone, against the default."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from analysis.evidence.load import StudyData
from analysis.evidence.point_summary import PointSummary, paired_forgetting, paired_quality
from analysis.page.columns import mean_column, seeds_column, spread_column
from analysis.page.table import Column, Table
from analysis.stats.estimates import Estimate, holm
from analysis.studies.ablation.joint import JointVerdict, joint_verdict

#: Designs whose settings are switches of this table.
SWITCH_DESIGNS = {"switch", "grid", "list"}


@dataclass(frozen=True, kw_only=True)
class SwitchRow:
    """One setting against the default; `p_holm` is quality's p-value after Holm's correction."""

    point: PointSummary
    quality: Estimate | None
    forgetting: Estimate | None
    p_holm: float | None

    @property
    def verdict(self) -> JointVerdict:
        """Of quality and forgetting together."""
        return joint_verdict(self.quality, self.forgetting)


def study_default(data: StudyData, points: Sequence[PointSummary]) -> PointSummary | None:
    """The study's method with nothing changed."""
    method = data.study.config.method
    for point in points:
        if point.method == method and not point.planned_trials[0].plan.overrides:
            return point
    return None


def switch_rows(data: StudyData, points: Sequence[PointSummary]) -> list[SwitchRow]:
    """Every measured switch; none without the default."""
    default = study_default(data, points)
    if default is None:
        return []
    switches = [p for p in points if p is not default and p.records and p.designs & SWITCH_DESIGNS]
    quality = {p.point_id: paired_quality(data, p, default) for p in switches}
    p_values = {name: difference.p_value for name, difference in quality.items() if difference is not None}
    adjusted = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    rows = []
    for point in switches:
        rows.append(
            SwitchRow(
                point=point,
                quality=quality[point.point_id],
                forgetting=paired_forgetting(data, point, default),
                p_holm=adjusted.get(point.point_id),
            )
        )
    return rows


def switch_table(rows: Sequence[SwitchRow]) -> Table[SwitchRow]:
    """One row per switch."""
    columns: list[Column[SwitchRow]] = [
        Column(header="switch", value=lambda row: row.point.overrides_label()),
        seeds_column(),
        spread_column("quality"),
        Column(header="vs default [95%]", value=lambda row: row.quality),
        Column(header="p (Holm)", value=lambda row: row.p_holm, style=".3f"),
        Column(header="forgetting vs default [95%]", value=lambda row: row.forgetting),
        mean_column("overhead"),
        mean_column("footprint"),
        mean_column("train_seconds", style=".1f"),
        Column(header="verdict", value=lambda row: row.verdict),
    ]
    return Table(name="switches", columns=columns, rows=rows)
