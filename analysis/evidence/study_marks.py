"""What MLflow is told of a study's settings, and whose adapters are kept.

Cheap enough to be computed while a study runs: means and fronts, nothing that is resampled.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from scipy.stats import t

from analysis.evidence.fronts import front, study_hypervolume
from analysis.evidence.point_summary import PointSummary, measured_regimes, summarize_points
from grit.training.measurements import OBJECTIVES
from ray_jobs.records.kept_adapters import Keep, default_point_id
from ray_jobs.records.trial_record import TrialRecord
from ray_jobs.tracking.marks import Aggregate, SettingMarks, StudyMarks

#: Of the intervals.
CONFIDENCE = 0.95


def marks_of(records: Sequence[TrialRecord]) -> StudyMarks:
    """Means over seeds, fronts and hypervolumes."""
    points = summarize_points(records)
    settings: list[SettingMarks] = []
    hypervolumes = {}
    for regime in measured_regimes(points):
        its_points = [point for point in points if point.regime == regime and point.records]
        members = {point.point_id for point in front(its_points)}
        hypervolumes[regime] = study_hypervolume(its_points)
        settings += [_setting_marks(point, on_front=point.point_id in members) for point in its_points]
    return StudyMarks(settings=tuple(settings), hypervolume=hypervolumes)


def _setting_marks(point: PointSummary, *, on_front: bool) -> SettingMarks:
    return SettingMarks(
        point_id=point.point_id,
        regime=point.regime,
        objectives={name: over_seeds(point.values(name)) for name in OBJECTIVES},
        seeds=len(point.records),
        on_front=on_front,
    )


def over_seeds(values: Sequence[float]) -> Aggregate:
    """Mean and Student's interval from the seeds' own spread."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Aggregate(mean=mean)
    freedom = len(values) - 1
    half = float(t.ppf((1 + CONFIDENCE) / 2, freedom)) * statistics.stdev(values) / math.sqrt(len(values))
    return Aggregate(mean=mean, low=mean - half, high=mean + half)


def kept_trials(records: Sequence[TrialRecord], marks: StudyMarks, keep: Keep) -> dict[str, tuple[str, ...]]:
    """The completed trials whose adapters are kept, with what each is kept for."""
    if keep == "none":
        return {}
    default = default_point_id(records)
    kept: dict[str, tuple[str, ...]] = {}
    for record in records:
        if record.status != "completed":
            continue
        setting = marks.of(record.plan.point_id, record.plan.regime)
        roles = {
            "recommended": setting is not None and setting.recommended,
            "default": record.plan.point_id == default,
            "control": "control" in record.plan.designs,
            "front": setting is not None and setting.on_front and keep in ("front", "all"),
        }
        held = tuple(role for role, holds in roles.items() if holds)
        if held or keep == "all":
            kept[record.trial_id] = held
    return kept
