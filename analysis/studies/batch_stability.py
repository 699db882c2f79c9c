"""The stability of one batch regime, from the tables that its trials left.

And the rule by which it is called stable, degraded or unstable.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.data.load import StudyData
from analysis.data.points import PointSummary, forgetting_matrix, quality_matrix
from analysis.stats.arrays import Floats
from analysis.stats.estimates import Estimate, estimate
from analysis.studies.sensitivity.bands import EPSILON

#: The rule, stated: a regime is *unstable* where a trial was lost, or where the factors in use vary by more
#: than their own size (Var_F > 1) and rotate by more than half of what is possible; *degraded* where GRIT
#: loses against LoRA at the same batch, beyond noise, more than the tolerance more quality (or forgetting)
#: than it does in the reference regime, or where preconditioned updates turn by this many degrees more than
#: raw ones; *stable* where the interval of that change in quality lies within the tolerance; else it is *not
#: told*.
SEVERE_VARIANCE, SEVERE_DRIFT, JITTER_LIMIT = 1.0, 0.5, 10.0
#: Nats per token of forgetting that are tolerated, as in analysis/studies/sensitivity/bands.py.
FORGETTING_TOLERANCE = 0.02


@dataclass(frozen=True, kw_only=True)
class Stability:
    """The diagnostics of one setting, means over modules, sides and seeds; `jitter` in degrees.

    `triggers`: rank changes per run; `trigger_steps`: how much their mean step varies over seeds;
    `final_rank`: how much the mean rank does.
    """

    point: PointSummary
    variance_used: float
    variance_batch: float
    eigenvalue_cv: float
    drift: float
    jitter_raw: float
    jitter_preconditioned: float
    triggers: float
    trigger_steps: float
    final_rank: float


def batch_of(data: StudyData, p: PointSummary) -> tuple[int, int]:
    """(micro-batch, accumulation)."""
    overrides, config = p.records[0].plan.overrides, data.study["config"]
    return int(overrides.get("micro_batch", config["micro_batch"])), int(
        overrides.get("accumulation", config["accumulation"])
    )


def stability_of(data: StudyData, p: PointSummary) -> Stability | None:
    """From the tables that its trials left; None where they measured nothing."""
    rows = [row for record in p.records for row in data.table("stability", record)]
    modules = {
        estimate: [row for row in rows if row["kind"] == "module" and row["estimate"] == estimate]
        for estimate in ("used", "batch")
    }
    jitter = [row for row in rows if row["kind"] == "jitter"]
    if not modules["used"] or not jitter:
        return None
    changes = [_rank_changes(data, record) for record in p.records]
    middle = [statistics.fmean(steps) for steps in changes if steps]
    ranks = [statistics.fmean(r.measured.final_ranks) for r in p.records if r.measured.final_ranks]
    return Stability(
        point=p,
        variance_used=mean_of([row["variance"] for row in modules["used"]]),
        variance_batch=mean_of([row["variance"] for row in modules["batch"]]),
        eigenvalue_cv=mean_of([value for row in modules["used"] for value in row["eigenvalue_cv"]]),
        drift=mean_of([row["drift"] for row in modules["used"]]),
        jitter_raw=mean_of([row["raw"] for row in jitter]),
        jitter_preconditioned=mean_of([row["preconditioned"] for row in jitter]),
        triggers=mean_of([len(steps) for steps in changes]),
        trigger_steps=statistics.pstdev(middle) if len(middle) > 1 else 0.0,
        final_rank=statistics.pstdev(ranks) if len(ranks) > 1 else 0.0,
    )


def _rank_changes(data: StudyData, record: Any) -> list[int]:
    """Steps at which dynamic rank changed something."""
    return [
        event["step"]
        for text in data.telemetry(record)["events"]
        if text
        for event in json.loads(text)
        if event["kind"] == "rank"
    ]


def mean_of(values: Sequence[float | None]) -> float:
    """Of the finite ones; NaN without any."""
    known = [value for value in values if value is not None and np.isfinite(value)]
    return float(np.mean(known)) if known else float("nan")


@dataclass(frozen=True, kw_only=True)
class Change:
    """How GRIT's difference to LoRA at the same batch differs from that in the reference regime.

    In quality, and in forgetting (nats per token).
    """

    quality: Estimate
    forgetting: Estimate


def verdict(s: Stability, change: Change | None) -> str:
    """By the stated rule."""
    if s.point.lost or (s.variance_used > SEVERE_VARIANCE and s.drift > SEVERE_DRIFT):
        return "unstable"
    tolerance = EPSILON.get(s.point.quality_metric, 0.02)
    worse = change is not None and (
        change.quality.high < -tolerance or change.forgetting.low > FORGETTING_TOLERANCE
    )
    if worse or s.jitter_preconditioned > s.jitter_raw + JITTER_LIMIT:
        return "degraded"
    return "not told" if change is None or change.quality.low < -tolerance else "stable"


@dataclass(frozen=True, kw_only=True)
class Regime:
    """One batch regime.

    Its diagnostics, quality against LoRA at the same effective batch, how that differs from the reference,
    and the verdict.
    """

    micro: int
    passes: int
    stability: Stability
    against: Estimate | None
    change: Change | None

    @property
    def batch(self) -> int:
        """Sequences per optimizer step."""
        return self.micro * self.passes

    @property
    def verdict(self) -> str:
        """Stable, degraded, unstable, or not told."""
        return verdict(self.stability, self.change)


@dataclass(frozen=True, kw_only=True)
class _Gap:
    """GRIT minus LoRA at the same batch: quality (seeds, examples), forgetting (seeds, documents)."""

    seeds: tuple[int, ...]
    quality: Floats
    forgetting: Floats
    weights: Floats

    def less(self, other: _Gap) -> Change:
        """This gap minus the other, on the same seeds."""
        return Change(
            quality=estimate(self.quality - other.quality),
            forgetting=estimate(self.forgetting - other.forgetting, self.weights),
        )


def _gap(data: StudyData, p: PointSummary, control: PointSummary | None) -> _Gap | None:
    """None without a control of the same seeds."""
    if control is None or control.seeds != p.seeds:
        return None
    (mine, weights), (theirs, _) = forgetting_matrix(data, p), forgetting_matrix(data, control)
    return _Gap(
        seeds=p.seeds,
        quality=quality_matrix(data, p) - quality_matrix(data, control),
        forgetting=mine - theirs,
        weights=weights,
    )


def regimes_of(data: StudyData, points: Sequence[PointSummary]) -> list[Regime]:
    """The grid and the reference, by micro-batch and accumulation.

    Those of which no trial is usable are in `lost_regimes`.
    """
    controls = {
        int(np.prod(batch_of(data, p))): p for p in points if "first-order" in p.designs and p.records
    }
    grid = [p for p in points if p.designs & {"batch", "reference"} and p.records]
    gaps = {p.point_id: _gap(data, p, controls.get(int(np.prod(batch_of(data, p))))) for p in grid}
    least = next((gaps[p.point_id] for p in grid if "reference" in p.designs), None)
    found: dict[tuple[int, int], Regime] = {}
    for p in grid:
        gap, s = gaps[p.point_id], stability_of(data, p)
        if s is None:
            continue
        micro, passes = batch_of(data, p)
        change = (
            gap.less(least) if gap is not None and least is not None and gap.seeds == least.seeds else None
        )
        found[micro, passes] = Regime(
            micro=micro,
            passes=passes,
            stability=s,
            against=None if gap is None else estimate(gap.quality),
            change=change,
        )
    return [found[key] for key in sorted(found)]


def lost_regimes(data: StudyData, points: Sequence[PointSummary]) -> list[tuple[int, int]]:
    """(micro-batch, accumulation) of the regimes whose every trial was lost.

    Unstable, with nothing left to measure.
    """
    gone = {p.point_id for p in points if p.designs & {"batch", "reference"} and not p.records and p.lost}
    config = data.study["config"]
    return sorted(
        {
            tuple(int(r.plan.overrides.get(name, config[name])) for name in ("micro_batch", "accumulation"))  # type: ignore[misc]
            for r in data.records
            if r.plan.point_id in gone
        }
    )
