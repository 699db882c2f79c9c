"""One-sided against two-sided.

The methods of the paper's Table 11, each against two-sided GRIT on the same backbone.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from analysis.evidence.corrected import (
    Contrasts,
    CorrectedContrast,
    JointVerdict,
    contrast_of,
    corrected_scores,
    joint_verdict,
    point_contrasts,
)
from analysis.evidence.load import StudyData
from analysis.evidence.point_summary import PointSummary
from analysis.page.columns import mean_column, seeds_column, spread_column
from analysis.page.table import Column, Table
from analysis.studies.ablation.members import family_members
from analysis.studies.ablation.published import TABLE_11, PublishedScore
from grit.config.registry import METHODS
from grit.geometry.events import reprojections

#: The comparison's members in the order of its table.
ORDER = ("qlora", "qgrit-uni", "qgrit", "lora", "grit-uni", "grit")
NEVER = "never"


@dataclass(frozen=True, kw_only=True)
class FamilyRow:
    """One method.

    Attributes:
        title: as tables have it.
        is_reference: it is what the others of its backbone are compared with.
        quality, forgetting: against the reference; None for itself, or where it was not measured.
        own_basis_step: median over seeds of the first step at which B was projected by its own basis;
            `never`; None for a method without geometry.
        published: the paper's numbers for this model and task.
    """

    title: str
    point: PointSummary
    is_reference: bool
    quality: CorrectedContrast | None
    forgetting: CorrectedContrast | None
    own_basis_step: float | str | None
    published: PublishedScore | None

    @property
    def verdict(self) -> JointVerdict | None:
        """Of quality and forgetting together; None for the reference."""
        return None if self.is_reference else joint_verdict(self.quality, self.forgetting)

    def shown_verdict(self) -> str:
        """The verdict as the table has it."""
        return self.verdict or "the reference"


def family_rows(data: StudyData, points: Sequence[PointSummary]) -> list[FamilyRow]:
    """Those that were measured."""
    members = family_members(points)
    config = data.study.config
    published = TABLE_11.get((config.backbone.model, config.task.name), {})
    quality, forgetting = _against_references(data, members, points)
    rows = []
    for name in ORDER:
        point = members.get(name)
        if point is None:
            continue
        suffix = "-uni" if name.endswith("-uni") else ""
        rows.append(
            FamilyRow(
                title=METHODS[point.method].title + suffix,
                point=point,
                is_reference=point.point_id not in quality,
                quality=quality.get(point.point_id),
                forgetting=forgetting.get(point.point_id),
                own_basis_step=own_basis_step(data, point) if point.config.uses_grit else None,
                published=published.get(name),
            )
        )
    return rows


def _against_references(
    data: StudyData, members: dict[str, PointSummary], points: Sequence[PointSummary]
) -> tuple[dict[str, CorrectedContrast], dict[str, CorrectedContrast]]:
    """Quality and forgetting of every member against two-sided GRIT on its backbone, by point_id.

    What a seed does is common to all settings of one backbone, and another thing on the quantized one: each
    backbone has its model of the noise, of all its settings.
    """
    names: list[str] = []
    contrasts: Contrasts = ([], [])
    for reference in (members.get("grit"), members.get("qgrit")):
        if reference is None:
            continue
        alike = [point for point in points if point.config.quantized == reference.config.quantized]
        pairs = [
            (point.point_id, reference.point_id)
            for point in members.values()
            if point is not reference and point.config.quantized == reference.config.quantized
        ]
        if pairs:
            made = point_contrasts(data, {point.point_id: point for point in alike}, pairs)
            names += [name for name, _ in pairs]
            contrasts = (contrasts[0] + made[0], contrasts[1] + made[1])
    metric = next(iter(members.values())).quality_metric if members else ""
    return corrected_scores(names, contrasts, metric) if names else ({}, {})


def own_basis_step(data: StudyData, point: PointSummary) -> float | str:
    """Median over seeds of the first step at which B was projected by its own basis.

    The gate of the gradient side.
    """
    first_steps = []
    for record in point.records:
        two_sided = [event.step for event in reprojections(data.events(record)) if event.two_sided]
        first_steps += two_sided[:1]
    return float(statistics.median(first_steps)) if first_steps else NEVER


def family_table(rows: Sequence[FamilyRow]) -> Table[FamilyRow]:
    """The page's first table."""
    columns: list[Column[FamilyRow]] = [
        Column(header="method", value=lambda row: row.title, terminal=True),
        seeds_column(terminal=True),
        spread_column("quality", terminal=True),
        mean_column("effective_parameters"),
        mean_column("footprint", header="of full", terminal=True),
        mean_column("train_seconds", style=".1f", terminal=True),
        mean_column("retention", terminal=True),
        Column(
            header="quality vs two-sided [95%]", value=lambda row: contrast_of(row.quality), terminal=True
        ),
        Column(
            header="forgetting vs two-sided [95%]",
            value=lambda row: contrast_of(row.forgetting),
            terminal=True,
        ),
        Column(header="verdict", value=lambda row: row.shown_verdict(), terminal=True),
        Column(header="B's own basis from step", value=lambda row: row.own_basis_step, style="g"),
        Column(
            header="paper: quality, parameters",
            value=lambda row: None if row.published is None else row.published.shown(),
        ),
    ]
    return Table(name="family", columns=columns, rows=rows)


def family_answer(rows: Sequence[FamilyRow]) -> list[str]:
    """The verdicts in one sentence."""
    verdicts = [f"{row.title} {row.verdict}" for row in rows if row.verdict is not None]
    if not verdicts:
        return ["The six methods of the one-sided comparison were not measured."]
    return [
        "Against two-sided GRIT on the same backbone, in quality and forgetting together: "
        f"{', '.join(verdicts)}."
    ]
