"""The study's settings by the names of the one-sided comparison."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.evidence.point_summary import PointSummary


def family_name(point: PointSummary) -> str:
    """The method, with `-uni` where only A's basis is used."""
    one_sided = point.config.uses_grit and not point.config.grit.two_sided
    return point.method + ("-uni" if one_sided else "")


def family_members(points: Sequence[PointSummary]) -> dict[str, PointSummary]:
    """The measured settings of the one-sided comparison, by name; the first of a name counts."""
    members: dict[str, PointSummary] = {}
    for point in points:
        if point.records and point.designs & {"family", "control"}:
            members.setdefault(family_name(point), point)
    return members
