"""Each switch alone, against the default."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from analysis.evidence.corrected import CorrectedContrast, JointVerdict, joint_verdict, point_differences
from analysis.evidence.load import StudyData
from analysis.evidence.point_summary import PointSummary
from analysis.page.columns import mean_column, seeds_column, spread_column
from analysis.page.table import Column, Table, shown_p

#: Designs whose settings are switches of this table.
SWITCH_DESIGNS = {"switch", "grid", "list"}


@dataclass(frozen=True, kw_only=True)
class SwitchRow:
    """One setting against the default, in both families of differences."""

    point: PointSummary
    quality: CorrectedContrast
    forgetting: CorrectedContrast

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
    if not default.records or not switches:
        return []
    by_id = {point.point_id: point for point in (default, *switches)}
    pairs = [(point.point_id, default.point_id) for point in switches]
    quality, forgetting = point_differences(data, by_id, pairs)
    return [
        SwitchRow(point=point, quality=quality[point.point_id], forgetting=forgetting[point.point_id])
        for point in switches
    ]


def switch_sentence(rows: Sequence[SwitchRow]) -> str:
    """How many switches are decided, and which way."""
    counts = Counter(row.verdict for row in rows)
    decided = len(rows) - counts["inconclusive"]
    words = ", ".join(f"{count} {word}" for word, count in counts.most_common())
    return f"{decided} of {len(rows)} switches and grid settings are decided against the default: {words}."


def switch_table(rows: Sequence[SwitchRow]) -> Table[SwitchRow]:
    """One row per switch."""
    columns: list[Column[SwitchRow]] = [
        Column(header="switch", value=lambda row: row.point.overrides_label()),
        seeds_column(),
        spread_column("quality"),
        Column(header="vs default [95%]", value=lambda row: row.quality.contrast),
        Column(header="p (Holm)", value=lambda row: row.quality.p_value, show=shown_p),
        Column(header="forgetting vs default [95%]", value=lambda row: row.forgetting.contrast),
        Column(header="its p (Holm)", value=lambda row: row.forgetting.p_value, show=shown_p),
        mean_column("overhead"),
        mean_column("footprint"),
        mean_column("train_seconds", style=".1f"),
        Column(header="verdict", value=lambda row: row.verdict),
    ]
    return Table(name="switches", columns=columns, rows=rows)
