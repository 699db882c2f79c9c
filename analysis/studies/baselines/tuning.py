"""Each method's settings over learning rates, and the one that the even examples choose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.evidence.corrected import CorrectedContrast, held_out_differences
from analysis.evidence.load import StudyData
from analysis.evidence.point_summary import PointSummary, forgetting_matrix, quality_matrix
from analysis.page.columns import shown_choice
from analysis.stats.frontier_gap import Gap, GapValues, SettingValues, gap_values, gaps_of
from grit.config.registry import METHODS, Method
from grit.io.files import Row
from ray_jobs.records.trial_record import TrialRecord

DESIGN = "baseline"


@dataclass(frozen=True, kw_only=True)
class TunedMethod:
    """One method in one regime.

    Attributes:
        settings: in the order of their learning rates.
        best: the one that the validation split chose.
        lost, trials: over all learning rates, also those of which a seed was lost.
        train_seconds: what tuning cost, over all its trials.
    """

    method: Method
    settings: tuple[PointSummary, ...]
    best: PointSummary
    lost: int
    trials: int
    train_seconds: float

    @property
    def title(self) -> str:
        """The method's name in tables."""
        return METHODS[self.method].title

    @property
    def rates(self) -> list[float]:
        """The learning rates of the settings."""
        return [learning_rate(point) for point in self.settings]

    @property
    def rate(self) -> float:
        """The best learning rate."""
        return learning_rate(self.best)

    def shown_rate(self) -> str:
        """The best learning rate, marked where it is at the edge."""
        return shown_choice(self.rate, self.rates)


def learning_rate(point: PointSummary) -> float:
    """The learning rate that a setting was given."""
    return point.config.optimization.learning_rate


def is_baseline(record: TrialRecord) -> bool:
    """Whether a trial belongs to the design."""
    return DESIGN in record.plan.designs


def tune(data: StudyData, points: Sequence[PointSummary], regime: str) -> dict[Method, TunedMethod]:
    """Each method's settings with every seed of the study, and the best of them on the even examples.

    Methods without any are left out.
    """
    members = [p for p in points if p.regime == regime and DESIGN in p.designs]
    tuned: dict[Method, TunedMethod] = {}
    for method in dict.fromkeys(p.method for p in members):
        settings = [p for p in members if p.method == method]
        whole = [p for p in settings if p.records and not p.lost and not p.planned]
        if not whole:
            continue
        trials = [r for p in settings for r in p.planned_trials]
        tuned[method] = TunedMethod(
            method=method,
            settings=tuple(sorted(whole, key=learning_rate)),
            best=max(whole, key=lambda p: choosing_quality(data, p)),
            lost=sum(p.lost for p in settings),
            trials=sum(len(p.records) + p.lost for p in settings),
            train_seconds=sum(r.measured.train_seconds or 0.0 for r in trials),
        )
    return tuned


def choosing_quality(data: StudyData, point: PointSummary) -> float:
    """Mean quality on the even examples."""
    return float(quality_matrix(data, point)[:, ::2].mean())


def held_out_quality(data: StudyData, point: PointSummary) -> float:
    """Mean quality on the odd examples."""
    return float(quality_matrix(data, point)[:, 1::2].mean())


def best_differences(
    data: StudyData, tuned: Mapping[Method, TunedMethod], reference: Method
) -> tuple[dict[str, CorrectedContrast], dict[str, CorrectedContrast]]:
    """Every method's best setting less the reference's: quality on the odd examples, and forgetting.

    By the method, of the noise of all best settings together but for erratic ones (analysis/stats/unlike.py);
    nothing without the reference or another.
    """
    others = [method for method in tuned if method != reference]
    if reference not in tuned or not others:
        return {}, {}
    best = {method: tuning.best for method, tuning in tuned.items()}
    return held_out_differences(data, best, [(method, reference) for method in others])


def frontier_of(data: StudyData, reference: TunedMethod) -> list[SettingValues]:
    """The reference's settings and, where they were scored, the paths of their scaled updates."""
    frontier = [setting_values(data, p) for p in reference.settings]
    for setting in reference.settings:
        frontier += [scaled.values for scaled in path_of(data, setting)]
    return frontier


def gaps_to_frontier(
    data: StudyData, tuned: Mapping[Method, TunedMethod], reference: TunedMethod
) -> dict[Method, Gap]:
    """Every other method's best setting against the reference's frontier, on the odd examples.

    Those whose seeds are not the reference's are left out.
    """
    frontier = frontier_of(data, reference)
    values: dict[str, GapValues] = {}
    for method, tuning in tuned.items():
        point = tuning.best
        if tuning is reference or any(p.seeds != point.seeds for p in reference.settings):
            continue
        untuned = data.untuned_values(point.records[0]).values[1::2]
        values[method] = gap_values(setting_values(data, point), frontier, untuned)
    return gaps_of(values)


@dataclass(frozen=True, kw_only=True)
class ScaledSetting:
    """A setting with its trained update multiplied by `factor`; quality on the odd examples.

    `chosen_by`: the mean on the even ones.
    """

    factor: float
    chosen_by: float
    values: SettingValues


def path_of(data: StudyData, point: PointSummary) -> list[ScaledSetting]:
    """The path of a setting's scaled updates, smallest factor first; none where a trial of it has no such."""
    tables = [data.table("scales", record) for record in point.records]
    if not tables or not all(tables):
        return []
    _, weights = forgetting_matrix(data, point)
    path = []
    for factor in sorted(set.intersection(*(set(_factors(rows)) for rows in tables))):
        quality = [_column(rows, factor, "task") for rows in tables]
        forgetting = [_column(rows, factor, "retention") for rows in tables]
        values = SettingValues(
            quality=np.array(quality)[:, 1::2], forgetting=np.array(forgetting), weights=weights
        )
        even = float(np.array(quality)[:, ::2].mean())
        path.append(ScaledSetting(factor=factor, chosen_by=even, values=values))
    return path


def _factors(rows: Sequence[Row]) -> list[float]:
    return [row["scale"] for row in rows]


def _column(rows: Sequence[Row], factor: float, kind: str) -> list[float]:
    return [row["value"] for row in rows if row["scale"] == factor and row["kind"] == kind]


def setting_values(data: StudyData, point: PointSummary) -> SettingValues:
    """Quality on the odd examples, and forgetting."""
    forgetting, weights = forgetting_matrix(data, point)
    quality = quality_matrix(data, point)[:, 1::2]
    return SettingValues(quality=quality, forgetting=forgetting, weights=weights)
