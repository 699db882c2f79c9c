"""Step rows of methods that took turns in one process: the session, and what is read from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.evidence.load import StudyData
from analysis.evidence.point_summary import PointSummary
from analysis.stats.arrays import Floats
from analysis.stats.step_times import amortized, window_of
from grit.config.registry import METHODS, Method
from grit.io.files import Row
from grit.runtime.step_sections import GEOMETRY_SECTIONS
from ray_jobs.records.trial_record import TrialRecord

#: Steps that a run must have for its times to be read.
MIN_STEPS = 10
#: Sections that make up a reprojection event.
EVENT_SECTIONS = ("reprojection", "rank")


@dataclass(frozen=True, kw_only=True)
class Session:
    """Interleaved step rows by method, over all seeds of one setting.

    Each list holds one run's rows in order.
    """

    runs: dict[Method, list[list[Row]]]

    def beside(self, method: Method) -> Method:
        """The method beside this one in a session of two."""
        return next(other for other in self.runs if other != method)

    def steady(self, method: Method) -> list[Row]:
        """Rows of the steady window, of all runs."""
        return self._rows(method, "steady")

    def times(self, method: Method, window: str = "steady") -> Floats:
        """Milliseconds per step in a window, run after run."""
        return np.array([row["ms_step"] for row in self._rows(method, window)], dtype=float)

    def share(self, method: Method) -> float:
        """Overhead: GRIT's sections over the whole steady step."""
        return geometry_share(self.steady(method))

    def _rows(self, method: Method, window: str) -> list[Row]:
        return [row for rows in self.runs[method] for row in rows[window_of(len(rows))[window]]]


def session_of(data: StudyData, records: Sequence[TrialRecord]) -> Session:
    """The interleaved tables of some trials of one setting."""
    runs: dict[Method, list[list[Row]]] = {}
    for record in records:
        by_method: dict[Method, list[Row]] = {}
        for row in data.table("interleaved", record):
            by_method.setdefault(row["method"], []).append(row)
        for method, rows in by_method.items():
            runs.setdefault(method, []).append(rows)
    return Session(runs=runs)


def measured_session(data: StudyData, point: PointSummary, others: int) -> Session | None:
    """The session of a setting in which at least so many other methods took turns.

    With enough steps for a steady window; None otherwise.
    """
    session = session_of(data, point.records)
    if point.method not in session.runs or len(session.runs) <= others:
        return None
    lengths = [len(rows) for runs in session.runs.values() for rows in runs]
    return session if min(lengths) >= MIN_STEPS else None


def geometry_ms(rows: Sequence[Row]) -> float:
    """Mean milliseconds of GRIT's sections."""
    return amortized(rows, GEOMETRY_SECTIONS)


def geometry_share(rows: Sequence[Row]) -> float:
    """GRIT's sections over the whole step."""
    return geometry_ms(rows) / float(np.mean([row["ms_step"] for row in rows]))


def event_ms(rows: Sequence[Row]) -> Floats:
    """Milliseconds of reprojection and rank on the steps that reprojected."""
    events = [row for row in rows if row["reprojected"]]
    total = np.zeros(len(events))
    for name in EVENT_SECTIONS:
        total += [row[f"ms_{name}"] for row in events]
    return total


def tokens_per_second(session: Session, method: Method) -> float:
    """Over the steady window."""
    tokens = seconds = 0.0
    for rows in session.runs[method]:
        window = window_of(len(rows))["steady"]
        steady = rows[window]
        tokens += steady[-1]["tokens"] - rows[window.start - 1]["tokens"]
        seconds += sum(row["ms_step"] for row in steady) / 1e3
    return tokens / seconds


def plain_twin(method: Method) -> Method:
    """The same backbone without GRIT."""
    return "qlora" if METHODS[method].quantized else "lora"


def peak_memory(records: Sequence[TrialRecord]) -> dict[str, float]:
    """Mean peak over trials, by method, in bytes."""
    sizes: dict[str, list[int]] = {}
    for record in records:
        for method, size in (record.measured.memory_bytes or {}).items():
            sizes.setdefault(method, []).append(size)
    return {method: float(np.mean(held)) for method, held in sizes.items()}


def memory_delta(method: Method, memory: dict[str, float]) -> float | None:
    """Peak memory of a GRIT method minus that of its twin, in bytes; None where either was not probed."""
    twin = plain_twin(method)
    if not METHODS[method].geometry or method not in memory or twin not in memory:
        return None
    return memory[method] - memory[twin]


def shown_megabytes(value: float) -> str:
    """A signed difference in MB."""
    return f"{value / 1e6:+.1f}"
