"""Trials that collapsed: named, and left out of means, instead of being averaged with those that did not.

A collapse is one seed of a setting that lies far below the setting's other seeds, on the scale of all trials
of its regime. It takes three seeds to tell which one is odd.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from analysis.evidence.load import StudyData
from analysis.evidence.point_summary import PointSummary, measured_regimes, summarize_points
from analysis.stats.arrays import Floats
from grit.tasks.metrics import tolerance_of
from ray_jobs.records.trial_record import TrialRecord

#: How far below its setting's median a trial has collapsed: in robust standard deviations of all trials about
#: their settings' medians, and in tolerances of the metric; both must be exceeded.
DEVIATIONS, TOLERANCES = 8.0, 5.0
LEAST_SEEDS = 3


def without_collapses(data: StudyData) -> StudyData:
    """The study with its collapsed trials named in `damage` and no longer usable: they count as lost."""
    points = summarize_points(data.records)
    for regime in measured_regimes(points):
        for record, below in _collapsed([p for p in points if p.regime == regime and p.records]):
            reason = f"collapsed: its quality lies {below:.3g} below the median of its setting's seeds"
            place = next(i for i, each in enumerate(data.records) if each.trial_id == record.trial_id)
            data.records[place] = record.changed(damage=reason)
            name = f"Trial {record.trial_id} (seed {record.plan.seed})"
            data.damage.append(f"{name} {reason}; it counts as lost.")
    return data


def _collapsed(points: Sequence[PointSummary]) -> list[tuple[TrialRecord, float]]:
    """The collapsed trials of one regime, each with how far it lies below."""
    below: dict[str, Floats] = {}
    for point in points:
        quality = np.array(point.values("quality"))
        below[point.point_id] = np.median(quality) - quality
    deviation = 1.4826 * float(np.median(np.abs(np.concatenate(list(below.values())))))
    collapsed = []
    for point in points:
        if len(point.records) < LEAST_SEEDS:
            continue
        far = max(DEVIATIONS * deviation, TOLERANCES * tolerance_of(point.quality_metric))
        for record, distance in zip(point.records, below[point.point_id], strict=True):
            if distance > far:
                collapsed.append((record, float(distance)))
    return collapsed
