"""Where one more seed decides most per second: how a sequential design grows.

What is open is known from the same criteria as the report's, and from nothing else of it: this runs between
trials. A criterion that is predicted to be decided by n more seeds is worth one n-th of itself for each, and
what is out of reach is worth nothing.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from analysis.evidence.collapses import without_collapses
from analysis.evidence.load import load_study
from analysis.evidence.noise import regime_noise
from analysis.evidence.point_summary import PointSummary, measured_regimes, summarize_points
from analysis.evidence.study_marks import marks_of
from analysis.stats.decisions import looks_of
from analysis.studies.knob_axes.rungs import ladder_of
from analysis.studies.sensitivity.criteria import Criterion, Judged, criteria_of
from grit.config.run_config import Overrides
from grit.config.sections import Regime
from ray_jobs.records.sequential import SequentialDesign
from ray_jobs.records.trial_record import TrialRecord
from ray_jobs.schedule.scheduler import SettingKey
from ray_jobs.tracking.marks import StudyMarks

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
        data = without_collapses(load_study(self.folder, records))
        looks = looks_of(sequential=True, seeds=len(data.study.seeds))
        worth: dict[SettingKey, float] = {}
        points = summarize_points(data.records)
        for regime in measured_regimes(points):
            its_points = [point for point in points if point.regime == regime]
            noise = regime_noise(data, its_points)
            judged = None if noise is None else Judged.of_regime(its_points, noise, regime, looks)
            if judged is not None:
                worth |= worth_of_seeds(judged, criteria_of(judged))
        return sorted(worth, key=lambda key: -worth[key])

    def _spent(self, records: Sequence[TrialRecord]) -> bool:
        design = self.design
        if design.max_trials is not None and len(records) >= design.max_trials:
            return True
        if design.max_hours is not None and time.time() - self.began >= design.max_hours * 3600:
            return True
        hours = sum(record.measured.train_seconds or 0.0 for record in records) * self.gpus / 3600
        return design.max_gpu_hours is not None and hours >= design.max_gpu_hours


@dataclass(frozen=True, kw_only=True)
class LiveMarks:
    """Where a study in `folder` stands, while it runs: means, fronts, and how many verdicts are decided."""

    folder: Path

    def __call__(self, records: Sequence[TrialRecord]) -> StudyMarks:
        """Of the trials that have ended."""
        data = without_collapses(load_study(self.folder, list(records)))
        looks = looks_of(sequential=data.study.sequential is not None, seeds=len(data.study.seeds))
        points, outcomes = summarize_points(data.records), list[str]()
        for regime in measured_regimes(points):
            its_points = [point for point in points if point.regime == regime]
            noise = regime_noise(data, its_points)
            judged = None if noise is None else Judged.of_regime(its_points, noise, regime, looks)
            if judged is not None:
                outcomes += [each.outcome for own in criteria_of(judged).values() for each in own]
        decided = sum(outcome in ("pass", "fail") for outcome in outcomes)
        marks = marks_of(data.records)
        return replace(marks, decided=decided, undecided=len(outcomes) - decided) if outcomes else marks


@dataclass(frozen=True, kw_only=True)
class SettledKnobs:
    """Knobs of a study in `folder` that need no further training: a search holds them at the default.

    That is tau, where every threshold that was trained is equivalent to truncating one adapter at the end
    (analysis/studies/knob_axes/rungs.py).
    """

    folder: Path

    def __call__(self, records: list[TrialRecord], regime: Regime) -> Overrides:
        """By the knob's name, given all records; nothing where nothing is settled."""
        data = without_collapses(load_study(self.folder, records))
        points = [point for point in summarize_points(data.records) if point.regime == regime]
        ladder = ladder_of(data, points, regime)
        if ladder is None or not ladder.settles_tau:
            return {}
        return {"tau": data.study.config.grit.tau}


def worth_of_seeds(
    judged: Judged, criteria: Mapping[tuple[str, str], Sequence[Criterion]]
) -> dict[SettingKey, float]:
    """What one more seed of each setting of a regime is worth, in criteria decided per second.

    `criteria` are those of `judged`, by knob and point_id. A contrast has the seeds of the poorer of its two
    settings, so that one gets the next.
    """
    by_id = {point.point_id: point for point in judged.points}
    worth: dict[SettingKey, float] = defaultdict(float)
    for (_, name), own in criteria.items():
        point = by_id[name]
        unsafe = any(criterion.outcome == "fail" for criterion in own)
        for criterion in own:
            value = _value(criterion, point) * (OF_THE_UNSAFE if unsafe else 1.0)
            if value == 0:
                continue
            compared = [point] if criterion.against is None else [point, by_id[criterion.against]]
            target = min(compared, key=lambda each: len(each.planned_trials))
            worth[target.point_id, judged.center.regime] += value / target.trial_seconds
    return dict(worth)


def _value(criterion: Criterion, point: PointSummary) -> float:
    if criterion.outcome != "open" or not point.records:
        return 0.0
    more = criterion.more_seeds
    return 1 / (UNPREDICTED if more is None else max(1, more))
