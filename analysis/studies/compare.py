"""Two studies side by side.

What differs in their settings, and how the settings that both measured compare.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from analysis.evidence.corrected import CorrectedContrast, contrast_of
from analysis.evidence.load import StudyData, load_study
from analysis.evidence.point_summary import summarize_points
from analysis.page.columns import regime_column, setting_columns
from analysis.page.render import render
from analysis.page.table import Column, Table
from analysis.stats.estimates import LEVEL
from analysis.studies.shared_settings import SharedSetting, read_the_same, shared_settings
from grit.config.declared_knobs import KNOB_OF
from grit.errors import ConfigError
from grit.io.files import write_atomically
from grit.training.measurements import OBJECTIVES
from ray_jobs.records.study_file import StudyFile

#: Share by which numbers of steps may differ that the same seconds bought.
CLOCK_TOLERANCE = 0.05
#: What says when and where a study ran, rather than what it is.
NOT_COMPARED = {"calls", "study_id", "fingerprint", "schema_version"}


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A setting in which two studies differ."""

    name: str
    first: str
    second: str


def differences(first: Mapping[str, Any], second: Mapping[str, Any], prefix: str = "") -> list[Difference]:
    """Of two nested configurations."""
    differing: list[Difference] = []
    for name in dict.fromkeys([*first, *second]):
        one, two = first.get(name), second.get(name)
        if isinstance(one, Mapping) and isinstance(two, Mapping):
            differing += differences(one, two, f"{prefix}{name}.")
        elif one != two:
            differing.append(Difference(name=_called(prefix, name), first=str(one), second=str(two)))
    return differing


def _called(prefix: str, name: str) -> str:
    """A setting by its own name, or its knob's: those of a run's sections are unique."""
    if prefix.count(".") == 2:
        return KNOB_OF.get(name, name)
    return f"{prefix.removeprefix('config.')}{name}"


def summary(settings: Sequence[SharedSetting], metric: str) -> list[str]:
    """What the second study's settings are against the first's, a sentence per measure.

    Words follow the p-values of the differences, corrected over a regime's settings (Holm).
    """
    sentences = []
    for regime in dict.fromkeys(row.point.regime for row in settings):
        rows = [row for row in settings if row.point.regime == regime]
        begin = f"{regime.capitalize()}-matched, "
        sentences += [
            begin + _summed_up(metric, [row.quality for row in rows]),
            begin + _summed_up("forgetting", [row.forgetting for row in rows]),
        ]
    return sentences


def unequal_steps(settings: Sequence[SharedSetting]) -> list[str]:
    """Where seconds bought the two studies other numbers of steps: differences there are the clock's too."""
    timed = [row for row in settings if row.point.regime == "time"]
    apart = [row for row in timed if not _close(row.point.mean("steps"), row.other.mean("steps"))]
    if not apart:
        return []
    first = statistics.fmean(row.point.mean("steps") for row in apart)
    second = statistics.fmean(row.other.mean("steps") for row in apart)
    return [
        f"In {len(apart)} of {len(timed)} time-matched settings the same seconds bought other numbers of "
        f"steps ({first:.0f} against {second:.0f} on average): what differs there may be the machine's load."
    ]


def _close(steps: float, others: float) -> bool:
    return abs(steps - others) <= CLOCK_TOLERANCE * max(steps, others)


def _summed_up(name: str, differences_made: Sequence[CorrectedContrast | None]) -> str:
    paired = [each for each in differences_made if each is not None]
    if not paired:
        return f"{name}: no setting has seeds and examples in common, so that nothing is paired."
    apart = [each.contrast.mean for each in paired if each.p_value <= 1 - LEVEL]
    higher = sum(mean > 0 for mean in apart)
    one_seed = any(each.contrast.seeds < 2 for each in paired)
    alone = " (with one seed by the examples alone)" if one_seed else ""
    return (
        f"{name}, study 2 against study 1: higher in {higher}, lower in {len(apart) - higher}, not told "
        f"apart in {len(paired) - len(apart)} of {len(paired)} settings{alone}."
    )


def own_trials(data: StudyData, other: StudyData) -> StudyData:
    """A study without the trainings that are the other's too: what was taken over says nothing of two."""
    others = {record.trial_id: record.measured for record in other.records}
    # the same to the last digit of its seconds
    own = [record for record in data.records if others.get(record.trial_id) != record.measured]
    return replace(data, records=own)


def comparison_table(settings: list[SharedSetting], metric: str) -> Table[SharedSetting]:
    """Objectives of both, and how they differ."""
    columns: list[Column[SharedSetting]] = [
        regime_column(),
        Column(header="method", value=lambda row: row.methods()),
        *setting_columns([row.point for row in settings]),
        Column(header="n", value=lambda row: f"{len(row.point.seeds)}, {len(row.other.seeds)}"),
        Column(header="steps 1", value=lambda row: row.point.mean("steps"), style=".0f"),
        Column(header="steps 2", value=lambda row: row.other.mean("steps"), style=".0f"),
    ]
    for name, objective in OBJECTIVES.items():
        label = metric if name == "quality" else objective.label
        columns += [
            Column(header=f"{label} 1", value=_mean_of_first(name), style=objective.style),
            Column(header=f"{label} 2", value=_mean_of_second(name), style=objective.style),
            Column(header=f"{label} 2 - 1", value=_change_of(name), style=f"+{objective.style}"),
        ]
    paired: list[Column[SharedSetting]] = [
        Column(header=f"{metric}, paired [95%]", value=lambda row: contrast_of(row.quality), style="+.3f"),
        Column(header=f"{metric}, alone", value=lambda row: row.quality_alone, style="+.3f", spare=True),
        Column(
            header="forgetting, paired [95%]", value=lambda row: contrast_of(row.forgetting), style="+.3f"
        ),
        Column(header="forgetting, alone", value=lambda row: row.forgetting_alone, style="+.3f", spare=True),
    ]
    return Table(name="comparison", columns=[*columns, *paired], rows=settings)


def _mean_of_first(name: str) -> Callable[[SharedSetting], float]:
    return lambda row: row.point.mean(name)


def _mean_of_second(name: str) -> Callable[[SharedSetting], float]:
    return lambda row: row.other.mean(name)


def _change_of(name: str) -> Callable[[SharedSetting], float]:
    return lambda row: row.change(name)


def caveats(first: StudyFile, second: StudyFile) -> list[str]:
    """Why the studies' values are not those of settings alone, a sentence each."""
    pairs = {
        "task": (first.config.task.name, second.config.task.name),
        "model": (first.config.backbone.model, second.config.backbone.model),
    }
    sentences = []
    for regime in dict.fromkeys([*first.budgets, *second.budgets]):
        unit = "steps" if regime == "step" else "seconds"
        amounts = [study.budgets.get(regime) for study in (first, second)]
        if None not in amounts and amounts[0] != amounts[1]:
            pairs[f"{regime} budget"] = (f"{amounts[0]:g} {unit}", f"{amounts[1]:g} {unit}")
    for name, (one, two) in pairs.items():
        if one != two:
            sentences.append(f"They differ in their {name} ({one}; {two}): no row compares a setting alone.")
    return sentences


def difference_table(rows: list[Difference]) -> Table[Difference]:
    """Setting by setting."""
    columns: list[Column[Difference]] = [
        Column(header="setting", value=lambda row: row.name, wide=True),
        Column(header="1", value=lambda row: row.first, wide=True),
        Column(header="2", value=lambda row: row.second, wide=True),
    ]
    return Table(name="differences", columns=columns, rows=rows)


def build(first: Path, second: Path, page: Path) -> list[str]:
    """Writes the page and returns what it comes to, a sentence each.

    Raises:
        ConfigError: a folder holds no study, both are the same, or their qualities are different metrics.
    """
    if first.resolve() == second.resolve():
        raise ConfigError("compare", f"{first} {second}", "is one study twice")
    one, two = load_study(first), load_study(second)
    points = [p for data in (one, two) for p in summarize_points(data.records) if p.records]
    metrics = sorted({p.quality_metric for p in points})
    if len(metrics) > 1:
        both = f"{first} {second}"
        raise ConfigError("compare", both, f"measure different qualities: {', '.join(metrics)}")
    metric = points[0].quality_label if points else "quality"
    first_own, second_own = own_trials(one, two), own_trials(two, one)
    own, taken_over = shared_settings(first_own, second_own), len(one.records) - len(first_own.records)
    cautions = caveats(one.study, two.study)
    if taken_over:
        cautions.append(
            f"Trainings that are the same in both (taken over), {taken_over} of {len(one.records)}, are left "
            "out."
        )
    if not own and taken_over:
        cautions.append("Nothing else was trained by both.")
    elif not own:
        cautions.append("No setting was trained by both.")
    if one.study.budgets.get("time") == two.study.budgets.get("time"):
        cautions += unequal_steps(own)
    answer = summary(own, metric)
    context = {
        "first": str(first),
        "second": str(second),
        "metric": metric,
        "answer": answer,
        "settings": comparison_table(own, metric),
        "differences": difference_table(differences(_compared(one.study), _compared(two.study))),
        "caveats": cautions,
        "same_content": read_the_same(one.study, two.study),
    }
    write_atomically(page, render("compare.html.j2", **context))
    return [*answer, *cautions]


def _compared(study: StudyFile) -> dict[str, Any]:
    return study.model_dump(mode="json", exclude=NOT_COMPARED)
