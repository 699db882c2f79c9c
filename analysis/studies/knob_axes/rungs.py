"""Does tau have to be trained in? Every rung of one adapter beside the runs that were trained with its tau.

The least truncated setting of the sweep is scored at a ladder of smaller thresholds (grit/audits/ladder.py).
Rungs and trained settings are settings of one model of the noise (analysis/stats/pooled_noise.py), so that a
rung's difference from its own adapter is paired, and tight. Two settings are equivalent where both one-sided
tests say that they differ by less than the tolerance, in quality and in forgetting.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from analysis.evidence.corrected import FORGETTING_TOLERANCE
from analysis.evidence.load import StudyData
from analysis.evidence.noise import score_models
from analysis.evidence.point_summary import PointSummary, forgetting_matrix, quality_matrix
from analysis.page.table import Column, Table
from analysis.stats.arrays import Floats
from analysis.stats.decisions import ERROR_RATE
from analysis.stats.pooled_noise import Contrast, NoiseModel, SettingScores
from grit.config.run_config import RunConfig
from grit.config.sections import AuditConfig, Regime
from grit.io.files import Row
from grit.tasks.metrics import tolerance_of


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One threshold (below 1) or number of directions, as the source's adapter would be with it.

    Attributes:
        footprint: share of the whole adapter's parameters, mean over seeds.
        quality, forgetting: of the rung less the source's own.
        trained: the setting that was trained with this tau; None where none was.
        own_quality, own_forgetting: of the trained setting less the source's.
        quality_gap, forgetting_gap: of the trained setting less the rung's.
        equivalent: p-value of their not being equivalent; None where nothing was trained.
    """

    value: float
    seeds: int
    footprint: float
    quality: Contrast
    forgetting: Contrast
    trained: PointSummary | None = None
    own_quality: Contrast | None = None
    own_forgetting: Contrast | None = None
    quality_gap: Contrast | None = None
    forgetting_gap: Contrast | None = None
    equivalent: float | None = None

    @property
    def shown_value(self) -> str:
        """`tau 0.9` or `k 4`."""
        return f"tau {self.value:g}" if self.value < 1 else f"k {self.value:g}"

    @property
    def verdict(self) -> str | None:
        """Whether training with it made the same of it; None where that was not tried."""
        if self.equivalent is None or self.quality_gap is None or self.forgetting_gap is None:
            return None
        if self.equivalent <= ERROR_RATE:
            return "equivalent"
        differs = min(self.quality_gap.p_value, self.forgetting_gap.p_value) <= ERROR_RATE / 2
        return "differs" if differs else "not told"


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """The ladder of one regime's source.

    Attributes:
        source: the setting whose adapters were truncated.
        left_out: seeds of it that have no ladder (taken over from a study that asked for none).
    """

    regime: Regime
    source: PointSummary
    rungs: tuple[Rung, ...]
    left_out: int = 0

    @property
    def settles_tau(self) -> bool:
        """Whether every tau that was trained is equivalent to its rung: then none needs to be trained.

        Each must be shown to be, so that no correction for their number is due.
        """
        tried = [rung for rung in self.rungs if rung.equivalent is not None]
        return bool(tried) and all(rung.verdict == "equivalent" for rung in tried)

    def sentence(self) -> str:
        """What the ladder says of the tau axis."""
        verdicts = [f"{rung.shown_value} {rung.verdict}" for rung in self.rungs if rung.verdict is not None]
        if self.settles_tau:
            return (
                f"{self.regime.capitalize()}-matched, what was trained with a smaller tau is equivalent to "
                f"truncating one adapter at the end ({', '.join(verdicts)}): tau needs no training of its "
                "own."
            )
        if not verdicts:
            return (
                f"{self.regime.capitalize()}-matched, no rung has a trained setting beside it: nothing is "
                "said of training tau in."
            )
        return (
            f"{self.regime.capitalize()}-matched, training with a smaller tau is not shown to be equivalent "
            f"to truncating one adapter at the end ({', '.join(verdicts)}): tau is trained in."
        )


def ladder_of(data: StudyData, points: Sequence[PointSummary], regime: Regime) -> Ladder | None:
    """The ladder of a regime; None where no trial has one.

    Args:
        data: the study.
        points: of this regime.
        regime: which.
    """
    for point in points:
        tables = {r.plan.seed: data.table("ladder", r) for r in point.records if r.config.audits.ladder}
        tables = {seed: rows for seed, rows in tables.items() if rows}
        if tables:
            return _ladder(data, points, point, tables)
    return None


def _ladder(
    data: StudyData, points: Sequence[PointSummary], source: PointSummary, tables: dict[int, list[Row]]
) -> Ladder:
    values = list(dict.fromkeys(row["rung"] for rows in tables.values() for row in rows))
    trained = {value: _trained_at(points, source, value) for value in values}
    settings = [source, *(point for point in trained.values() if point is not None)]
    by_rung = {value: _at(tables, value) for value in values}
    quality, forgetting = _models(data, settings, by_rung)
    rungs = []
    for value, rows in by_rung.items():
        rung = Rung(
            value=value,
            seeds=len(rows),
            footprint=float(np.mean([its_rows[0]["footprint"] for its_rows in rows.values()])),
            quality=quality.difference(_name(value), source.point_id),
            forgetting=forgetting.difference(_name(value), source.point_id),
        )
        own = trained[value]
        if own is not None:
            gaps = [model.difference(own.point_id, _name(value)) for model in (quality, forgetting)]
            tolerances = [tolerance_of(str(source.quality_metric)), FORGETTING_TOLERANCE]
            p_values = [gap.p_not_within(tol) for gap, tol in zip(gaps, tolerances, strict=True)]
            rung = replace(
                rung,
                trained=own,
                own_quality=quality.difference(own.point_id, source.point_id),
                own_forgetting=forgetting.difference(own.point_id, source.point_id),
                quality_gap=gaps[0],
                forgetting_gap=gaps[1],
                equivalent=max(p_values),
            )
        rungs.append(rung)
    return Ladder(
        regime=source.regime,
        source=source,
        rungs=tuple(sorted(rungs, key=lambda rung: rung.value)),
        left_out=len(source.seeds) - len(tables),
    )


def _models(
    data: StudyData, settings: Sequence[PointSummary], by_rung: Mapping[float, dict[int, list[Row]]]
) -> tuple[NoiseModel, NoiseModel]:
    """The noise of quality and of forgetting, of trained settings and rungs together."""
    source = settings[0]
    quality = {p.point_id: SettingScores(seeds=p.seeds, values=quality_matrix(data, p)) for p in settings}
    forgetting = {
        p.point_id: SettingScores(seeds=p.seeds, values=forgetting_matrix(data, p)[0]) for p in settings
    }
    for value, rows in by_rung.items():
        quality[_name(value)] = _scores(rows, "task")
        forgetting[_name(value)] = _scores(rows, "retention")
    _, tokens = forgetting_matrix(data, source)
    return score_models(quality, forgetting, metric=source.quality_metric, tokens=tokens)


def _name(value: float) -> str:
    """Of a rung among the settings of a noise model."""
    return f"rung {value:g}"


def _at(tables: Mapping[int, list[Row]], value: float) -> dict[int, list[Row]]:
    """The rows of one rung by seed."""
    by_seed: dict[int, list[Row]] = {}
    for seed, rows in tables.items():
        by_seed[seed] = [row for row in rows if row["rung"] == value]
    return by_seed


def _scores(by_seed: dict[int, list[Row]], kind: str) -> SettingScores:
    """One rung's values (seeds, items)."""
    values = []
    for rows in by_seed.values():
        values.append([row["value"] for row in rows if row["kind"] == kind])
    matrix: Floats = np.array(values, dtype=float)
    return SettingScores(seeds=tuple(by_seed), values=matrix)


def _trained_at(points: Sequence[PointSummary], source: PointSummary, value: float) -> PointSummary | None:
    """The setting that differs from the source in its tau alone, which is `value`."""
    if value >= 1:
        return None
    wanted = replace(source.config.grit, rank_adaptation_threshold=value)
    for point in points:
        if point.records and _without_audits(point) == replace(_without_audits(source), grit=wanted):
            return point
    return None


def _without_audits(point: PointSummary) -> RunConfig:
    """What it trains, whatever is measured of it beside the score."""
    return replace(point.config, audits=AuditConfig(), seed=0)


def ladder_table(ladders: Sequence[Ladder]) -> Table[tuple[Ladder, Rung]]:
    """Every rung of every regime."""
    columns: list[Column[tuple[Ladder, Rung]]] = [
        Column(header="regime", value=lambda row: row[0].regime),
        Column(header="one adapter at", value=lambda row: row[1].shown_value),
        Column(header="n", value=lambda row: row[1].seeds),
        Column(header="footprint", value=lambda row: row[1].footprint, style=".0%"),
        Column(header="quality vs whole [95%]", value=lambda row: row[1].quality),
        Column(header="forgetting vs whole [95%]", value=lambda row: row[1].forgetting),
        Column(header="trained in: footprint", value=lambda row: _trained_footprint(row[1]), style=".0%"),
        Column(header="quality, trained less rung", value=lambda row: row[1].quality_gap),
        Column(header="forgetting, trained less rung", value=lambda row: row[1].forgetting_gap),
        Column(header="verdict", value=lambda row: row[1].verdict),
    ]
    rows = [(ladder, rung) for ladder in ladders for rung in ladder.rungs]
    return Table(name="ladder", columns=columns, rows=rows)


def _trained_footprint(rung: Rung) -> float | None:
    return None if rung.trained is None else rung.trained.mean("footprint")
