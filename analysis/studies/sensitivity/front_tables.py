"""Tables of a sensitivity study's settings and trials.

The front, the cheapest of the best, and every trial.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from analysis.evidence.fronts import Placing, within_caps
from analysis.evidence.point_summary import PointSummary, control_of
from analysis.page.columns import (
    ITSELF,
    mean_column,
    method_column,
    regime_column,
    seeds_column,
    setting_columns,
)
from analysis.page.table import Column, Table
from analysis.stats.estimates import LEVEL
from analysis.stats.pooled_noise import Contrast
from analysis.studies.sensitivity.results import RegimeResult, SensitivityResult
from grit.config.declared_knobs import KNOBS
from grit.training.measurements import OBJECTIVES, QUANTITIES
from ray_jobs.records.describe import changes_in_words
from ray_jobs.records.study_file import Caps
from ray_jobs.records.trial_record import TrialRecord

#: What may matter most to somebody, with the measure that says so; less is better of all but quality.
PRIORITIES = {"quality": "quality", "forgetting": "forgetting", "size": "footprint"}
#: Settings of each regime that the second table shows.
CHEAPEST = 5
#: Forgetting has its column behind so many of the objectives: quality and retention.
FORGETTING_AFTER = 2


@dataclass(frozen=True, kw_only=True)
class FrontRow:
    """One setting on the front, and how it stands there."""

    point: PointSummary
    placing: Placing | None
    is_knee: bool
    above_cap: bool

    @property
    def probability(self) -> float | None:
        """Share of replicates in which it is on the front."""
        return None if self.placing is None else self.placing.probability

    def remarks(self) -> str:
        """What else is to be said."""
        remarks = []
        if self.is_knee:
            remarks.append("knee")
        if self.above_cap:
            remarks.append("above a cap")
        if self.placing is not None and self.placing.dominated_by is not None:
            remarks.append(f"dominated beyond noise by {self.placing.dominated_by}")
        return "; ".join(remarks)


def front_rows(result: SensitivityResult) -> list[FrontRow]:
    """Of all regimes, in the order of planning."""
    return [_front_row(regime, p, result.caps) for regime in result.regimes for p in regime.front]


def _front_row(result: RegimeResult, point: PointSummary, caps: Caps) -> FrontRow:
    return FrontRow(
        point=point,
        placing=result.placings.get(point.point_id),
        is_knee=result.knee is point,
        above_cap=not within_caps(point, caps),
    )


def front_table(result: SensitivityResult) -> Table[FrontRow]:
    """The page's first table."""
    objectives = [
        mean_column(name, header=_header(name, result), terminal=True, spare=number > 0)
        for number, name in enumerate(OBJECTIVES)
    ]
    forgetting = mean_column("forgetting", header="forgetting")
    rows = front_rows(result)
    columns: list[Column[FrontRow]] = [
        regime_column(terminal=True),
        method_column(terminal=True),
        *setting_columns([row.point for row in rows], terminal=True),
        *objectives[:FORGETTING_AFTER],
        forgetting,
        *objectives[FORGETTING_AFTER:],
        mean_column("steps", header="steps"),
        seeds_column(terminal=True),
        Column(header="P(on front)", value=lambda row: row.probability, style=".0%"),
        Column(header="remarks", value=lambda row: row.remarks(), wide=True),
    ]
    return Table(name="front", columns=columns, rows=rows)


def _header(name: str, result: SensitivityResult) -> str:
    return result.metric if name == "quality" else OBJECTIVES[name].label


def pareto_file(result: SensitivityResult) -> Table[FrontRow]:
    """`pareto.csv`: every front point with its objectives, means over seeds.

    Raw numbers and machine-readable names.
    """
    named: dict[str, Callable[[FrontRow], Any]] = {
        "regime": lambda row: row.point.regime,
        "point_id": lambda row: row.point.point_id,
        "method": lambda row: row.point.method,
        "designs": lambda row: "+".join(sorted(row.point.designs)),
    }
    rows = front_rows(result)
    columns = [Column(header=header, value=value) for header, value in named.items()]
    columns += setting_columns([row.point for row in rows])
    columns += [
        Column(header="n_seeds", value=lambda row: len(row.point.seeds)),
        Column(header="quality_metric", value=lambda row: row.point.quality_metric),
    ]
    for name in OBJECTIVES:
        columns.append(mean_column(name, header=name))
        if name == "retention":
            columns.append(mean_column("forgetting", header="forgetting"))
    columns.append(mean_column("effective_parameters", header="effective_parameters"))
    columns += [
        Column(header="front_probability", value=lambda row: row.probability),
        Column(header="trial_ids", value=lambda row: " ".join(r.trial_id for r in row.point.records)),
    ]
    return Table(name="pareto", columns=columns, rows=rows)


def cheapest_table(result: SensitivityResult) -> Table[PointSummary]:
    """Quality and retention first, then cost.

    The cheapest of each regime that none beats in the first two.
    """
    rows = [point for regime in result.regimes for point in regime.cheapest[:CHEAPEST]]
    columns: list[Column[PointSummary]] = [
        regime_column(point=ITSELF),
        method_column(point=ITSELF),
        *setting_columns(rows, point=ITSELF),
        mean_column("quality", point=ITSELF, header=result.metric),
        mean_column("retention", point=ITSELF),
        mean_column("footprint", point=ITSELF),
        mean_column("overhead", point=ITSELF),
    ]
    return Table(name="cheapest", columns=columns, rows=rows)


def trial_table(result: SensitivityResult) -> Table[TrialRecord]:
    """Every trial with what came of it."""
    columns: list[Column[TrialRecord]] = [
        Column(header="trial", value=lambda record: record.trial_id),
        Column(header="design", value=lambda record: record.plan.design),
        Column(header="regime", value=lambda record: record.plan.regime),
        Column(header="seed", value=lambda record: record.plan.seed),
        Column(header="method", value=lambda record: record.method),
    ]
    columns += [Column(header=name, value=_knob_of(name), style=knob.style) for name, knob in KNOBS.items()]
    columns.append(Column(header="also set", value=changes_in_words))
    columns.append(Column(header="status", value=lambda record: record.status))
    headers = {
        "quality": result.metric,
        "train_seconds": "train s",
        "disturbance": "disturbed",
        "steps": "steps",
    }
    for name in (*OBJECTIVES, "steps", "train_seconds", "disturbance"):
        header = headers.get(name, QUANTITIES[name].label)
        columns.append(Column(header=header, value=_measured(name), style=QUANTITIES[name].style))
    columns.append(Column(header="error", value=lambda record: record.error or record.damage or ""))
    return Table(name="trials", columns=columns, rows=result.data.records)


def _knob_of(name: str) -> Callable[[TrialRecord], float | str | None]:
    def value(record: TrialRecord) -> float | str | None:
        if not record.config.uses_grit:
            return None
        held: float | None = getattr(record.config.grit, KNOBS[name].field)
        return "none" if held is None else held

    return value


def _measured(name: str) -> Callable[[TrialRecord], Any]:
    return lambda record: getattr(record.measured, name)


@dataclass(frozen=True, kw_only=True)
class PriorityRow:
    """What to use if one thing matters most.

    Attributes:
        priority: that thing.
        point: the setting whose mean is best in it, of those that no verdict excludes.
        control: the first-order control of its regime.
        quality, forgetting: the setting's differences from the control, with intervals.
        lead: its difference in that thing from the next setting; None where there is none.
    """

    priority: str
    point: PointSummary
    control: PointSummary
    quality: Contrast
    forgetting: Contrast
    lead: Contrast | None

    def shown_lead(self) -> str | None:
        """Whether the choice is more than the best of several alike."""
        if self.lead is None:
            return None
        if self.lead.p_value > 1 - LEVEL:
            return "not told from the next"
        return "clearly ahead" if self.lead.seeds > 1 else "ahead with this seed"


def priority_rows(result: SensitivityResult) -> list[PriorityRow]:
    """Of every regime with a control."""
    excluded = {(s.point_id, s.regime) for s in result.marks().settings if s.verdict == "unsafe"}
    rows = []
    for regime in result.regimes:
        control = control_of(regime.points, regime.regime)
        open_to_use = [p for p in regime.points if p.records and p.config.uses_grit]
        open_to_use = [p for p in open_to_use if (p.point_id, regime.regime) not in excluded]
        if control is None or not control.records or not open_to_use:
            continue
        rows += [_priority_row(regime, open_to_use, control, priority) for priority in PRIORITIES]
    return rows


def _priority_row(
    regime: RegimeResult, points: list[PointSummary], control: PointSummary, priority: str
) -> PriorityRow:
    measure = PRIORITIES[priority]
    ordered = sorted(points, key=lambda point: point.mean(measure), reverse=measure == "quality")
    best, noise = ordered[0].point_id, regime.noise
    models = {"quality": noise.quality, "forgetting": noise.forgetting, "footprint": noise.footprint}
    lead = models[measure].difference(best, ordered[1].point_id) if len(ordered) > 1 else None
    return PriorityRow(
        priority=priority,
        point=ordered[0],
        control=control,
        quality=noise.quality.difference(best, control.point_id),
        forgetting=noise.forgetting.difference(best, control.point_id),
        lead=lead,
    )


def priority_table(result: SensitivityResult) -> Table[PriorityRow]:
    """If quality, forgetting or size matters most."""
    rows = priority_rows(result)
    columns: list[Column[PriorityRow]] = [
        Column(header="if this matters most", value=lambda row: row.priority, terminal=True),
        regime_column(terminal=True),
        *setting_columns([row.point for row in rows], terminal=True),
        Column(header="quality vs control [95%]", value=lambda row: row.quality, style="+.3f", terminal=True),
        Column(
            header="forgetting vs control [95%]",
            value=lambda row: row.forgetting,
            style="+.3f",
            terminal=True,
            spare=True,
        ),
        mean_column("footprint", terminal=True, spare=True),
        Column(header="lead over the next", value=lambda row: row.shown_lead(), terminal=True, spare=True),
        seeds_column(terminal=True),
    ]
    return Table(name="priorities", columns=columns, rows=rows)
