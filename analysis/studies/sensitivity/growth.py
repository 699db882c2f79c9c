"""Where one more seed decides most per second: how a sequential design grows.

What is open is known from the same verdicts as the report's. A criterion that is predicted to be decided by n
more seeds is worth one n-th of itself for each, and what is out of reach is worth nothing.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.evidence.load import load_study
from analysis.evidence.point_summary import PointSummary
from analysis.studies.sensitivity.bands import SettingVerdict
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
    """Settings by what one more of their seeds is worth per second of a trial; those worth nothing stay out.

    A contrast has the seeds of the poorer of its two settings, so that one gets the next.
    """
    worth: dict[SettingKey, float] = defaultdict(float)
    for regime in result.regimes:
        by_id = {point.point_id: point for point in regime.points}
        center = default_point(result.points, regime.regime)
        for setting in [setting for band in regime.bands for setting in band.settings]:
            for criterion in setting.criteria:
                value = _value(criterion, setting)
                if value == 0 or center is None:
                    continue
                opponent = _opponent(criterion, by_id, center)
                target = min((opponent, setting.point), key=lambda point: len(point.seeds))
                worth[target.point_id, regime.regime] += value / _seconds(target)
    return sorted(worth, key=lambda key: -worth[key])


def _value(criterion: Criterion, setting: SettingVerdict) -> float:
    if criterion.outcome != "open" or not setting.point.records:
        return 0.0
    needed = None if criterion.decision is None else criterion.decision.seeds_needed
    more = UNPREDICTED if needed is None else max(1, needed - len(setting.point.seeds))
    return (OF_THE_UNSAFE if setting.failed else 1.0) / more


def _opponent(criterion: Criterion, by_id: dict[str, PointSummary], center: PointSummary) -> PointSummary:
    """What a criterion's setting was compared with; the default where that is nothing."""
    return by_id.get(criterion.against or "", center)


def _seconds(point: PointSummary) -> float:
    """Of one of its trials."""
    return point.mean("train_seconds") + point.mean("eval_seconds")
