"""How steady a setting's curvature was, from the tables that its trials left."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.evidence.load import StudyData
from analysis.evidence.point_summary import PointSummary
from grit.geometry.events import RankChange


@dataclass(frozen=True, kw_only=True)
class CurvatureDiagnostics:
    """Means over modules, sides and seeds of one setting; jitter in degrees.

    Attributes:
        variance_used: of the factors that GRIT uses, after the run's first quarter, over their own size;
            `variance_batch` that of single steps.
        rank_changes: per run; `change_step_spread`: how much their mean step varies over seeds;
            `final_rank_spread`: how much the mean rank does.
    """

    point: PointSummary
    variance_used: float
    variance_batch: float
    eigenvalue_cv: float
    drift: float
    jitter_raw: float
    jitter_preconditioned: float
    rank_changes: float
    change_step_spread: float
    final_rank_spread: float


def diagnostics_of(data: StudyData, point: PointSummary) -> CurvatureDiagnostics | None:
    """None where its trials measured nothing of the kind."""
    rows = stability_rows(data, point)
    used, single = _module_rows(rows, "used"), _module_rows(rows, "batch")
    jitter = [row for row in rows if row["kind"] == "jitter"]
    if not used or not jitter:
        return None
    change_steps = []
    for record in point.records:
        events = [event for event in data.events(record) if isinstance(event, RankChange)]
        change_steps.append([event.step for event in events])
    mean_steps = [statistics.fmean(steps) for steps in change_steps if steps]
    ranks = [statistics.fmean(r.measured.final_ranks) for r in point.records if r.measured.final_ranks]
    return CurvatureDiagnostics(
        point=point,
        variance_used=finite_mean([row["variance"] for row in used]),
        variance_batch=finite_mean([row["variance"] for row in single]),
        eigenvalue_cv=finite_mean([value for row in used for value in row["eigenvalue_cv"]]),
        drift=finite_mean([row["drift"] for row in used]),
        jitter_raw=finite_mean([row["raw"] for row in jitter]),
        jitter_preconditioned=finite_mean([row["preconditioned"] for row in jitter]),
        rank_changes=finite_mean([len(steps) for steps in change_steps]),
        change_step_spread=_spread(mean_steps),
        final_rank_spread=_spread(ranks),
    )


def stability_rows(data: StudyData, point: PointSummary) -> list[dict[str, Any]]:
    """The rows of all its trials."""
    return [row for record in point.records for row in data.table("stability", record)]


def _module_rows(rows: Sequence[dict[str, Any]], estimate: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["kind"] == "module" and row["estimate"] == estimate]


def _spread(values: Sequence[float]) -> float:
    return statistics.pstdev(values) if len(values) > 1 else 0.0


def finite_mean(values: Sequence[float | None]) -> float:
    """Of the finite ones; NaN without any."""
    finite = [value for value in values if value is not None and np.isfinite(value)]
    return float(np.mean(finite)) if finite else float("nan")
