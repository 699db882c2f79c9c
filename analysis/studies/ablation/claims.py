"""Each claim of the paper with what this study measured of it.

On this backbone and task, and nothing more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from analysis.evidence.load import StudyData
from analysis.evidence.noise import regime_noise
from analysis.evidence.point_summary import PointSummary
from analysis.page.table import Column, Table, shown
from analysis.stats.pooled_noise import Contrast
from analysis.studies.ablation.members import family_members
from analysis.studies.ablation.published import LEAST_SAVED, MOST_OVERHEAD, PARITY

CONFIRMED, NOT_CONFIRMED = "confirmed", "not confirmed"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim, what was measured here, and whether that confirms it."""

    claim: str
    measured: str
    verdict: str
    trials: str


def claim_rows(data: StudyData, points: Sequence[PointSummary]) -> list[Claim]:
    """None where the study's method or its control was not measured."""
    members = family_members(points)
    method = data.study.config.method
    point, control = members.get(method), members.get("qlora" if method == "qgrit" else "lora")
    if point is None or control is None:
        return []
    noise = regime_noise(data, list(members.values()))
    assert noise is not None  # two of them were measured
    names = (point.point_id, control.point_id)
    judged = (
        _fewer_parameters(point),
        _parity(noise.quality.difference(*names), control),
        _drift(noise.forgetting.difference(*names)),
        _time(point, control),
        _reprojections(point),
    )
    trials = f"{_trial_ids(point)} against {_trial_ids(control)}"
    return [
        Claim(claim=claim, measured=measured, verdict=verdict, trials=trials)
        for claim, measured, verdict in judged
    ]


def _trial_ids(point: PointSummary) -> str:
    return " ".join(record.trial_id for record in point.records)


def _fewer_parameters(point: PointSummary) -> tuple[str, str, str]:
    saved = 1 - point.mean("footprint")
    verdict = CONFIRMED if saved >= LEAST_SAVED else NOT_CONFIRMED
    return "46% fewer trained parameters on average (30 to 68%)", f"{saved:.0%} fewer", verdict


def _parity(quality: Contrast, control: PointSummary) -> tuple[str, str, str]:
    margin = PARITY * max(abs(control.mean("quality")), 1e-9)
    verdict = "not decided: the interval reaches beyond 3%"
    if quality.low >= -margin:
        verdict = CONFIRMED
    elif quality.high < -margin:
        verdict = NOT_CONFIRMED
    return "quality parity with LoRA or QLoRA (within 1 to 3%)", shown(quality), verdict


def _drift(forgetting: Contrast) -> tuple[str, str, str]:
    verdict = "not decided: the interval holds zero"
    if forgetting.high < 0:
        verdict = CONFIRMED
    elif forgetting.low > 0:
        verdict = f"{NOT_CONFIRMED}: it forgets more"
    return "lower drift (less forgetting)", f"{shown(forgetting)} nats/token", verdict


def _time(point: PointSummary, control: PointSummary) -> tuple[str, str, str]:
    overhead = point.mean("overhead")
    more = point.mean("train_seconds") / control.mean("train_seconds") - 1
    verdict = "not above 10%" if overhead <= MOST_OVERHEAD else NOT_CONFIRMED
    measured = f"geometry {overhead:.1%} of a step; {more:+.1%} training seconds"
    return "6 to 10% more time a step", measured, verdict


def _reprojections(point: PointSummary) -> tuple[str, str, str]:
    rate = 1000 * point.mean("reprojections") / point.mean("steps")
    measured = f"{rate:.1f} per 1,000 steps, by the cadence that was set"
    return "1.8 to 2.4 reprojections per 1,000 steps", measured, "not tested here: T is set, not found"


def claim_table(rows: Sequence[Claim]) -> Table[Claim]:
    """One row per claim."""
    columns: list[Column[Claim]] = [
        Column(header="claim of the paper", value=lambda row: row.claim, wide=True),
        Column(header="measured here", value=lambda row: row.measured),
        Column(header="verdict", value=lambda row: row.verdict, wide=True),
        Column(header="trials that say so", value=lambda row: row.trials, wide=True),
    ]
    return Table(name="claims", columns=columns, rows=rows)
