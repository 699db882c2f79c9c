"""Columns that many tables share.

Knobs and measured quantities of a row's setting, with labels and formats as they are declared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from analysis.evidence.point_summary import PointSummary
from analysis.page.table import Column, Spread
from grit.config.declared_knobs import KNOBS
from grit.config.run_config import section_of
from grit.training.measurements import QUANTITIES
from ray_jobs.records.describe import shown_value

PointOf = Callable[[Any], PointSummary]


def _own_point(row: Any) -> PointSummary:
    point: PointSummary = row.point
    return point


def _itself(row: Any) -> PointSummary:
    point: PointSummary = row
    return point


#: Rows that are settings themselves, rather than objects with a `point`.
ITSELF: PointOf = _itself


def shown_choice(value: float, grid: Sequence[float]) -> str:
    """A value chosen from a sorted grid, marked at the grid's edge, beyond which a better one may lie."""
    edge = {grid[0]: "lowest", grid[-1]: "highest"}.get(value) if len(grid) > 1 else None
    return f"{value:g} (the grid's {edge})" if edge else f"{value:g}"


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


def setting_columns(
    points: Sequence[PointSummary], *, point: PointOf = _own_point, terminal: bool = False
) -> list[Column[Any]]:
    """The knobs, and every other setting that differs between `points`: what is not shown would be pooled."""
    return [*knob_columns(point=point, terminal=terminal), *_varying(points, point, terminal)]


def _varying(points: Sequence[PointSummary], point: PointOf, terminal: bool) -> list[Column[Any]]:
    names = dict.fromkeys(name for each in points for name in each.other_changes())
    varying = [name for name in names if _differs(points, name)]
    return [
        Column(header=name, value=_setting_named(name, point), terminal=terminal, spare=True)
        for name in varying
    ]


def _differs(points: Sequence[PointSummary], name: str) -> bool:
    return len({_shown(point, name) for point in points} - {None}) > 1


def _setting_named(name: str, point: PointOf) -> Callable[[Any], str | None]:
    return lambda row: _shown(point(row), name)


def _shown(point: PointSummary, name: str) -> str | None:
    """As people write it; None where it is a switch of GRIT, and the method is another."""
    if section_of(name) == "grit" and not point.config.uses_grit:
        return None
    return shown_value(point.config.setting(name))


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
    return Column(header="n", value=lambda row: len(point(row).seeds), terminal=terminal, spare=True)


def regime_column(*, point: PointOf = _own_point, terminal: bool = False) -> Column[Any]:
    """Step- or time-matched."""
    return Column(header="regime", value=lambda row: point(row).regime, terminal=terminal)


def method_column(*, point: PointOf = _own_point, terminal: bool = False) -> Column[Any]:
    """The method, as people call it."""
    return Column(header="method", value=lambda row: point(row).title, terminal=terminal)
