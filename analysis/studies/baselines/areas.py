"""Every method's whole frontier, of learning rates and of paths, as one number against LoRA's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.evidence.corrected import CorrectedContrast, contrast_of, unlike_differences
from analysis.evidence.load import StudyData
from analysis.page.table import Column, Table, shown, shown_p
from analysis.stats.frontier_area import FrontierSetting, UntunedQuality, corners, last_corner, mean_height
from analysis.stats.pooled_noise import SettingScores
from analysis.studies.baselines.tables import REFERENCE
from analysis.studies.baselines.tuning import TunedMethod, choosing_quality, path_of, setting_values
from grit.config.registry import Method
from grit.tasks.metrics import tolerance_of


@dataclass(frozen=True, kw_only=True)
class AreaRow:
    """One method.

    Attributes:
        settings: points of the plane that its frontier was chosen from. corners: of the frontier.
        follows_path: whether scaled updates are among them.
        area: mean quality that it lies above LoRA's frontier, of the noise of all methods together and
            corrected for their number; None where it cannot be compared.
    """

    tuned: TunedMethod
    settings: int
    corners: int
    follows_path: bool
    area: CorrectedContrast | None

    @property
    def word(self) -> str | None:
        """`better`, `worse`, `equivalent` or `inconclusive` after correction."""
        return None if self.area is None else self.area.word()


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
    last = last_corner(frontiers[REFERENCE], untuned)
    areas = {} if last is None else _areas(tuned, frontiers, untuned, last)
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
            )
        )
    return rows


def _areas(
    tuned: Mapping[Method, TunedMethod],
    frontiers: Mapping[Method, Sequence[FrontierSetting]],
    untuned: UntunedQuality,
    last: float,
) -> dict[str, CorrectedContrast]:
    """Every method against the reference, of the noise of all frontiers but erratic ones."""
    reference = tuned[REFERENCE].best
    heights: dict[str, SettingScores] = {}
    for method, tuning in tuned.items():
        if all(point.seeds == reference.seeds for point in (*tuning.settings, *tuned[REFERENCE].settings)):
            height = mean_height(frontiers[method], untuned, last)
            heights[method] = SettingScores(seeds=reference.seeds, values=height)
    if REFERENCE not in heights or len(heights) < 2:
        return {}
    examples = len(untuned.values)
    return unlike_differences(
        REFERENCE,
        heights,
        weights=np.full(examples, 1 / examples),
        tolerance=tolerance_of(reference.quality_metric),
    )


def area_table(rows: Sequence[AreaRow], regime: str) -> Table[AreaRow]:
    """One row per method."""
    columns: list[Column[AreaRow]] = [
        Column(header="method", value=lambda row: row.tuned.title, terminal=True),
        Column(header="points", value=lambda row: row.settings),
        Column(header="with paths", value=lambda row: "yes" if row.follows_path else "no"),
        Column(header="corners", value=lambda row: row.corners),
        Column(
            header="above LoRA's frontier by [95%]", value=lambda row: contrast_of(row.area), terminal=True
        ),
        Column(
            header="p (Holm)", value=lambda row: None if row.area is None else row.area.p_value, show=shown_p
        ),
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
    grit = "".join(f"GRIT's lies {shown(contrast_of(row.area))} above it ({row.word}). " for row in own)
    return (
        f"Over all rates together, whole frontiers against LoRA's at equal forgetting: {grit}"
        f"Above: {', '.join(better) or 'none'}; below: {', '.join(worse) or 'none'}."
    )
