"""Trials of one setting, gathered over seeds: the unit that tables, fronts and bands speak about."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.data.load import StudyData
from analysis.stats.arrays import Floats
from analysis.stats.estimates import Estimate, estimate
from grit.config.registry import Method
from ray_jobs.records.trial_record import TrialRecord


@dataclass(frozen=True, kw_only=True)
class PointSummary:
    """One setting in one regime.

    `records` are its usable trials by seed; `lost` counts those that failed, diverged or were stopped.
    """

    point_id: str
    regime: str
    method: Method
    designs: frozenset[str]
    tau: float | None
    T: int | None  # noqa: N815 - the paper's name
    lambda_: float | None
    records: tuple[TrialRecord, ...]
    lost: int
    planned: int

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds with a usable trial."""
        return tuple(record.plan.seed for record in self.records)

    @property
    def quality_metric(self) -> str:
        """The name of the quality metric."""
        return str(self.records[0].measured.quality_metric)

    @property
    def is_control(self) -> bool:
        """Whether this is the first-order control."""
        return "control" in self.designs

    def values(self, name: str) -> list[float]:
        """One value per seed of a numeric record field."""
        return [float(getattr(record, name)) for record in self.records]

    def mean(self, name: str) -> float:
        """Mean over seeds."""
        return statistics.fmean(self.values(name))

    def spread(self, name: str) -> float:
        """Standard deviation over seeds; 0 with one seed."""
        return statistics.stdev(self.values(name)) if len(self.records) > 1 else 0.0

    def knob_texts(self) -> tuple[str, str, str]:
        """tau, T, lambda as people write them; a dash for a control."""
        if self.tau is None:
            return "-", "-", "-"
        return f"{self.tau:.4g}", "none" if self.T is None else str(self.T), f"{self.lambda_:.3g}"

    def label(self) -> str:
        """The setting in one phrase."""
        tau, cadence, damping = self.knob_texts()
        return self.method if self.tau is None else f"tau={tau}, T={cadence}, lambda={damping}"


def summarize_points(records: Sequence[TrialRecord]) -> list[PointSummary]:
    """All settings of a study, in the order in which they were planned."""
    grouped: dict[tuple[str, str], list[TrialRecord]] = {}
    for record in records:
        grouped.setdefault((record.plan.point_id, record.plan.regime), []).append(record)
    points = []
    for (point_id, regime), members in grouped.items():
        first = members[0]
        usable = tuple(sorted((r for r in members if r.usable), key=lambda r: r.plan.seed))
        points.append(
            PointSummary(
                point_id=point_id,
                regime=regime,
                method=first.method,
                designs=frozenset(d for r in members for d in (r.plan.design, *r.plan.also_designs)),
                tau=first.tau,
                T=first.T,
                lambda_=first.lambda_,
                records=usable,
                lost=sum(r.ended and not r.usable for r in members),
                planned=sum(not r.ended for r in members),
            )
        )
    return points


def of_one_regime(points: Sequence[PointSummary]) -> tuple[list[PointSummary], list[str]]:
    """The step-matched points, or the time-matched ones where there are no others: the two are never mixed.

    And a sentence on what is left out.
    """
    regimes = [regime for regime in ("step", "time") if any(p.regime == regime for p in points)]
    if not regimes:
        return [], []
    said = (
        [f"The {regimes[1]}-matched trials of this study are not on this page: the two are never mixed."]
        if len(regimes) > 1
        else []
    )
    return [p for p in points if p.regime == regimes[0]], said


def quality_matrix(data: StudyData, point: PointSummary) -> Floats:
    """(seeds, examples)."""
    return np.stack([data.quality_values(record).values for record in point.records])


def forgetting_matrix(data: StudyData, point: PointSummary) -> tuple[Floats, Floats]:
    """(seeds, documents) in nats per token, and the documents' token weights (documents,)."""
    items = [data.retention_losses(record) for record in point.records]
    return np.stack([item.values for item in items]), items[0].weights


def paired_quality(data: StudyData, point: PointSummary, reference: PointSummary) -> Estimate | None:
    """Quality of `point` minus that of `reference` on the same seeds and examples.

    None without a common seed.
    """
    rows = _common(point, reference)
    if not rows:
        return None
    mine, theirs = quality_matrix(data, point), quality_matrix(data, reference)
    return estimate(np.stack([mine[a] - theirs[b] for a, b in rows]))


def paired_forgetting(data: StudyData, point: PointSummary, reference: PointSummary) -> Estimate | None:
    """Forgetting of `point` minus that of `reference`, in nats per token (positive: forgets more).

    None without a common seed.
    """
    rows = _common(point, reference)
    if not rows:
        return None
    (mine, weights), (theirs, _) = forgetting_matrix(data, point), forgetting_matrix(data, reference)
    return estimate(np.stack([mine[a] - theirs[b] for a, b in rows]), weights)


def _common(point: PointSummary, reference: PointSummary) -> list[tuple[int, int]]:
    return [(i, reference.seeds.index(seed)) for i, seed in enumerate(point.seeds) if seed in reference.seeds]
