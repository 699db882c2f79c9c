"""Columns that many tables share.

Knobs and measured quantities of a row's setting, with labels and formats as they are declared.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from analysis.evidence.point_summary import PointSummary
from analysis.page.table import Column, Spread
from grit.config.declared_knobs import KNOBS
from grit.training.measurements import QUANTITIES

PointOf = Callable[[Any], PointSummary]


def _own_point(row: Any) -> PointSummary:
    point: PointSummary = row.point
    return point


def _itself(row: Any) -> PointSummary:
    point: PointSummary = row
    return point


#: Rows that are settings themselves, rather than objects with a `point`.
ITSELF: PointOf = _itself


def knob_columns(*, point: PointOf = _own_point, terminal: bool = False) -> list[Column[Any]]:
    """One column per knob; nothing for a method that has no such knobs."""
    return [_knob_column(name, point, terminal) for name in KNOBS]


def _knob_column(name: str, point: PointOf, terminal: bool) -> Column[Any]:
    knob = KNOBS[name]

    def value(row: Any) -> float | str | None:
        setting = point(row)
        if not setting.config.uses_grit:
            return None
        held: float | None = getattr(setting.config.grit, knob.field)
        return "none" if held is None else held

    return Column(header=name, value=value, style=knob.style, terminal=terminal)


def mean_column(
    name: str, *, point: PointOf = _own_point, header: str | None = None, **more: Any
) -> Column[Any]:
    """The mean over seeds of a measured quantity."""
    quantity = QUANTITIES[name]

    def value(row: Any) -> float | None:
        setting = point(row)
        return setting.mean(name) if setting.has(name) else None

    return Column(
        header=header or quantity.label,
        value=value,
        style=more.pop("style", quantity.style.replace("d", ".0f")),
        **more,
    )


def spread_column(
    name: str, *, point: PointOf = _own_point, header: str | None = None, **more: Any
) -> Column[Any]:
    """Mean and standard deviation over seeds of a measured quantity."""
    quantity = QUANTITIES[name]

    def value(row: Any) -> Spread | None:
        setting = point(row)
        return spread_of(setting, name) if setting.has(name) else None

    return Column(header=header or quantity.label, value=value, style=quantity.style, **more)


def spread_of(point: PointSummary, name: str) -> Spread:
    """Over the seeds of a setting."""
    deviation = point.spread(name)
    return Spread(point.mean(name), float("nan") if deviation is None else deviation, len(point.seeds))


def seeds_column(*, point: PointOf = _own_point, terminal: bool = False) -> Column[Any]:
    """How many seeds."""
    return Column(header="n", value=lambda row: len(point(row).seeds), terminal=terminal)


def regime_column(*, point: PointOf = _own_point, terminal: bool = False) -> Column[Any]:
    """Step- or time-matched."""
    return Column(header="regime", value=lambda row: point(row).regime, terminal=terminal)


def method_column(*, point: PointOf = _own_point, terminal: bool = False) -> Column[Any]:
    """The method, as people call it."""
    return Column(header="method", value=lambda row: point(row).title, terminal=terminal)
