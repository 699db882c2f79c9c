"""Every method's whole frontier, of learning rates and of paths, as one number against LoRA's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from analysis.evidence.load import StudyData
from analysis.page.table import Column, Table, shown
from analysis.stats.estimates import Estimate, holm
from analysis.stats.frontier_area import FrontierSetting, UntunedQuality, area_between, corners
from analysis.studies.baselines.tables import REFERENCE
from analysis.studies.baselines.tuning import TunedMethod, choosing_quality, path_of, setting_values
from grit.config.registry import Method


@dataclass(frozen=True, kw_only=True)
class AreaRow:
    """One method.

    Attributes:
        settings: points of the plane that its frontier was chosen from. corners: of the frontier.
        follows_path: whether scaled updates are among them.
        area: mean quality that it lies above LoRA's frontier; None where it cannot be compared.
        p_holm: of the area being nothing, corrected for the number of methods.
    """

    tuned: TunedMethod
    settings: int
    corners: int
    follows_path: bool
    area: Estimate | None
    p_holm: float | None

    @property
    def word(self) -> str | None:
        """`better`, `worse` or `inconclusive` after correction."""
        if self.area is None or self.p_holm is None:
            return None
        return self.area.verdict() if self.p_holm <= 0.05 else "inconclusive"


def frontier_settings(data: StudyData, tuned: TunedMethod) -> list[FrontierSetting]:
    """The method's learning rates and, where they were scored, the paths of their scaled updates."""
    settings = []
    for point in tuned.settings:
        chosen_by = choosing_quality(data, point)
        settings.append(FrontierSetting(chosen_by=chosen_by, values=setting_values(data, point)))
        for scaled in path_of(data, point):
            settings.append(FrontierSetting(chosen_by=scaled.chosen_by, values=scaled.values))
    return settings


def untuned_quality(data: StudyData, tuned: TunedMethod) -> UntunedQuality:
    """The model before training, on both halves of the examples."""
    values = data.untuned_values(tuned.best.records[0]).values
    return UntunedQuality(chosen_by=float(values[::2].mean()), values=values[1::2])


def area_rows(data: StudyData, tuned: Mapping[Method, TunedMethod]) -> list[AreaRow]:
    """Every method; nothing without the reference."""
    if REFERENCE not in tuned:
        return []
    reference = tuned[REFERENCE]
    untuned = untuned_quality(data, reference)
    frontiers = {method: frontier_settings(data, tuning) for method, tuning in tuned.items()}
    areas: dict[Method, Estimate] = {}
    for method, tuning in tuned.items():
        same_seeds = all(p.seeds == reference.best.seeds for p in (*tuning.settings, *reference.settings))
        if method != REFERENCE and same_seeds:
            area = area_between(frontiers[method], frontiers[REFERENCE], untuned)
            if area is not None:
                areas[method] = area
    corrected = dict(zip(areas, holm([area.p_value for area in areas.values()]), strict=True))
    rows = []
    for method, tuning in tuned.items():
        settings = frontiers[method]
        rows.append(
            AreaRow(
                tuned=tuning,
                settings=len(settings),
                corners=len(corners(settings, untuned)),
                follows_path=len(settings) > len(tuning.settings),
                area=areas.get(method),
                p_holm=corrected.get(method),
            )
        )
    return rows


def area_table(rows: Sequence[AreaRow], regime: str) -> Table[AreaRow]:
    """One row per method."""
    columns: list[Column[AreaRow]] = [
        Column(header="method", value=lambda row: row.tuned.title, terminal=True),
        Column(header="points", value=lambda row: row.settings),
        Column(header="with paths", value=lambda row: "yes" if row.follows_path else "no"),
        Column(header="corners", value=lambda row: row.corners),
        Column(header="above LoRA's frontier by [95%]", value=lambda row: row.area, terminal=True),
        Column(header="p (Holm)", value=lambda row: row.p_holm, style=".3f"),
        Column(header="whole frontier", value=lambda row: row.word, terminal=True),
    ]
    return Table(name=f"areas_{regime}", columns=columns, rows=rows)


def area_answer(rows: Sequence[AreaRow]) -> str:
    """Which whole frontiers lie above and below LoRA's, and GRIT's in any case; empty without any."""
    judged = [row for row in rows if row.area is not None]
    if not judged:
        return ""
    better = [row.tuned.title for row in judged if row.word == "better"]
    worse = [row.tuned.title for row in judged if row.word == "worse"]
    own = [row for row in judged if row.tuned.method == "grit"]
    grit = "".join(f"GRIT's lies {shown(row.area)} above it ({row.word}). " for row in own)
    return (
        f"Whole frontiers against LoRA's, at equal forgetting: {grit}"
        f"Above: {', '.join(better) or 'none'}; below: {', '.join(worse) or 'none'}."
    )
