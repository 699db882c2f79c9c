"""Trials of one setting, gathered over seeds: the unit that tables, fronts and bands speak about."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.evidence.load import StudyData
from analysis.stats.arrays import Floats
from analysis.stats.estimates import Estimate, estimate
from grit.config.declared_knobs import KNOBS
from grit.config.registry import METHODS, Method
from grit.config.run_config import RunConfig
from grit.config.sections import Regime
from grit.tasks.metrics import metric_label
from ray_jobs.records.describe import changes, shown_value
from ray_jobs.records.trial_record import TrialRecord

REGIMES: tuple[Regime, ...] = ("step", "time")


@dataclass(frozen=True, kw_only=True)
class PointSummary:
    """One setting in one regime.

    Attributes:
        planned_trials: all its trials, whatever their status.
        records: those that are usable, by seed.
    """

    point_id: str
    regime: Regime
    planned_trials: tuple[TrialRecord, ...]
    records: tuple[TrialRecord, ...]

    @property
    def config(self) -> RunConfig:
        """Of its first trial: all others differ in the seed alone."""
        return self.planned_trials[0].config

    @property
    def method(self) -> Method:
        """The training method."""
        return self.config.method

    @property
    def title(self) -> str:
        """The method's name in tables."""
        return METHODS[self.method].title

    @property
    def designs(self) -> frozenset[str]:
        """All that asked for it."""
        return frozenset(design for record in self.planned_trials for design in record.plan.designs)

    @property
    def tau(self) -> float | None:
        """None for a method that has no such knob; the same holds for T and lambda."""
        return self.planned_trials[0].tau

    @property
    def T(self) -> int | None:
        """None as well where reprojection is off."""
        return self.planned_trials[0].T

    @property
    def lambda_(self) -> float | None:
        """The damping."""
        return self.planned_trials[0].lambda_

    @property
    def lost(self) -> int:
        """Trials that failed, diverged, were stopped, or cannot be read."""
        return sum(record.ended and not record.usable for record in self.planned_trials)

    @property
    def planned(self) -> int:
        """Trials that have not run."""
        return sum(not record.ended for record in self.planned_trials)

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds with a usable trial."""
        return tuple(record.plan.seed for record in self.records)

    @property
    def quality_metric(self) -> str:
        """The name of the quality metric."""
        return str(self.records[0].measured.quality_metric)

    @property
    def quality_label(self) -> str:
        """How tables and axes call it."""
        return metric_label(self.quality_metric)

    @property
    def is_control(self) -> bool:
        """Whether this is the first-order control."""
        return "control" in self.designs

    def has(self, name: str) -> bool:
        """Whether a quantity was measured in every one of its trials, of which there is at least one."""
        measured = [getattr(record.measured, name) for record in self.records]
        return bool(measured) and None not in measured

    def values(self, name: str) -> list[float]:
        """One value per seed of a measured quantity."""
        return [float(getattr(record.measured, name)) for record in self.records]

    def mean(self, name: str) -> float:
        """Mean over seeds."""
        return statistics.fmean(self.values(name))

    @property
    def never_reprojected(self) -> bool:
        """Whether a cadence was set and came in none of its trials, of which there is at least one."""
        if self.T is None or not self.has("reprojections"):
            return False
        return not any(self.values("reprojections"))

    @property
    def trial_seconds(self) -> float:
        """Mean seconds of one of its trials, training and evaluation."""
        return self.mean("train_seconds") + self.mean("eval_seconds")

    def spread(self, name: str) -> float | None:
        """Standard deviation over seeds; None with one seed, which shows none."""
        return statistics.stdev(self.values(name)) if len(self.records) > 1 else None

    def knob_texts(self) -> tuple[str, ...]:
        """The knobs as people write them, in the order of `KNOBS`; a dash for a control."""
        if not self.config.uses_grit:
            return ("-",) * len(KNOBS)
        knobs = zip(KNOBS.values(), self.knob_values(), strict=True)
        return tuple(knob.shown(value) for knob, value in knobs)

    def knob_values(self) -> tuple[float | int | None, ...]:
        """The knobs, in the order of `KNOBS`; None for a method that has none."""
        if not self.config.uses_grit:
            return (None,) * len(KNOBS)
        return tuple(self.config.setting(name) for name in KNOBS)

    def label(self) -> str:
        """The setting in one phrase."""
        knobs = [f"{name}={text}" for name, text in zip(KNOBS, self.knob_texts(), strict=True)]
        own = knobs if self.config.uses_grit else [self.method]
        return ", ".join([*own, *(f"{name}={text}" for name, text in self.other_changes().items())])

    def overrides_label(self) -> str:
        """What it changes against the study's base, in one phrase; empty where that is nothing."""
        overrides = self.planned_trials[0].plan.overrides
        return ", ".join(f"{name} = {shown_value(value)}" for name, value in overrides.items())

    def other_changes(self) -> dict[str, str]:
        """What it changes beside the three knobs."""
        return changes(self.planned_trials[0])


def summarize_points(records: Sequence[TrialRecord]) -> list[PointSummary]:
    """All settings of a study, in the order in which they were planned."""
    grouped: dict[tuple[str, Regime], list[TrialRecord]] = {}
    for record in records:
        grouped.setdefault((record.plan.point_id, record.plan.regime), []).append(record)
    points = []
    for (point_id, regime), members in grouped.items():
        usable = sorted((r for r in members if r.usable), key=lambda r: r.plan.seed)
        points.append(
            PointSummary(
                point_id=point_id, regime=regime, planned_trials=tuple(members), records=tuple(usable)
            )
        )
    return points


def measured_regimes(points: Sequence[PointSummary]) -> list[Regime]:
    """The regimes in which something was measured, step-matched first."""
    measured = {point.regime for point in points if point.records}
    return [regime for regime in REGIMES if regime in measured]


def of_one_regime(points: Sequence[PointSummary]) -> tuple[list[PointSummary], list[str]]:
    """The step-matched points, or the time-matched ones where there are no others: the two are never mixed.

    And a sentence on what is left out.
    """
    asked = {point.regime for point in points}
    regimes = [regime for regime in REGIMES if regime in asked]
    if not regimes:
        return [], []
    left_out = [
        f"The {regime}-matched trials of this study are not on this page: the two are never mixed."
        for regime in regimes[1:]
    ]
    return [p for p in points if p.regime == regimes[0]], left_out


def control_of(points: Sequence[PointSummary], regime: str) -> PointSummary | None:
    """The first-order control of a regime, where it was measured."""
    return next((p for p in points if p.is_control and p.regime == regime and p.records), None)


def quality_matrix(data: StudyData, point: PointSummary) -> Floats:
    """(seeds, examples)."""
    return np.stack([data.quality_values(record).values for record in point.records])


def forgetting_matrix(data: StudyData, point: PointSummary) -> tuple[Floats, Floats]:
    """(seeds, documents) in nats per token, and the documents' token weights (documents,)."""
    items = [data.retention_losses(record) for record in point.records]
    return np.stack([item.values for item in items]), items[0].weights


def quality_estimate(data: StudyData, point: PointSummary) -> Estimate:
    """Mean quality with its interval."""
    return estimate(quality_matrix(data, point))


def forgetting_estimate(data: StudyData, point: PointSummary) -> Estimate:
    """Mean forgetting with its interval, in nats per token."""
    return estimate(*forgetting_matrix(data, point))


def paired_quality(
    data: StudyData, point: PointSummary, reference: PointSummary, *, other: StudyData | None = None
) -> Estimate | None:
    """Quality of `point` minus that of `reference` on the same seeds and examples.

    None without a common seed. `other` is the reference's study, where that is another one.
    """
    pairs = _common_seeds(point, reference)
    if not pairs:
        return None
    own, its = quality_matrix(data, point), quality_matrix(other or data, reference)
    return estimate(np.stack([own[a] - its[b] for a, b in pairs]))


def paired_forgetting(
    data: StudyData, point: PointSummary, reference: PointSummary, *, other: StudyData | None = None
) -> Estimate | None:
    """Forgetting of `point` minus that of `reference`, in nats per token (positive: forgets more).

    None without a common seed. `other` is the reference's study, where that is another one.
    """
    pairs = _common_seeds(point, reference)
    if not pairs:
        return None
    (own, weights), (its, _) = forgetting_matrix(data, point), forgetting_matrix(other or data, reference)
    return estimate(np.stack([own[a] - its[b] for a, b in pairs]), weights)


def _common_seeds(point: PointSummary, reference: PointSummary) -> list[tuple[int, int]]:
    """Rows of both in which a common seed stands."""
    return [
        (row, reference.seeds.index(seed)) for row, seed in enumerate(point.seeds) if seed in reference.seeds
    ]
