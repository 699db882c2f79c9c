"""One number per way: the area under quality, and under forgetting, over k."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from analysis.evidence.corrected import contrast_of
from analysis.page.table import Column, Table
from analysis.stats.arrays import Floats
from analysis.stats.rank_area import rank_weights
from analysis.studies.compression.arms import AT_K, OVER_K, Arm, BestArms, ScoredWay
from analysis.studies.compression.tables import ArmRow, arm_rows


def rank_areas(best: BestArms) -> list[ScoredWay]:
    """Of every way that has all k, training at k first; over the seeds that are there at every k."""
    sizes = best.sizes()
    ways = dict.fromkeys(arm.way for k in sizes for arm in best.at(k))
    areas = []
    for way in sorted(ways, key=lambda way: (way != AT_K, way)):
        candidates = [best.get(k, way) for k in sizes]
        arms = [arm for arm in candidates if arm is not None]
        common = sorted(set.intersection(*(set(arm.seeds) for arm in arms)))
        if len(arms) == len(sizes) and common:
            areas.append(_area(arms, common, rank_weights([int(k) for k in sizes])))
    return areas


def _area(arms: Sequence[Arm], seeds: Sequence[int], weights: Floats) -> ScoredWay:
    first = arms[0]
    quality, forgetting = np.zeros(1), np.zeros(1)
    for arm, weight in zip(arms, weights, strict=True):
        places = [arm.seeds.index(seed) for seed in seeds]
        quality = quality + weight * arm.quality[places]
        forgetting = forgetting + weight * arm.forgetting[places]
    return ScoredWay(
        k=OVER_K,
        way=first.way,
        seeds=tuple(seeds),
        metric=first.metric,
        quality=quality,
        forgetting=forgetting,
        weights=first.weights,
    )


def area_rows(best: BestArms) -> list[ArmRow[ScoredWay]]:
    """Every way's area against that of training at k; none without it."""
    areas = rank_areas(best)
    at_k = next((area for area in areas if area.way == AT_K), None)
    return [] if at_k is None or len(areas) == 1 else arm_rows(areas, {OVER_K: at_k})


def area_table(best: BestArms) -> Table[ArmRow[ScoredWay]]:
    """One row per way."""
    columns: list[Column[ArmRow[ScoredWay]]] = [
        Column(header="way", value=lambda row: row.arm.way, terminal=True),
        Column(header="n", value=lambda row: len(row.arm.seeds)),
        Column(header="AURAC", value=lambda row: row.arm.test, style=".3f", terminal=True),
        Column(
            header="AURAC vs trained at k [95%]", value=lambda row: contrast_of(row.quality), terminal=True
        ),
        Column(
            header="forgetting over k", value=lambda row: row.arm.mean_forgetting, style="+.3f", terminal=True
        ),
        Column(
            header="forgetting over k vs trained at k [95%]", value=lambda row: contrast_of(row.forgetting)
        ),
    ]
    return Table(name="areas", columns=columns, rows=area_rows(best))
