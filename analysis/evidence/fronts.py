"""Pareto fronts and hypervolume over the four objectives, of a study's settings.

Pure functions; lower is better inside this file: signs are normalized once, by `costs`, from the declared
directions (grit/training/measurements.py). Ties: equal points do not dominate each other, so duplicates of a
front point are all on the front.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from analysis.evidence.load import StudyData
from analysis.evidence.noise import RegimeNoise
from analysis.evidence.point_summary import PointSummary, forgetting_matrix, quality_matrix
from analysis.stats.arrays import Floats
from analysis.stats.decisions import ERROR_RATE
from analysis.stats.estimates import Resampling
from analysis.stats.pareto import DOMINANCE_SHARE, dominance_share, hypervolume, non_dominated
from grit.training.measurements import OBJECTIVES
from ray_jobs.records.study_file import Caps

#: What turns each objective into a cost.
SIGNS = {
    name: {"maximize": -1.0, "minimize": 1.0}[objective.direction or "minimize"]
    for name, objective in OBJECTIVES.items()
}

FRONT_REPLICATES = 400


def costs(points: Sequence[PointSummary]) -> Floats:
    """(points, objectives): means over seeds, in the order of `OBJECTIVES`."""
    columns = []
    for name, sign in SIGNS.items():
        columns.append([sign * point.mean(name) for point in points])
    return np.array(columns, dtype=float).reshape(len(SIGNS), -1).T


def front(points: Sequence[PointSummary]) -> list[PointSummary]:
    """The points that no other dominates in the means; one that lost a trial is no candidate.

    Its mean is that of the lucky seeds.
    """
    usable = [point for point in points if point.records and not point.lost]
    mask = non_dominated(costs(usable))
    return [point for point, kept in zip(usable, mask, strict=True) if kept]


def reference_point(points: Sequence[PointSummary]) -> Floats:
    """The corner that the hypervolume counts from, in cost space; quality's is the untuned model's lowest."""
    untuned = min(record.measured.base_quality or 0.0 for point in points for record in point.records)
    corner = []
    for name, objective in OBJECTIVES.items():
        reference = objective.reference if objective.reference is not None else math.nan
        corner.append(SIGNS[name] * (untuned if math.isnan(reference) else reference))
    return np.array(corner)


def study_hypervolume(points: Sequence[PointSummary]) -> float:
    """Hypervolume of the points with usable trials against `reference_point`; 0 without any."""
    usable = [point for point in points if point.records]
    return hypervolume(costs(usable), reference_point(usable)) if usable else 0.0


def within_caps(point: PointSummary, caps: Caps) -> bool:
    """Whether a point's mean costs keep below the caps that are given."""
    cheap = caps.overhead is None or point.mean("overhead") <= caps.overhead
    small = caps.footprint is None or point.mean("footprint") <= caps.footprint
    return cheap and small


@dataclass(frozen=True, kw_only=True)
class ReplicatedCosts:
    """Bootstrap replicates of the settings that have every seed.

    `draws` (replicates, points, objectives) are costs.
    """

    points: tuple[PointSummary, ...]
    draws: Floats


def replicated_costs(data: StudyData, points: Sequence[PointSummary]) -> ReplicatedCosts:
    """Replicates draw seeds, examples and documents jointly for all points, so that comparisons stay paired.

    Seeds are those that every point with as many as most has; points that lack one are left out.
    """
    full, seeds = _same_seeds(points)
    most = len(seeds)
    if not full:
        return ReplicatedCosts(points=(), draws=np.empty((0, 0, len(SIGNS))))
    examples = quality_matrix(data, full[0]).shape[1]
    documents, weights = forgetting_matrix(data, full[0])
    by_example = Resampling.draw(most, examples, replicates=FRONT_REPLICATES)
    by_document = Resampling.draw(most, documents.shape[1], weights, replicates=FRONT_REPLICATES, seed=0)
    draws = [_replicates(data, point, by_example, by_document) for point in full]
    return ReplicatedCosts(points=full, draws=np.stack(draws, axis=1))


def _same_seeds(points: Sequence[PointSummary]) -> tuple[tuple[PointSummary, ...], tuple[int, ...]]:
    """The points that have the seeds which as many points as possible have, cut to them, and those seeds."""
    measured = [point for point in points if point.records]
    if not measured:
        return (), ()
    candidates = dict.fromkeys(point.seeds for point in measured)
    usual = max(candidates, key=lambda seeds: (sum(set(seeds) <= set(p.seeds) for p in measured), len(seeds)))
    kept = [point for point in measured if set(usual) <= set(point.seeds)]
    return tuple(_with_seeds(point, usual) for point in kept), usual


def _with_seeds(point: PointSummary, seeds: tuple[int, ...]) -> PointSummary:
    """The point with the trials of these seeds alone."""
    return replace(point, records=tuple(r for r in point.records if r.plan.seed in seeds))


def _replicates(
    data: StudyData, point: PointSummary, by_example: Resampling, by_document: Resampling
) -> Floats:
    """(replicates, objectives) of one point.

    Retention stands as the forgetting it is a falling function of.
    """
    of = {
        "quality": lambda: -by_example.means(quality_matrix(data, point)),
        "retention": lambda: by_document.means(forgetting_matrix(data, point)[0]),
    }
    columns = []
    for name, sign in SIGNS.items():
        replicated = of.get(name)
        by_seed = sign * np.array(point.values(name))
        columns.append(by_example.seeds @ by_seed if replicated is None else replicated())
    return np.stack(columns, axis=1)


@dataclass(frozen=True, kw_only=True)
class Placing:
    """How one point stands among those of its regime.

    Its share of replicates on the front, and who dominates it beyond noise, if anybody.
    """

    probability: float
    dominated_by: str | None


def dominated_beyond_noise(points: Sequence[PointSummary], noise: RegimeNoise) -> dict[str, PointSummary]:
    """By point_id, who dominates a setting beyond noise.

    It is better in some objective by a p-value that is corrected for all pairs of settings and all
    objectives, and worse in none of their means. Of several, the one with the smallest p-value.
    """
    measured = [point for point in points if point.records]
    costly = (noise.forgetting, noise.overhead, noise.footprint)  # lower is better
    models = [(noise.quality, True), *((model, False) for model in costly)]
    tests = len(measured) * (len(measured) - 1) * len(models)
    means = dict(zip((p.point_id for p in measured), costs(measured), strict=True))
    strongest: dict[str, tuple[float, PointSummary]] = {}
    for point, rival in itertools.permutations(measured, 2):
        if (means[rival.point_id] > means[point.point_id]).any():
            continue
        smallest = 1.0
        for model, higher_is_better in models:
            better, worse = (rival, point) if higher_is_better else (point, rival)
            gain = model.difference(better.point_id, worse.point_id)
            if gain.over_seeds:  # one seed shows no noise of its timings to be beyond
                smallest = min(smallest, gain.p_above(0.0))
        if smallest * tests <= ERROR_RATE and smallest < strongest.get(point.point_id, (2.0, rival))[0]:
            strongest[point.point_id] = (smallest, rival)
    return {name: rival for name, (_, rival) in strongest.items()}


def placings(replicated: ReplicatedCosts, dominated: Mapping[str, PointSummary]) -> dict[str, Placing]:
    """Per point_id; points without every seed have none. `dominated` is of `dominated_beyond_noise`."""
    points, draws = replicated.points, replicated.draws
    if not points:
        return {}
    on_front = np.mean([non_dominated(replicate) for replicate in draws], axis=0)
    placed = {}
    for number, point in enumerate(points):
        rival = dominated.get(point.point_id)
        placed[point.point_id] = Placing(
            probability=float(on_front[number]), dominated_by=None if rival is None else rival.label()
        )
    return placed


def two_stage(replicated: ReplicatedCosts, points: Sequence[PointSummary]) -> list[PointSummary]:
    """Quality and retention first, then cost.

    The points that none dominates beyond noise in the first two, cheapest first. Cheap is a small footprint;
    equal footprints go by overhead.
    """
    if not replicated.points:
        return []
    worst = dominance_share(replicated.draws[:, :, :2]).max(axis=0)
    whole = {point.point_id: point for point in points}
    pairs = zip(replicated.points, worst, strict=True)
    kept = [whole[point.point_id] for point, share in pairs if share < DOMINANCE_SHARE]
    return sorted(kept, key=lambda p: (round(p.mean("footprint"), 3), p.mean("overhead")))
