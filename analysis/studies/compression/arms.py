"""The ways to have an adapter of k directions, each at every learning rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from analysis.evidence.load import StudyData
from analysis.evidence.point_summary import (
    PointSummary,
    forgetting_matrix,
    of_one_regime,
    quality_matrix,
    summarize_points,
)
from analysis.stats.arrays import Floats

AT_K, GRIT, WHOLE, NESTED = "trained at k", "GRIT", "LoRA, whole", "trained nested"
#: What stands for the number of directions where it is the rank rule's, or all that were trained.
BY_TAU, ALL_DIRECTIONS = "tau", "r"
#: And where it is all that were looked at, as one number.
OVER_K = "all"


@dataclass(frozen=True, kw_only=True)
class ScoredWay:
    """One way to have an adapter of k directions, as it is compared.

    `quality` (seeds, examples), `forgetting` (seeds, documents) in nats per token; `weights` of documents.
    """

    k: str
    way: str
    seeds: tuple[int, ...]
    metric: str
    quality: Floats
    forgetting: Floats
    weights: Floats

    @property
    def validation(self) -> float:
        """Mean quality on the examples that choose."""
        return float(self.quality[:, ::2].mean())

    @property
    def test(self) -> float:
        """Mean quality on the examples that judge."""
        return float(self.quality[:, 1::2].mean())

    @property
    def mean_forgetting(self) -> float:
        """Nats per token."""
        return float(np.average(self.forgetting.mean(axis=0), weights=self.weights))

    @property
    def name(self) -> str:
        """Among those that are judged."""
        return f"{self.way}, k = {self.k}"


@dataclass(frozen=True, kw_only=True)
class Arm(ScoredWay):
    """One way at one learning rate; `size` in bytes."""

    rate: float
    answer_loss: float
    parameters: float
    size: float
    at_edge: bool = False

    @property
    def shown_rate(self) -> str:
        """The learning rate, marked where it is the lowest or highest of several."""
        return f"{self.rate:g}" + ("*" if self.at_edge else "")


def all_arms(data: StudyData) -> list[Arm]:
    """Every arm at every learning rate of which no seed was lost."""
    arms: list[Arm] = []
    for point in of_one_regime(summarize_points(data.records))[0]:
        tuned = "learning_rate" in point.planned_trials[0].plan.overrides
        if point.records and not point.lost and not point.planned and tuned:
            arms += _arms_of(data, point)
    return arms


def _arms_of(data: StudyData, point: PointSummary) -> list[Arm]:
    config = point.config
    if "at k" in point.designs:
        return [trained_arm(data, point, str(config.adapter.rank), AT_K)]
    if "reproject" in point.designs:
        way = f"reprojected: {_basis(point)}"
        return [trained_arm(data, point, str(config.grit.reprojection_k), way)]
    if "grit" in point.designs:
        return [trained_arm(data, point, BY_TAU, GRIT)]
    if "nested" in point.designs:
        return truncated_arms(data, point, config.optimization.learning_rate, NESTED)
    if "after" in point.designs:
        whole = trained_arm(data, point, ALL_DIRECTIONS, WHOLE)
        return [whole, *truncated_arms(data, point, whole.rate, "truncated after training")]
    return []


def _basis(point: PointSummary) -> str:
    if point.config.grit.basis == "balanced":
        return "balanced"
    return "two-sided" if point.config.grit.two_sided else "one-sided"


def trained_arm(data: StudyData, point: PointSummary, k: str, way: str) -> Arm:
    """An arm that is a trial of its own."""
    forgetting, weights = forgetting_matrix(data, point)
    return Arm(
        k=k,
        way=way,
        rate=point.config.optimization.learning_rate,
        seeds=point.seeds,
        metric=point.quality_metric,
        quality=quality_matrix(data, point),
        forgetting=forgetting,
        weights=weights,
        answer_loss=point.mean("answer_loss"),
        parameters=point.mean("effective_parameters"),
        size=point.mean("exported_bytes"),
    )


def truncated_arms(data: StudyData, point: PointSummary, rate: float, trained: str) -> list[Arm]:
    """The arms that one adapter, `trained` in words, was truncated to, way by way and k by k."""
    tables = [data.table("truncated", record) for record in point.records]
    arms = []
    for way, k in dict.fromkeys((row["way"], row["k"]) for row in tables[0]):
        by_seed = [_rows_of(rows, way, k) for rows in tables]
        if all(by_seed):
            arms.append(_truncated_arm(point, by_seed, f"{trained}: {way}", k, rate))
    return arms


def _truncated_arm(
    point: PointSummary, by_seed: Sequence[Sequence[dict[str, Any]]], way: str, k: str, rate: float
) -> Arm:
    return Arm(
        k=k,
        way=way,
        rate=rate,
        seeds=point.seeds,
        metric=point.quality_metric,
        quality=_matrix(by_seed, "task", "value"),
        forgetting=_matrix(by_seed, "retention", "value"),
        weights=_matrix(by_seed, "retention", "tokens")[0],
        answer_loss=float(_matrix(by_seed, "task", "loss").mean()),
        parameters=float(np.mean([rows[0]["parameters"] for rows in by_seed])),
        size=float(np.mean([rows[0]["bytes"] for rows in by_seed])),
    )


def _rows_of(rows: Sequence[dict[str, Any]], way: str, k: str) -> list[dict[str, Any]]:
    return [row for row in rows if (row["way"], row["k"]) == (way, k)]


def _matrix(by_seed: Sequence[Sequence[dict[str, Any]]], kind: str, name: str) -> Floats:
    """(seeds, items) of one kind of row."""
    values = []
    for rows in by_seed:
        values.append([row[name] for row in rows if row["kind"] == kind])
    return np.array(values, dtype=float)


class BestArms:
    """Of each way and k the arm whose learning rate the even examples choose."""

    def __init__(self, arms: Sequence[Arm]) -> None:
        """Of all arms; the first of equals counts."""
        grouped: dict[tuple[str, str], list[Arm]] = {}
        for arm in arms:
            grouped.setdefault((arm.k, arm.way), []).append(arm)
        self._best = {key: _best_of(members) for key, members in grouped.items()}

    def get(self, k: str, way: str) -> Arm | None:
        """One of them."""
        return self._best.get((k, way))

    def all(self) -> list[Arm]:
        """All of them, in the order in which they were first met."""
        return list(self._best.values())

    def sizes(self) -> list[str]:
        """Every number of directions, ascending."""
        return sorted({k for k, _ in self._best if k.isdigit()}, key=int)

    def at(self, k: str) -> list[Arm]:
        """The arms of one k: trained at k first, then by name."""
        members = [arm for arm in self._best.values() if arm.k == k]
        return sorted(members, key=lambda arm: (arm.way != AT_K, arm.way))


def _best_of(arms: Sequence[Arm]) -> Arm:
    best = max(arms, key=lambda arm: arm.validation)
    rates = [arm.rate for arm in arms]
    at_edge = len(rates) > 1 and best.rate in (min(rates), max(rates))
    return replace(best, at_edge=at_edge)
