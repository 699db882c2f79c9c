"""Two studies side by side.

What differs in their settings, and how the settings that both measured compare.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.evidence.load import StudyData, load_study
from analysis.evidence.point_summary import PointSummary, summarize_points
from analysis.page.columns import knob_columns, regime_column
from analysis.page.render import render
from analysis.page.table import Column, Table
from grit.errors import ConfigError
from grit.io.files import write_atomically
from grit.training.measurements import OBJECTIVES
from ray_jobs.records.study_file import StudyFile

#: What says when and where a study ran, rather than what it is.
NOT_COMPARED = {"calls", "study_id", "fingerprint", "schema_version"}


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A setting in which two studies differ."""

    name: str
    first: str
    second: str


@dataclass(frozen=True, kw_only=True)
class SharedSetting:
    """A setting that both studies measured."""

    point: PointSummary
    other: PointSummary

    def methods(self) -> str:
        """The method, or both."""
        names = (self.point.title, self.other.title)
        return names[0] if names[0] == names[1] else ", ".join(names)

    def change(self, name: str) -> float:
        """The second study's mean minus the first's."""
        return self.other.mean(name) - self.point.mean(name)


def differences(first: Mapping[str, Any], second: Mapping[str, Any], prefix: str = "") -> list[Difference]:
    """Of two nested configurations."""
    differing: list[Difference] = []
    for name in dict.fromkeys([*first, *second]):
        one, two = first.get(name), second.get(name)
        if isinstance(one, Mapping) and isinstance(two, Mapping):
            differing += differences(one, two, f"{prefix}{name}.")
        elif one != two:
            differing.append(Difference(name=f"{prefix}{name}", first=str(one), second=str(two)))
    return differing


def shared_settings(first: StudyData, second: StudyData) -> list[SharedSetting]:
    """One per setting (method and knobs) and regime."""
    ones, others = _by_setting(first), _by_setting(second)
    return [SharedSetting(point=ones[key], other=others[key]) for key in ones if key in others]


def _by_setting(data: StudyData) -> dict[tuple[Any, ...], PointSummary]:
    """The first of each.

    A setting that a study measured at several batch sizes counts as its design has it.
    """
    settings: dict[tuple[Any, ...], PointSummary] = {}
    for p in summarize_points(data.records):
        if p.records and "small-batch" not in p.designs:
            # Q-GRIT is compared with GRIT, and QLoRA with LoRA: the backbone's form is among the differences
            # that the page lists.
            settings.setdefault((p.regime, p.is_control, *p.knob_values()), p)
    return settings


def comparison_table(settings: list[SharedSetting], metric: str) -> Table[SharedSetting]:
    """Objectives of both, and how they differ."""
    columns: list[Column[SharedSetting]] = [
        regime_column(),
        Column(header="method", value=lambda row: row.methods()),
        *knob_columns(),
        Column(header="n", value=lambda row: f"{len(row.point.seeds)}, {len(row.other.seeds)}"),
    ]
    for name, objective in OBJECTIVES.items():
        label = metric if name == "quality" else objective.label
        columns += [
            Column(header=f"{label} 1", value=_mean_of_first(name), style=objective.style),
            Column(header=f"{label} 2", value=_mean_of_second(name), style=objective.style),
            Column(header=f"{label} 2 - 1", value=_change_of(name), style=f"+{objective.style}"),
        ]
    return Table(name="comparison", columns=columns, rows=settings)


def _mean_of_first(name: str) -> Callable[[SharedSetting], float]:
    return lambda row: row.point.mean(name)


def _mean_of_second(name: str) -> Callable[[SharedSetting], float]:
    return lambda row: row.other.mean(name)


def _change_of(name: str) -> Callable[[SharedSetting], float]:
    return lambda row: row.change(name)


def difference_table(rows: list[Difference]) -> Table[Difference]:
    """Setting by setting."""
    columns: list[Column[Difference]] = [
        Column(header="setting", value=lambda row: row.name, wide=True),
        Column(header="1", value=lambda row: row.first, wide=True),
        Column(header="2", value=lambda row: row.second, wide=True),
    ]
    return Table(name="differences", columns=columns, rows=rows)


def build(first: Path, second: Path, page: Path) -> Path:
    """Writes the page and returns its path.

    Raises:
        ConfigError: a folder holds no study, or their qualities are different metrics.
    """
    one, two = load_study(first), load_study(second)
    points = [p for data in (one, two) for p in summarize_points(data.records) if p.records]
    metrics = sorted({p.quality_metric for p in points})
    if len(metrics) > 1:
        both = f"{first} {second}"
        raise ConfigError("compare", both, f"measure different qualities: {', '.join(metrics)}")
    metric = points[0].quality_label if points else "quality"
    context = {
        "first": str(first),
        "second": str(second),
        "metric": metric,
        "settings": comparison_table(shared_settings(one, two), metric),
        "differences": difference_table(differences(_compared(one.study), _compared(two.study))),
        "same_content": one.study.content == two.study.content,
    }
    write_atomically(page, render("compare.html.j2", **context))
    return page


def _compared(study: StudyFile) -> dict[str, Any]:
    return study.model_dump(mode="json", exclude=NOT_COMPARED)
