"""Settings that two studies measured, and how far apart they are, by one model of the noise."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from analysis.evidence.corrected import CorrectedContrast, unlike_score_differences
from analysis.evidence.load import StudyData
from analysis.evidence.point_summary import (
    PointSummary,
    forgetting_matrix,
    paired_forgetting,
    paired_quality,
    quality_matrix,
    summarize_points,
)
from analysis.stats.estimates import Estimate
from analysis.stats.pooled_noise import SettingScores
from ray_jobs.records.study_file import StudyFile

#: The method whose setting is the same on a backbone that is not quantized.
UNQUANTIZED = {"qlora": "lora", "qgrit": "grit"}


@dataclass(frozen=True, kw_only=True)
class SharedSetting:
    """A setting that both studies measured.

    Attributes:
        quality, forgetting: the second's less the first's, by one model of the noise of all settings of both
            and corrected for their number; None where they have no seed in common, or read other data.
        quality_alone, forgetting_alone: the same by the seeds that both have, of this setting alone.
    """

    point: PointSummary
    other: PointSummary
    quality: CorrectedContrast | None = None
    forgetting: CorrectedContrast | None = None
    quality_alone: Estimate | None = None
    forgetting_alone: Estimate | None = None

    def methods(self) -> str:
        """The method, or both."""
        names = (self.point.title, self.other.title)
        return names[0] if names[0] == names[1] else ", ".join(names)

    def change(self, name: str) -> float:
        """The second study's mean minus the first's."""
        return self.other.mean(name) - self.point.mean(name)


def shared_settings(first: StudyData, second: StudyData) -> list[SharedSetting]:
    """One per setting (method, knobs and whatever else is changed) and regime."""
    ones, others = _by_setting(first), _by_setting(second)
    shared = [SharedSetting(point=ones[key], other=others[key]) for key in ones if key in others]
    if not read_the_same(first.study, second.study):
        return shared
    by_regime: dict[str, list[SharedSetting]] = {}
    for setting in shared:
        by_regime.setdefault(setting.point.regime, []).append(_alone(first, second, setting))
    return list(chain.from_iterable(_judged(first, second, rows) for rows in by_regime.values()))


def read_the_same(first: StudyFile, second: StudyFile) -> bool:
    """Whether the same model was scored on the same examples and documents."""
    return first.content == second.content and first.sizes == second.sizes


def _alone(first: StudyData, second: StudyData, setting: SharedSetting) -> SharedSetting:
    point, other = setting.point, setting.other
    return replace(
        setting,
        quality_alone=paired_quality(second, other, point, other=first),
        forgetting_alone=paired_forgetting(second, other, point, other=first),
    )


def _judged(first: StudyData, second: StudyData, settings: list[SharedSetting]) -> list[SharedSetting]:
    """Those of one regime by one model of the noise; without a seed in common, as they are."""
    paired = [setting for setting in settings if setting.quality_alone is not None]
    if not paired:
        return settings
    quality: dict[str, SettingScores] = {}
    forgetting: dict[str, SettingScores] = {}
    for setting in paired:
        # the second study's is named as the setting is: differences have the name of the first of a pair
        named = setting.point.point_id
        for name, data, point in ((named, second, setting.other), (_in_first(named), first, setting.point)):
            forgotten, tokens = forgetting_matrix(data, point)
            quality[name] = SettingScores(seeds=point.seeds, values=quality_matrix(data, point))
            forgetting[name] = SettingScores(seeds=point.seeds, values=forgotten)
    of_quality, of_forgetting = unlike_score_differences(
        [(setting.point.point_id, _in_first(setting.point.point_id)) for setting in paired],
        quality,
        forgetting,
        metric=paired[0].point.quality_metric,
        tokens=tokens,
    )
    return [
        replace(
            row, quality=of_quality.get(row.point.point_id), forgetting=of_forgetting.get(row.point.point_id)
        )
        for row in settings
    ]


def _in_first(point_id: str) -> str:
    """A setting's name as the first study has it, beside the second's."""
    return f"{point_id} in the first"


def _by_setting(data: StudyData) -> dict[tuple[Any, ...], PointSummary]:
    settings: dict[tuple[Any, ...], PointSummary] = {}
    for p in summarize_points(data.records):
        if p.records:
            # Q-GRIT is compared with GRIT, and QLoRA with LoRA: the backbone's form is among the differences
            # that the page lists.
            method = UNQUANTIZED.get(p.method, p.method)
            others = tuple(sorted(p.other_changes().items()))
            settings.setdefault((p.regime, method, *p.knob_values(), *others), p)
    return settings
