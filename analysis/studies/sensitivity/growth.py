"""Where one more seed decides most per second: how a sequential design grows.

What is open is known from the same verdicts as the report's. A criterion that is predicted to be decided by n
more seeds is worth one n-th of itself for each, and what is out of reach is worth nothing.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.evidence.load import load_study
from analysis.evidence.point_summary import PointSummary
from analysis.studies.sensitivity.criteria import Criterion
from analysis.studies.sensitivity.one_at_a_time import default_point
from analysis.studies.sensitivity.results import SensitivityResult, analyse
from ray_jobs.records.sequential import SequentialDesign
from ray_jobs.records.trial_record import TrialRecord
from ray_jobs.schedule.scheduler import SettingKey

#: What a criterion counts for in a setting that another criterion has shown to be unsafe already.
OF_THE_UNSAFE = 0.25
#: Seeds that an open criterion is taken to need where no prediction is made.
UNPREDICTED = 2


@dataclass(frozen=True, kw_only=True)
class Growth:
    """Chooses settings for a study in `folder`.

    Attributes:
        gpus: of one trial.
        began: wall-clock time of the call's first trial, in seconds since the epoch.
    """

    folder: Path
    design: SequentialDesign
    gpus: float
    began: float

    def __call__(self, records: list[TrialRecord]) -> list[SettingKey]:
        """The settings that get one more seed, most urgent first; none where a limit is reached."""
        if self._spent(records):
            return []
        result = analyse(load_study(self.folder, records))
        return ranked(result)

    def _spent(self, records: Sequence[TrialRecord]) -> bool:
        design = self.design
        if design.max_trials is not None and len(records) >= design.max_trials:
            return True
        if design.max_hours is not None and time.time() - self.began >= design.max_hours * 3600:
            return True
        hours = sum(record.measured.train_seconds or 0.0 for record in records) * self.gpus / 3600
        return design.max_gpu_hours is not None and hours >= design.max_gpu_hours


def ranked(result: SensitivityResult) -> list[SettingKey]:
    """Settings by what one more of their seeds is worth per second of a trial; none worth nothing."""
    worth: dict[SettingKey, float] = {}
    for regime in result.regimes:
        center = default_point(result.points, regime.regime)
        if center is None:
            continue
        criteria = {
            (band.knob, setting.point.point_id): setting.criteria
            for band in regime.bands
            for setting in band.settings
        }
        worth |= worth_of_seeds(criteria, regime.points, center)
    return sorted(worth, key=lambda key: -worth[key])


def worth_of_seeds(
    criteria: Mapping[tuple[str, str], Sequence[Criterion]],
    points: Sequence[PointSummary],
    center: PointSummary,
) -> dict[SettingKey, float]:
    """What one more seed of each setting of a regime is worth, in criteria decided per second.

    `criteria` are by knob and point_id. A contrast has the seeds of the poorer of its two settings, so that
    one gets the next.
    """
    by_id = {point.point_id: point for point in points}
    worth: dict[SettingKey, float] = defaultdict(float)
    for (_, name), judged in criteria.items():
        point = by_id[name]
        unsafe = any(criterion.outcome == "fail" for criterion in judged)
        for criterion in judged:
            value = _value(criterion, point) * (OF_THE_UNSAFE if unsafe else 1.0)
            if value == 0:
                continue
            compared = [point] if criterion.against is None else [point, by_id[criterion.against]]
            target = min(compared, key=lambda each: len(each.planned_trials))
            worth[target.point_id, center.regime] += value / _seconds(target)
    return dict(worth)


def _value(criterion: Criterion, point: PointSummary) -> float:
    if criterion.outcome != "open" or not point.records:
        return 0.0
    needed = None if criterion.decision is None else criterion.decision.seeds_needed
    if needed is None or criterion.contrast is None:
        return 1 / UNPREDICTED
    return 1 / max(1, needed - criterion.contrast.seeds)


def _seconds(point: PointSummary) -> float:
    """Of one of its trials."""
    return point.mean("train_seconds") + point.mean("eval_seconds")
