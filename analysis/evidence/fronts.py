"""Pareto fronts and hypervolume over the four objectives, of a study's settings.

Pure functions; lower is better inside this file: signs are normalized once, by `costs`, from the declared
directions (grit/training/measurements.py). Ties: equal points do not dominate each other, so duplicates of a
front point are all on the front.
"""

from __future__ import annotations

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
from analysis.stats.pareto import hypervolume, non_dominated
from analysis.stats.pooled_noise import NoiseModel
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


def dominated_beyond_noise(
    points: Sequence[PointSummary], noise: RegimeNoise, *, priced: bool = True
) -> dict[str, PointSummary]:
    """By point_id, who dominates a setting beyond noise.

    It is better in some objective by a p-value that is corrected for all pairs of settings and all
    objectives, and worse in none of their means. Of several, the one with the smallest p-value. Not `priced`:
    quality and retention alone are looked at.
    """
    measured = [point for point in points if point.records]
    if len(measured) < 2:
        return {}
    models = [(noise.quality, True), (noise.forgetting, False)]
    prices = [(noise.overhead, False), (noise.footprint, False)] if priced else []
    objectives = len(models) + len(prices)
    means = costs(measured)[:, :objectives]
    level = ERROR_RATE / (len(measured) * (len(measured) - 1) * objectives)
    # One seed shows no noise of its timings to be beyond; scores have that of their examples.
    models += [(model, higher) for model, higher in prices if model.several_seeds]
    least = _least_p_values(measured, models)
    dominated = {}
    for place, point in enumerate(measured):
        smallest, strongest = level, None
        for number in np.argsort(least[place], kind="stable"):
            if least[place, number] > level or (strongest is not None and least[place, number] >= smallest):
                break  # nor can one of those that follow have a smaller one
            rival = measured[number]
            if number == place or (means[number] > means[place]).any():
                continue
            p_value = min(_p_better(model, rival, point, higher) for model, higher in models)
            if p_value <= level if strongest is None else p_value < smallest:
                smallest, strongest = p_value, rival
        if strongest is not None:
            dominated[point.point_id] = strongest
    return dominated


def _p_better(model: NoiseModel, rival: PointSummary, point: PointSummary, higher_is_better: bool) -> float:
    """One-sided, of a rival that is no better."""
    better, worse = (rival, point) if higher_is_better else (point, rival)
    return model.difference(better.point_id, worse.point_id).p_above(0.0)


def _least_p_values(points: Sequence[PointSummary], models: Sequence[tuple[NoiseModel, bool]]) -> Floats:
    """(point, rival): no p-value of that rival's being better, in any objective, is smaller."""
    least = np.full((len(points), len(points)), np.inf)
    for model, higher_is_better in models:
        places = [model.names.index(point.point_id) for point in points]
        of_pairs = model.least_p_above()[np.ix_(places, places)]
        least = np.minimum(least, of_pairs.T if higher_is_better else of_pairs)
    return least


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


def two_stage(points: Sequence[PointSummary], noise: RegimeNoise) -> list[PointSummary]:
    """Quality and retention first, then cost.

    The points without a lost trial that none dominates beyond noise in the first two, cheapest first. Cheap
    is a small footprint; equal footprints go by overhead.
    """
    usable = [point for point in points if point.records and not point.lost]
    dominated = dominated_beyond_noise(usable, noise, priced=False)
    kept = [point for point in usable if point.point_id not in dominated]
    return sorted(kept, key=lambda p: (round(p.mean("footprint"), 3), p.mean("overhead")))
