"""Which knob moves which objective: the share of an objective's variance over the space that each explains.

By fANOVA (Hutter et al., 2014) on the settings of a regime, as Optuna computes it. A share says what moved
the objective over the settings that were measured, not that the knob matters beyond noise: verdicts say that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from analysis.evidence.point_summary import PointSummary
from analysis.page.table import Column, Table
from grit.config.declared_knobs import KNOBS
from grit.config.sections import Regime
from grit.training.measurements import OBJECTIVES

#: Settings below which a forest has nothing to learn from.
FEWEST_SETTINGS = 8


@dataclass(frozen=True, kw_only=True)
class Importance:
    """One objective of one regime: a share for each knob that varies; they sum to 1."""

    regime: Regime
    objective: str
    settings: int
    shares: dict[str, float]


def importances_of(points: Sequence[PointSummary], regime: Regime) -> list[Importance]:
    """Of every objective that varies; nothing of fewer settings than `FEWEST_SETTINGS`."""
    from ray_jobs.schedule.search import importance_shares  # brings optuna: only where it is needed

    measured = [point for point in points if point.regime == regime and _has_all_knobs(point)]
    varying = [name for name in KNOBS if _varies(measured, name)]
    if len(measured) < FEWEST_SETTINGS or len(varying) < 2:
        return []
    settings = [_knobs(point, varying) for point in measured]
    rows = []
    for objective in OBJECTIVES:
        values = [point.mean(objective) for point in measured]
        if max(values) > min(values):
            shares = importance_shares(settings, values)
            rows.append(Importance(regime=regime, objective=objective, settings=len(values), shares=shares))
    return rows


def _has_all_knobs(point: PointSummary) -> bool:
    """A control has none, and a cadence that never comes is no number."""
    return bool(point.records) and None not in point.knob_values()


def _knobs(point: PointSummary, names: Sequence[str]) -> dict[str, float]:
    return {name: float(point.config.setting(name)) for name in names}


def _varies(points: Sequence[PointSummary], knob: str) -> bool:
    return len({point.config.setting(knob) for point in points}) > 1


def importance_table(rows: Sequence[Importance]) -> Table[Importance]:
    """One row per regime and objective."""
    columns: list[Column[Importance]] = [
        Column(header="regime", value=lambda row: row.regime),
        Column(header="objective", value=lambda row: OBJECTIVES[row.objective].label),
        Column(header="settings", value=lambda row: row.settings),
        *(Column(header=name, value=_share_of(name), style=".0%") for name in KNOBS),
    ]
    return Table(name="importance", columns=columns, rows=rows)


def _share_of(knob: str) -> Callable[[Importance], float | None]:
    return lambda row: row.shares.get(knob)
