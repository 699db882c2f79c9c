"""A long run: does the cost of geometry creep up?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.evidence.load import StudyData
from analysis.evidence.point_summary import PointSummary
from analysis.page.table import Column, Table
from analysis.stats.estimates import Interval
from analysis.stats.step_times import Tail, amortized, creep, tail, window_of
from analysis.studies.overhead.session import EVENT_SECTIONS, Session, measured_session
from grit.config.registry import Method

#: Windows into which the long run is cut.
LONG_WINDOWS = 8


@dataclass(frozen=True, kw_only=True)
class LongWindow:
    """One window of the long run; steps are counted from 1."""

    first: int
    last: int
    control: Tail
    times: Tail
    amortized: float

    @property
    def ratio(self) -> float:
        """Mean step over the control's."""
        return self.times.mean / self.control.mean


@dataclass(frozen=True, kw_only=True)
class LongRun:
    """Every window; how the ratio moves from one to the next; P99 (ms) in the first and the second half."""

    steps: float
    windows: tuple[LongWindow, ...]
    creep: Interval
    p99_early: float
    p99_late: float

    def sentence(self) -> str:
        """Whether the cost creeps up."""
        word = "it creeps up" if self.creep.low > 0 else "it falls"
        if self.creep.low <= 0 <= self.creep.high:
            word = "no creep can be told"
        return (
            f"Over a run of {self.steps:.0f} steps the ratio to the control moves by {self.creep.mean:+.4f} "
            f"a window [{self.creep.low:+.4f}, {self.creep.high:+.4f}], so that {word}; P99 is "
            f"{self.p99_early:.0f} ms in its first half and {self.p99_late:.0f} ms in its second."
        )


def long_run(data: StudyData, points: Sequence[PointSummary]) -> LongRun | None:
    """None where there was no such run."""
    for point in points:
        session = measured_session(data, point, 1) if "long" in point.designs and point.records else None
        if session is not None:
            return long_run_of(session, point.method, point.mean("steps"))
    return None


def long_run_of(session: Session, method: Method, steps: float) -> LongRun:
    """The windows of one method's steady steps."""
    shortest = min(len(rows) for rows in session.runs[method])
    places = np.arange(shortest)[window_of(shortest)["steady"]]
    control = session.beside(method)
    windows = []
    for part in np.array_split(places, min(LONG_WINDOWS, len(places))):
        own = [run[i] for run in session.runs[method] for i in part]
        other = [run[i] for run in session.runs[control] for i in part]
        windows.append(
            LongWindow(
                first=int(part[0]) + 1,
                last=int(part[-1]) + 1,
                control=tail([row["ms_step"] for row in other]),
                times=tail([row["ms_step"] for row in own]),
                amortized=amortized(own, EVENT_SECTIONS),
            )
        )
    early, late = np.array_split(places, 2)
    return LongRun(
        steps=steps,
        windows=tuple(windows),
        creep=creep([window.ratio for window in windows]),
        p99_early=tail([run[i]["ms_step"] for run in session.runs[method] for i in early]).p99,
        p99_late=tail([run[i]["ms_step"] for run in session.runs[method] for i in late]).p99,
    )


def long_table(run: LongRun) -> Table[LongWindow]:
    """One row per window."""
    columns: list[Column[LongWindow]] = [
        Column(header="steps", value=lambda row: f"{row.first} to {row.last}", terminal=True),
        Column(header="control mean (ms)", value=lambda row: row.control.mean, style=".1f", terminal=True),
        Column(header="mean (ms)", value=lambda row: row.times.mean, style=".1f", terminal=True),
        Column(header="P95", value=lambda row: row.times.p95, style=".1f"),
        Column(header="P99", value=lambda row: row.times.p99, style=".1f", terminal=True),
        Column(header="against the control", value=lambda row: row.ratio, style=".3f", terminal=True),
        Column(header="amortized reprojection (ms/step)", value=lambda row: row.amortized, style=".3f"),
    ]
    return Table(name="long", columns=columns, rows=run.windows)
