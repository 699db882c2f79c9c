"""What score the training time buys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from analysis.evidence.point_summary import PointSummary
from analysis.page.columns import mean_column, method_column, regime_column, seeds_column, spread_column
from analysis.page.table import Column, Table


@dataclass(frozen=True, kw_only=True)
class ScoreRow:
    """One method under one budget; a log-likelihood has no rate.

    `middle` is quality in the middle of the budget.
    """

    point: PointSummary
    per_hour: float | None
    middle: float | None


def score_rows(points: Sequence[PointSummary]) -> list[ScoreRow]:
    """Quality per training hour."""
    rows = []
    for p in with_curves(points):
        curves = [record.measured.curve for record in p.records if record.measured.curve]
        halfway = [curve[len(curve) // 2]["quality"] for curve in curves]
        # None: only likelihoods were measured there
        middles = [quality for quality in halfway if quality is not None]
        hours = p.mean("train_seconds") / 3600
        rate = None if p.quality_metric == "answer_logprob" else p.mean("quality") / hours
        rows.append(ScoreRow(point=p, per_hour=rate, middle=fmean(middles) if middles else None))
    return rows


def with_curves(points: Sequence[PointSummary]) -> list[PointSummary]:
    """The settings whose quality was followed over training."""
    return [p for p in points if p.designs & {"curve", "control"} and p.records]


def score_table(points: Sequence[PointSummary]) -> Table[ScoreRow]:
    """One row per method and regime."""
    columns: list[Column[ScoreRow]] = [
        regime_column(terminal=True),
        method_column(terminal=True),
        seeds_column(),
        mean_column("steps", header="steps", terminal=True),
        mean_column("train_seconds", style=".1f"),
        spread_column("quality", terminal=True),
        Column(
            header="quality per training hour", value=lambda row: row.per_hour, style=".0f", terminal=True
        ),
        Column(header="quality in the middle of the budget", value=lambda row: row.middle, style=".3f"),
    ]
    return Table(name="score", columns=columns, rows=score_rows(points))
