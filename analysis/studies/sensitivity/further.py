"""What was measured beside the four objectives.

The task's further metrics and the zero-shot probes, per setting.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from analysis.evidence.point_summary import PointSummary
from analysis.page.columns import ITSELF, setting_columns
from analysis.page.table import Column, Table
from ray_jobs.records.trial_record import TrialRecord


@dataclass(frozen=True, kw_only=True)
class FurtherValues:
    """One row: the untuned model, or a setting with its means over seeds.

    Attributes:
        values: by the column's name; None could not be computed.
    """

    point: PointSummary | None
    values: dict[str, float | None]


@dataclass(frozen=True, kw_only=True)
class FurtherResults:
    """All rows, the untuned model first; nothing where a study measured nothing further.

    Attributes:
        problems: what could not be computed, and why.
    """

    names: tuple[str, ...] = ()
    rows: tuple[FurtherValues, ...] = ()
    problems: dict[str, str] = field(default_factory=dict)

    def sentences(self) -> list[str]:
        """What stands beside the table."""
        if not self.rows:
            return []
        missing = [f"Not computed: {name}: {problem}." for name, problem in self.problems.items()]
        return ["Computed once, at the end of each trial; means over n seeds.", *missing]

    def table(self) -> Table[FurtherValues]:
        """One column per metric and probe."""
        measured = [row.point for row in self.rows if row.point is not None]
        knobs = [
            Column(header=column.header, value=_of_setting(column.value), style=column.style)
            for column in setting_columns(measured, point=ITSELF)
        ]
        columns: list[Column[FurtherValues]] = [
            Column(header="regime", value=lambda row: "untuned" if row.point is None else row.point.regime),
            Column(header="method", value=_of_setting(lambda point: point.title)),
            *knobs,
            *(Column(header=name, value=_value_named(name), style=".3f") for name in self.names),
            Column(header="n", value=_of_setting(lambda point: len(point.seeds))),
        ]
        return Table(name="further", columns=columns, rows=self.rows)


def _of_setting(value: Callable[[PointSummary], object]) -> Callable[[FurtherValues], object]:
    return lambda row: None if row.point is None else value(row.point)


def _value_named(name: str) -> Callable[[FurtherValues], float | None]:
    return lambda row: row.values.get(name)


def further_results(points: Sequence[PointSummary]) -> FurtherResults:
    """Of the settings with usable trials."""
    usable = [point for point in points if point.records]
    records = [record for point in usable for record in point.records]
    names = list(dict.fromkeys(name for record in records for name in measured_further(record)))
    if not names:
        return FurtherResults()
    untuned = FurtherValues(point=None, values=untuned_further(records[0]))
    rows = [FurtherValues(point=point, values=_means(point, names)) for point in usable]
    problems: dict[str, str] = {}
    for record in records:
        for name, held in (record.measured.metrics or {}).items():
            if held.get("problem"):
                problems[name] = str(held["problem"])
    return FurtherResults(names=tuple(names), rows=(untuned, *rows), problems=problems)


def measured_further(record: TrialRecord) -> dict[str, float | None]:
    """Metrics and probes of one trial, by the names of their columns."""
    metrics = {name: held.get("value") for name, held in (record.measured.metrics or {}).items()}
    probes = {f"probe {name}": held.get("accuracy") for name, held in (record.measured.probes or {}).items()}
    return {**metrics, **probes}


def untuned_further(record: TrialRecord) -> dict[str, float | None]:
    """The same of the untuned model."""
    metrics = {name: held.get("base_value") for name, held in (record.measured.metrics or {}).items()}
    probes = {
        f"probe {name}": held.get("base_accuracy") for name, held in (record.measured.probes or {}).items()
    }
    return {**metrics, **probes}


def _means(point: PointSummary, names: Sequence[str]) -> dict[str, float | None]:
    by_seed = [measured_further(record) for record in point.records]
    means = {}
    for name in names:
        means[name] = mean_of_all([values.get(name) for values in by_seed])
    return means


def mean_of_all(values: Sequence[float | None]) -> float | None:
    """The mean; never of fewer values than there are seeds."""
    numbers = [value for value in values if value is not None]
    return statistics.fmean(numbers) if numbers and len(numbers) == len(values) else None
