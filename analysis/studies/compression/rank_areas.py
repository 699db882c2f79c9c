"""One number per way: the area under quality, and under forgetting, over k."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.evidence.corrected import CorrectedContrast, contrast_of, unlike_score_differences
from analysis.page.table import Column, Table
from analysis.stats.arrays import Floats
from analysis.stats.pooled_noise import SettingScores
from analysis.stats.rank_area import rank_weights
from analysis.studies.compression.arms import AT_K, Arm, BestArms


@dataclass(frozen=True, kw_only=True)
class RankArea:
    """One way over all k.

    Attributes:
        quality: (seeds, examples of the test half). forgetting: (seeds, documents).
        seeds: that are there at every k.
    """

    way: str
    seeds: tuple[int, ...]
    quality: Floats
    forgetting: Floats
    document_weights: Floats

    @property
    def mean_quality(self) -> float:
        """AURAC, in the metric's unit."""
        return float(self.quality.mean())

    @property
    def mean_forgetting(self) -> float:
        """Nats per token."""
        return float(np.average(self.forgetting.mean(axis=0), weights=self.document_weights))


def rank_areas(best: BestArms) -> list[RankArea]:
    """Of every way that has all k, training at k first."""
    sizes = best.sizes()
    ways = dict.fromkeys(arm.way for k in sizes for arm in best.at(k))
    areas = []
    for way in sorted(ways, key=lambda way: (way != AT_K, way)):
        candidates = [best.get(k, way) for k in sizes]
        arms = [arm for arm in candidates if arm is not None]
        if len(arms) == len(sizes):
            areas.append(_area(way, arms, rank_weights([int(k) for k in sizes])))
    return areas


def _area(way: str, arms: Sequence[Arm], weights: Floats) -> RankArea:
    common = sorted(set(arms[0].seeds).intersection(*(arm.seeds for arm in arms[1:])))

    def over_k(values: Sequence[Floats]) -> Floats:
        rows = []
        for arm, matrix in zip(arms, values, strict=True):
            places = [arm.seeds.index(seed) for seed in common]
            rows.append(matrix[places])
        area: Floats = np.tensordot(weights, np.stack(rows), axes=1)
        return area

    return RankArea(
        way=way,
        seeds=tuple(common),
        quality=over_k([arm.quality[:, 1::2] for arm in arms]),
        forgetting=over_k([arm.forgetting for arm in arms]),
        document_weights=arms[0].weights,
    )


@dataclass(frozen=True, kw_only=True)
class RankAreaRow:
    """One way against training at k, corrected for how many there are; None for that itself."""

    area: RankArea
    quality: CorrectedContrast | None
    forgetting: CorrectedContrast | None


def area_rows(best: BestArms) -> list[RankAreaRow]:
    """Every way's area; none where training at k has none."""
    areas = {area.way: area for area in rank_areas(best) if area.seeds}
    others = [way for way in areas if way != AT_K]
    if AT_K not in areas or not others:
        return []
    quality, forgetting = unlike_score_differences(
        [(way, AT_K) for way in others],
        {way: SettingScores(seeds=area.seeds, values=area.quality) for way, area in areas.items()},
        {way: SettingScores(seeds=area.seeds, values=area.forgetting) for way, area in areas.items()},
        metric=best.all()[0].metric,
        tokens=areas[AT_K].document_weights,
    )
    return [
        RankAreaRow(area=area, quality=quality.get(way), forgetting=forgetting.get(way))
        for way, area in areas.items()
    ]


def area_table(best: BestArms) -> Table[RankAreaRow]:
    """One row per way."""
    columns: list[Column[RankAreaRow]] = [
        Column(header="way", value=lambda row: row.area.way, terminal=True),
        Column(header="n", value=lambda row: len(row.area.seeds)),
        Column(header="AURAC", value=lambda row: row.area.mean_quality, style=".3f", terminal=True),
        Column(
            header="AURAC vs trained at k [95%]", value=lambda row: contrast_of(row.quality), terminal=True
        ),
        Column(
            header="forgetting over k",
            value=lambda row: row.area.mean_forgetting,
            style="+.3f",
            terminal=True,
        ),
        Column(
            header="forgetting over k vs trained at k [95%]", value=lambda row: contrast_of(row.forgetting)
        ),
    ]
    return Table(name="areas", columns=columns, rows=area_rows(best))
