"""One word for quality and forgetting together, and the study's settings by the names of the comparison."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from analysis.evidence.point_summary import PointSummary
from analysis.stats.estimates import Estimate

JointVerdict = Literal["better", "worse", "mixed", "inconclusive", "changed nothing"]

#: Quality, or nats per token of forgetting, by which an inconclusive difference may lean against a verdict.
LEAN = 0.02


def joint_verdict(quality: Estimate | None, forgetting: Estimate | None) -> JointVerdict:
    """`better` or `worse` where quality or forgetting says so.

    Unless the other, if it is inconclusive, leans the other way by more than `LEAN`; `mixed` where they
    disagree; `changed nothing` where every value is the same; else `inconclusive`.
    """
    # less forgetting is better: turned round, higher is better in both
    gains = [] if quality is None else [quality]
    gains += [] if forgetting is None else [forgetting.negated()]
    if gains and all(gain.mean == gain.low == gain.high == 0 for gain in gains):
        return "changed nothing"
    decided = {gain.verdict() for gain in gains} - {"inconclusive"}
    if len(decided) != 1:
        return "mixed" if decided else "inconclusive"
    undecided = [gain.mean for gain in gains if gain.verdict() == "inconclusive"]
    better = "better" in decided
    against = -1.0 if better else 1.0
    if any(against * lean > LEAN for lean in undecided):
        return "inconclusive"
    return "better" if better else "worse"


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
