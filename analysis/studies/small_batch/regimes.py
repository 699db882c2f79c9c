"""Batch regimes: each with its diagnostics, its quality against LoRA, and the verdict by a stated rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from analysis.evidence.corrected import FORGETTING_TOLERANCE
from analysis.evidence.load import StudyData
from analysis.evidence.point_summary import PointSummary, forgetting_matrix, quality_matrix
from analysis.stats.arrays import Floats
from analysis.stats.estimates import Estimate, estimate
from analysis.studies.small_batch.diagnostics import CurvatureDiagnostics, diagnostics_of
from grit.tasks.metrics import tolerance_of

BatchVerdict = Literal["stable", "degraded", "unstable", "not told"]

#: The rule, stated: a regime is *unstable* where a trial was lost, or where the factors in use vary by more
#: than their own size (Var_F > 1) and rotate by more than half of what is possible; *degraded* where GRIT
#: loses against LoRA at the same batch, beyond noise, more than the tolerance more quality (or forgetting)
#: than it does in the reference regime, or where preconditioned updates turn by this many degrees more than
#: raw ones; *stable* where the interval of that change in quality lies within the tolerance; else it is *not
#: told*.
SEVERE_VARIANCE, SEVERE_DRIFT, JITTER_LIMIT = 1.0, 0.5, 10.0
#: Designs whose settings are regimes.
GRID_DESIGNS = {"batch", "reference"}


@dataclass(frozen=True, kw_only=True)
class GapChange:
    """How GRIT's difference to LoRA at the same batch differs from that in the reference regime.

    In quality, and in forgetting (nats per token).
    """

    quality: Estimate
    forgetting: Estimate


def batch_verdict(diagnostics: CurvatureDiagnostics, change: GapChange | None) -> BatchVerdict:
    """By the stated rule."""
    wild = diagnostics.variance_used > SEVERE_VARIANCE and diagnostics.drift > SEVERE_DRIFT
    if diagnostics.point.lost or wild:
        return "unstable"
    tolerance = tolerance_of(diagnostics.point.quality_metric)
    turns = diagnostics.jitter_preconditioned > diagnostics.jitter_raw + JITTER_LIMIT
    if change is None:
        return "degraded" if turns else "not told"
    loses = change.quality.high < -tolerance or change.forgetting.low > FORGETTING_TOLERANCE
    if loses or turns:
        return "degraded"
    return "not told" if change.quality.low < -tolerance else "stable"


@dataclass(frozen=True, kw_only=True)
class BatchRegime:
    """One micro-batch with one number of accumulated passes.

    Attributes:
        against: quality minus LoRA's at the same effective batch.
        change: how that differs from the reference regime.
    """

    micro: int
    passes: int
    diagnostics: CurvatureDiagnostics
    against: Estimate | None
    change: GapChange | None

    @property
    def point(self) -> PointSummary:
        """Its trials."""
        return self.diagnostics.point

    @property
    def batch(self) -> int:
        """Sequences per optimizer step."""
        return self.micro * self.passes

    @property
    def is_reference(self) -> bool:
        """Whether the others are compared with it."""
        return "reference" in self.point.designs

    @property
    def verdict(self) -> BatchVerdict:
        """Stable, degraded, unstable, or not told."""
        return batch_verdict(self.diagnostics, self.change)


@dataclass(frozen=True, kw_only=True)
class LostRegime:
    """A regime of which every trial was lost: unstable, with nothing left to measure."""

    micro: int
    passes: int

    @property
    def batch(self) -> int:
        """Sequences per optimizer step."""
        return self.micro * self.passes

    @property
    def verdict(self) -> BatchVerdict:
        """Always the same."""
        return "unstable"


@dataclass(frozen=True, kw_only=True)
class BatchRegimes:
    """All of them, by micro-batch and accumulation."""

    measured: tuple[BatchRegime, ...]
    lost: tuple[LostRegime, ...]

    @property
    def all(self) -> list[BatchRegime | LostRegime]:
        """The lost ones first."""
        return [*self.lost, *self.measured]

    @property
    def reference(self) -> BatchRegime | None:
        """The paper's main setting, where it was measured."""
        return next((regime for regime in self.measured if regime.is_reference), None)

    def planned_extreme(self, *, deepest: bool) -> PointSummary | None:
        """The setting with the smallest planned micro-batch and no accumulation (or the most of it).

        None where every trial of it was lost.
        """
        planned = [(regime.micro, regime.passes) for regime in self.all]
        if not planned:
            return None
        micro = min(micro for micro, _ in planned)
        depths = [passes for other, passes in planned if other == micro]
        wanted = (micro, max(depths) if deepest else min(depths))
        by_batch = {(regime.micro, regime.passes): regime.point for regime in self.measured}
        return by_batch.get(wanted)


def batch_of(point: PointSummary) -> tuple[int, int]:
    """(micro-batch, accumulation)."""
    return point.config.optimization.micro_batch, point.config.optimization.accumulation


def effective_batch(point: PointSummary) -> int:
    """Sequences per optimizer step."""
    micro, passes = batch_of(point)
    return micro * passes


@dataclass(frozen=True, kw_only=True)
class ControlGap:
    """GRIT minus LoRA at the same batch: quality (seeds, examples), forgetting (seeds, documents)."""

    seeds: tuple[int, ...]
    quality: Floats
    forgetting: Floats
    weights: Floats

    def less(self, other: ControlGap) -> GapChange:
        """This gap minus the other, on the same seeds."""
        return GapChange(
            quality=estimate(self.quality - other.quality),
            forgetting=estimate(self.forgetting - other.forgetting, self.weights),
        )


def control_gap(data: StudyData, point: PointSummary, control: PointSummary | None) -> ControlGap | None:
    """None without a control of the same seeds."""
    if control is None or control.seeds != point.seeds:
        return None
    (own, weights), (other, _) = forgetting_matrix(data, point), forgetting_matrix(data, control)
    return ControlGap(
        seeds=point.seeds,
        quality=quality_matrix(data, point) - quality_matrix(data, control),
        forgetting=own - other,
        weights=weights,
    )


def regimes_of(data: StudyData, points: Sequence[PointSummary]) -> BatchRegimes:
    """The grid and the reference."""
    controls = {effective_batch(p): p for p in points if "first-order" in p.designs and p.records}
    grid = [p for p in points if p.designs & GRID_DESIGNS]
    gaps = {p.point_id: control_gap(data, p, controls.get(effective_batch(p))) for p in grid if p.records}
    reference = next((gaps[p.point_id] for p in grid if p.records and "reference" in p.designs), None)
    measured: dict[tuple[int, int], BatchRegime] = {}
    lost: set[tuple[int, int]] = set()
    for p in grid:
        if not p.records and p.lost:
            lost.add(batch_of(p))
        diagnostics = diagnostics_of(data, p) if p.records else None
        if diagnostics is not None:
            measured[batch_of(p)] = _regime(diagnostics, gaps[p.point_id], reference)
    return BatchRegimes(
        measured=tuple(measured[key] for key in sorted(measured)),
        lost=tuple(LostRegime(micro=micro, passes=passes) for micro, passes in sorted(lost)),
    )


def _regime(
    diagnostics: CurvatureDiagnostics, gap: ControlGap | None, reference: ControlGap | None
) -> BatchRegime:
    micro, passes = batch_of(diagnostics.point)
    paired = gap is not None and reference is not None and gap.seeds == reference.seeds
    return BatchRegime(
        micro=micro,
        passes=passes,
        diagnostics=diagnostics,
        against=None if gap is None else estimate(gap.quality),
        change=gap.less(reference) if paired and gap is not None and reference is not None else None,
    )
