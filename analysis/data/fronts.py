"""Pareto fronts and hypervolume over quality, retention, overhead and footprint.

Pure functions; lower is better inside this file.

Signs are normalized once, by `costs`. Ties: equal points do not dominate each other, so duplicates of a front
point are all on the front.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.data.load import StudyData
from analysis.data.points import PointSummary, forgetting_matrix, quality_matrix
from analysis.stats.arrays import Floats
from analysis.stats.estimates import Resampling
from analysis.stats.pareto import BEYOND_NOISE, dominance_share, hypervolume, non_dominated

#: Objectives by record field, and the sign that turns each into a cost.
SIGNS = {"quality": -1.0, "retention": -1.0, "overhead": 1.0, "footprint": 1.0}
#: Reference point of the hypervolume in cost space: retention 0, overhead 100% of a step, footprint of the
#: full adapter (a little beyond, so that the control counts), and the quality of the untuned model.
REFERENCE_RETENTION, REFERENCE_OVERHEAD, REFERENCE_FOOTPRINT = 0.0, 1.0, 1.05

FRONT_REPLICATES = 400


def costs(points: Sequence[PointSummary]) -> Floats:
    """(points, 4), means over seeds, in the order of `SIGNS`."""
    return np.array(
        [[sign * point.mean(name) for name, sign in SIGNS.items()] for point in points], dtype=float
    ).reshape(-1, len(SIGNS))


def front(points: Sequence[PointSummary]) -> list[PointSummary]:
    """The points that no other dominates in the means; one that lost a trial is no candidate.

    Its mean is that of the lucky seeds.
    """
    usable = [point for point in points if point.records and not point.lost]
    mask = non_dominated(costs(usable))
    return [point for point, kept in zip(usable, mask, strict=True) if kept]


def study_hypervolume(points: Sequence[PointSummary]) -> float:
    """Hypervolume of the points with usable trials against the stated reference; 0 without any."""
    usable = [point for point in points if point.records]
    if not usable:
        return 0.0
    base = min(record.measured.base_quality or 0.0 for point in usable for record in point.records)
    return hypervolume(
        costs(usable), np.array([-base, -REFERENCE_RETENTION, REFERENCE_OVERHEAD, REFERENCE_FOOTPRINT])
    )


def within_caps(point: PointSummary, max_overhead: float | None, max_footprint: float | None) -> bool:
    """Whether a point's mean costs keep below the caps that are given."""
    return (max_overhead is None or point.mean("overhead") <= max_overhead) and (
        max_footprint is None or point.mean("footprint") <= max_footprint
    )


def replicated_costs(data: StudyData, points: Sequence[PointSummary]) -> tuple[list[PointSummary], Floats]:
    """Costs of bootstrap replicates (replicates, points, 4), and the points: those with every seed.

    Replicates draw seeds, examples and documents jointly for all points, so that comparisons stay paired.
    Points that lack a seed of the most complete one are left out.
    """
    most = max((len(point.seeds) for point in points), default=0)
    full = [point for point in points if most and len(point.seeds) == most]
    if not full:
        return [], np.empty((0, 0, len(SIGNS)))
    quality = [quality_matrix(data, point) for point in full]
    forgetting = [forgetting_matrix(data, point) for point in full]
    by_example = Resampling.draw(most, quality[0].shape[1], replicates=FRONT_REPLICATES)
    by_document = Resampling.draw(
        most, forgetting[0][0].shape[1], forgetting[0][1], replicates=FRONT_REPLICATES, seed=0
    )
    return full, np.stack(
        [
            np.stack(
                [
                    -by_example.means(q),
                    by_document.means(f),
                    by_example.seeds @ np.array(point.values("overhead")),
                    by_example.seeds @ np.array(point.values("footprint")),
                ],
                axis=1,
            )
            for point, q, (f, _) in zip(full, quality, forgetting, strict=True)
        ],
        axis=1,
    )


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How one point stands among those of its regime.

    Its share of replicates on the front, and who dominates it beyond noise, if anybody.
    """

    probability: float
    dominated_by: str | None


def standings(full: Sequence[PointSummary], draws: Floats) -> dict[str, Standing]:
    """Per point_id, from `replicated_costs`; points without every seed are left out there.

    A point is dominated beyond noise where one other dominates it in at least `BEYOND_NOISE` of the
    replicates.
    """
    if not full:
        return {}
    share = np.mean([non_dominated(replicate) for replicate in draws], axis=0)
    dominance = dominance_share(draws)
    best = dominance.argmax(axis=0)
    return {
        point.point_id: Standing(
            probability=float(share[j]),
            dominated_by=full[best[j]].label() if dominance[best[j], j] >= BEYOND_NOISE else None,
        )
        for j, point in enumerate(full)
    }


def two_stage(full: Sequence[PointSummary], draws: Floats) -> list[PointSummary]:
    """Quality and retention first, then cost.

    The points that none dominates beyond noise in the first two, cheapest first.

    Cheap is a small footprint; equal footprints go by overhead. Of `replicated_costs`.
    """
    if not full:
        return []
    worst = dominance_share(draws[:, :, :2]).max(axis=0)
    kept = [point for point, share in zip(full, worst, strict=True) if share < BEYOND_NOISE]
    return sorted(kept, key=lambda p: (round(p.mean("footprint"), 3), p.mean("overhead")))
