"""The one-at-a-time design: the default setting, and what moves each knob alone away from it."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.evidence.point_summary import PointSummary, control_of, measured_regimes
from grit.config.declared_knobs import KNOBS
from grit.config.registry import METHODS

#: The design's name in records.
ONE_AT_A_TIME = "oat"


def knob_value(point: PointSummary, knob: str) -> float | int | None:
    """The point's value of a knob."""
    return dict(zip(KNOBS, point.knob_values(), strict=True))[knob]


def shown_knobs(point: PointSummary) -> str:
    """A setting as `(tau, T, lambda)`."""
    return f"({', '.join(point.knob_texts())})"


def short_name(point: PointSummary, center: PointSummary | None) -> str:
    """What a figure calls a setting: by the one knob in which it differs from the default, else by all."""
    if point.is_control or not point.config.uses_grit:
        return METHODS[point.method].title
    if center is None:
        return shown_knobs(point)
    if point.point_id == center.point_id:
        return "default"
    triples = zip(KNOBS, point.knob_texts(), center.knob_texts(), strict=True)
    changes = [f"{name}={own}" for name, own, usual in triples if own != usual]
    further = point.other_changes() != center.other_changes()
    return changes[0] if len(changes) == 1 and not further else shown_knobs(point)


def default_point(points: Sequence[PointSummary], regime: str) -> PointSummary | None:
    """The center of the design: its first point, by the order of planning."""
    return next((p for p in points if p.regime == regime and ONE_AT_A_TIME in p.designs), None)


def sweep_of(points: Sequence[PointSummary], knob: str, regime: str) -> list[PointSummary]:
    """The settings that differ from the default in this knob alone.

    The default is among them; in ascending order, T = none last.
    """
    center = default_point(points, regime)
    if center is None:
        return []
    held = {name: knob_value(center, name) for name in KNOBS if name != knob}
    sweep = []
    for point in points:
        same = all(knob_value(point, name) == value for name, value in held.items())
        if point.regime == regime and ONE_AT_A_TIME in point.designs and same:
            sweep.append(point)
    return sorted(sweep, key=lambda p: (knob_value(p, knob) is None, knob_value(p, knob) or 0))


def default_and_control(points: Sequence[PointSummary]) -> tuple[PointSummary, PointSummary] | None:
    """The default setting and the control of the first measured regime, where both were measured."""
    for regime in measured_regimes(points)[:1]:
        center, control = default_point(points, regime), control_of(points, regime)
        if center is not None and center.records and control is not None:
            return center, control
    return None
