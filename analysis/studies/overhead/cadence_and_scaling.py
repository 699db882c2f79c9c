"""What geometry costs over its cadence, and over rank and layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from analysis.evidence.load import StudyData
from analysis.evidence.point_summary import PointSummary
from analysis.page.columns import mean_column, seeds_column
from analysis.page.table import Column, Table
from analysis.stats.estimates import Interval
from analysis.stats.step_times import ScalingFit, amortized, ratio_interval, scaling_fit
from analysis.studies.overhead.published import TABLE_15, PublishedScaling
from analysis.studies.overhead.session import (
    EVENT_SECTIONS,
    event_ms,
    geometry_ms,
    measured_session,
    peak_memory,
    shown_megabytes,
)
from grit.config.declared_knobs import KNOBS

#: Cells below which nothing is fitted.
MIN_CELLS = 5


@dataclass(frozen=True, kw_only=True)
class CadenceRow:
    """One T; milliseconds.

    Attributes:
        events: how many there were; `event` their mean, 0 without any.
        amortized: measured over all steps.
        against: mean step over the control's beside it.
    """

    point: PointSummary
    events: int
    event: float
    amortized: float
    share: float
    against: Interval

    @property
    def predicted(self) -> float:
        """What the definition of the amortized cost makes of the mean event."""
        return self.event / self.point.T if self.point.T else 0.0


def cadence_rows(data: StudyData, points: Sequence[PointSummary]) -> list[CadenceRow]:
    """In the order of T, never last."""
    members = [p for p in points if "cadence" in p.designs and p.records]
    rows = []
    for p in sorted(members, key=lambda p: p.T or 10**9):
        session = measured_session(data, p, 1)
        if session is None:
            continue
        steady = session.steady(p.method)
        events = event_ms(steady)
        rows.append(
            CadenceRow(
                point=p,
                events=len(events),
                event=float(events.mean()) if len(events) else 0.0,
                amortized=amortized(steady, EVENT_SECTIONS),
                share=session.share(p.method),
                against=ratio_interval(session.times(p.method), session.times(session.beside(p.method))),
            )
        )
    return rows


def cadence_table(rows: Sequence[CadenceRow]) -> Table[CadenceRow]:
    """One row per T."""
    columns: list[Column[CadenceRow]] = [
        Column(header="T", value=lambda row: KNOBS["T"].shown(row.point.T), terminal=True),
        seeds_column(),
        Column(header="events", value=lambda row: row.events),
        Column(header="event (ms)", value=lambda row: row.event, style=".2f", terminal=True),
        Column(header="event / T (ms)", value=lambda row: row.predicted, style=".3f", terminal=True),
        Column(
            header="measured amortized (ms/step)", value=lambda row: row.amortized, style=".3f", terminal=True
        ),
        Column(header="geometry, share of a step", value=lambda row: row.share, style=".1%", terminal=True),
        Column(header="against the control [95%]", value=lambda row: row.against, terminal=True),
        mean_column("quality"),
    ]
    return Table(name="cadence", columns=columns, rows=rows)


@dataclass(frozen=True, kw_only=True)
class ScalingRow:
    """One rank and number of layers; milliseconds, and bytes of memory against the control.

    `residual` is what the fit leaves unexplained; None without a fit.
    """

    point: PointSummary
    layers: int
    all_layers: bool
    step: float
    geometry: float
    share: float
    memory_delta: float | None
    residual: float | None = None

    @property
    def rank(self) -> int:
        """Of the adapter."""
        return self.point.config.adapter.rank

    @property
    def fitted(self) -> float | None:
        """Geometry by the fit."""
        return None if self.residual is None else self.geometry - self.residual

    @property
    def published(self) -> PublishedScaling | None:
        """The paper's Table 15."""
        return TABLE_15.get((self.rank, None if self.all_layers else self.layers))

    def shown_layers(self) -> str:
        """How many, and whether these are all."""
        return f"{self.layers} (all)" if self.all_layers else str(self.layers)


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """Every cell, and the descriptive fit where there are enough for one."""

    rows: tuple[ScalingRow, ...]
    fit: ScalingFit | None

    def sentence(self) -> str:
        """What the fit says."""
        if self.fit is None:
            return "Too few cells for a fit."
        return (
            f"Descriptive fit of GRIT's milliseconds per step: {self.fit.shown()} (r rank, L layers; no "
            f"claim of complexity). Largest residual {np.abs(self.fit.residuals).max():.2f} ms."
        )


def scaling_of(data: StudyData, points: Sequence[PointSummary]) -> Scaling:
    """Geometry over rank and adapted layers."""
    members = [p for p in points if p.designs & {"rank", "layers"} and p.records]
    measured = [_scaling_row(data, p) for p in members]
    rows = [row for row in measured if row is not None]
    if len(rows) < MIN_CELLS:
        return Scaling(rows=tuple(rows), fit=None)
    ranks = np.array([float(row.rank) for row in rows])
    layers = np.array([float(row.layers) for row in rows])
    fit = scaling_fit(ranks, layers, np.array([row.geometry for row in rows]))
    fitted = [replace(row, residual=float(left)) for row, left in zip(rows, fit.residuals, strict=True)]
    return Scaling(rows=tuple(fitted), fit=fit)


def _scaling_row(data: StudyData, point: PointSummary) -> ScalingRow | None:
    session = measured_session(data, point, 1)
    if session is None:
        return None
    memory, control = peak_memory(point.records), session.beside(point.method)
    probed = point.method in memory and control in memory
    return ScalingRow(
        point=point,
        layers=len({layer_number(name) for name in point.records[0].measured.modules or []}),
        all_layers=point.config.adapter.last_layers is None,
        step=float(session.times(point.method).mean()),
        geometry=geometry_ms(session.steady(point.method)),
        share=session.share(point.method),
        memory_delta=memory[point.method] - memory[control] if probed else None,
    )


def layer_number(name: str) -> int | None:
    """The first number in a module's path: the layer it belongs to."""
    return next((int(part) for part in name.split(".") if part.isdigit()), None)


def scaling_table(scaling: Scaling) -> Table[ScalingRow]:
    """One row per cell."""
    columns: list[Column[ScalingRow]] = [
        Column(header="r", value=lambda row: row.rank, terminal=True),
        Column(header="layers", value=lambda row: row.shown_layers(), terminal=True),
        seeds_column(),
        Column(header="step (ms)", value=lambda row: row.step, style=".1f"),
        Column(header="geometry (ms)", value=lambda row: row.geometry, style=".2f", terminal=True),
        Column(header="share of a step", value=lambda row: row.share, style=".1%", terminal=True),
        Column(header="fit (ms)", value=lambda row: row.fitted, style=".2f", terminal=True),
        Column(header="residual (ms)", value=lambda row: row.residual, style="+.2f", terminal=True),
        Column(header="memory delta (MB)", value=lambda row: row.memory_delta, show=shown_megabytes),
        Column(
            header="paper's Table 15: share, GB",
            value=lambda row: None if row.published is None else row.published.shown(),
        ),
    ]
    return Table(name="scaling", columns=columns, rows=scaling.rows)
