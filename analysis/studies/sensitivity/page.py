"""The sensitivity study's page.

`report.html`, `report.md`, `pareto.csv`, `recommendation.json`, tables and figures.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.evidence.compute import compute_of, compute_sentences
from analysis.evidence.load import StudyData
from analysis.page.adapter_rows import adapters_table
from analysis.page.document import FEW_SEEDS, shared_gpu_limits, write_figures, write_table
from analysis.page.render import render
from analysis.page.table import Column, Table
from analysis.studies.knob_axes.importance import Importance, importance_table, importances_of
from analysis.studies.knob_axes.rungs import ladder_table
from analysis.studies.sensitivity.bands import SettingVerdict
from analysis.studies.sensitivity.figures.all_figures import sensitivity_figures
from analysis.studies.sensitivity.front_tables import (
    cheapest_table,
    front_table,
    pareto_file,
    priority_table,
    trial_table,
)
from analysis.studies.sensitivity.further import further_results
from analysis.studies.sensitivity.results import SensitivityResult, analyse
from analysis.studies.sensitivity.strips import QUALITY_STRIP, strip_rows, strip_table
from analysis.studies.sensitivity.tables import SensitivityRow, sensitivity_rows, sensitivity_table
from grit.io.files import write_atomically
from ray_jobs.records.study_file import Caps
from ray_jobs.records.trial_record import TrialRecord
from ray_jobs.tracking.marks import StudyMarks

#: Share of its core's time from which a time-matched trial counts as disturbed.
DISTURBED = 0.1


@dataclass(frozen=True, kw_only=True)
class SensitivityPage:
    """What was written, for whoever asked for it."""

    result: SensitivityResult

    def marks(self) -> StudyMarks:
        """Verdicts, fronts and the recommendation."""
        return self.result.marks()

    def terminal(self) -> str:
        """The answer as the report has it, every setting against its tolerances, and the front."""
        advice = self.result.recommendation
        lines = [comparison.headline() for comparison in advice.comparisons]
        lines += [f"{one.headline()}: {one.confidence}" for one in advice.knobs]
        lines += advice.openings()
        strips = strip_table(strip_rows(self.result.bands)).terminal()
        answer = [*lines, "", strips] if strips else lines
        if QUALITY_STRIP in strips.partition("\n")[0]:  # a narrow terminal has the verdicts alone
            answer.append(
                "o: the difference, -: its 95% interval, |: the tolerance; right of it is good enough; "
                "< and >: beyond the strip"
            )
        answer.append("")
        priorities = priority_table(self.result).terminal()
        answer += [priorities, ""] if priorities else []
        table = front_table(self.result)
        rows = sorted(table.rows, key=lambda row: (row.point.regime, -row.point.mean("quality")))
        return "\n".join([*answer, Table(name=table.name, columns=table.columns, rows=rows).terminal()])


def build(data: StudyData, folder: Path, caps: Caps | None = None) -> SensitivityPage:
    """Analyses the study and writes all that belongs to its report into `folder`."""
    result = analyse(data, caps)
    write_atomically(folder / "pareto.csv", pareto_file(result).csv())
    advice = json.dumps(result.recommendation.as_data(), indent=2, ensure_ascii=False)
    write_atomically(folder / "recommendation.json", advice)
    write_table(sensitivity_table(result.bands, result.points), folder)
    write_table(priority_table(result), folder)
    if result.ladders:
        write_table(ladder_table(result.ladders), folder)
    figures = sensitivity_figures(data, result.points, result.bands, result.ladders)
    drawn = write_figures(figures, folder)
    context = {**_context(result), "captions": {figure.name: figure.caption for figure in figures}}
    write_atomically(folder / "report.html", render("report.html.j2", **context, figures=drawn))
    links = {name: f"figures/{name}.png" for name in drawn}
    write_atomically(folder / "report.md", render("report.md.j2", **context, figures=links))
    return SensitivityPage(result=result)


def _context(result: SensitivityResult) -> dict[str, Any]:
    """What the templates show."""
    study, records = result.data.study, result.data.records
    return {
        "study": study,
        "call": study.made_by,
        "result": result,
        "counts": dict(Counter(record.status for record in records)),
        "front": front_table(result),
        "cheapest": cheapest_table(result),
        "priorities": priority_table(result),
        "verdicts": _verdict_table(result),
        "sensitivity": sensitivity_table(result.bands, result.points),
        "ladder": ladder_table(result.ladders),
        "importance": importance_table(_importances(result)),
        "trials": trial_table(result),
        "adapters": adapters_table(result.data.folder, study, records, result.marks()),
        "further": further_results(result.points),
        "compute": _compute(result),
        "disturbance": _most_disturbed(records),
        "untuned": _untuned(records),
        "limits": [*_limits(result), *shared_gpu_limits(study), *result.data.damage],
    }


def _compute(result: SensitivityResult) -> list[str]:
    """Where the time and the energy went, and what a verdict took of it."""
    compute = compute_of(result.data.study, result.data.records, result.data.folder)
    sentences = compute_sentences(compute)
    decided = result.marks().decided
    if compute.kwh is not None and decided:
        sentences.append(
            f"That is {1e3 * compute.kwh / decided:.2g} Wh a decided verdict ({decided} settings x criteria)."
        )
    return sentences


def _importances(result: SensitivityResult) -> list[Importance]:
    """Of every regime."""
    return [row for regime in result.regimes for row in importances_of(regime.points, regime.regime)]


def _verdict_table(result: SensitivityResult) -> Table[SensitivityRow]:
    """Every setting's outcome, and what it failed."""
    columns: list[Column[SensitivityRow]] = [
        Column(header="knob", value=lambda row: row.band.knob),
        Column(header="regime", value=lambda row: row.band.regime),
        Column(header="value", value=lambda row: row.setting.shown_value()),
        Column(header="verdict", value=lambda row: row.setting.word),
        Column(header="failed criteria", value=lambda row: _failed(row.setting)),
        Column(header="undecided criteria", value=lambda row: _undecided(row.setting), wide=True),
    ]
    return Table(name="verdicts", columns=columns, rows=sensitivity_rows(result.bands, result.points))


def _undecided(setting: SettingVerdict) -> str | None:
    return "; ".join(f"{c.name} ({c.detail})" for c in setting.undecided) or None


def _failed(setting: SettingVerdict) -> str | None:
    return ", ".join(setting.failed) or None


def _most_disturbed(records: Sequence[TrialRecord]) -> float | None:
    """The largest share of its core's time that a time-matched trial lost to others."""
    shares = [r.measured.disturbance for r in records if r.ended and r.plan.regime == "time"]
    return max((share for share in shares if share is not None), default=None)


def _untuned(records: Sequence[TrialRecord]) -> tuple[float, float] | None:
    """The untuned model's quality, and its nats per token on the general text."""
    for record in records:
        quality, loss = record.measured.base_quality, record.measured.base_retention_loss
        if record.ended and quality is not None and loss is not None:
            return quality, loss
    return None


def _limits(result: SensitivityResult) -> list[str]:
    """What this study does not show, from its own records."""
    config, records = result.data.study.config, result.data.records
    limits = [
        f"One backbone ({config.backbone.model}) and one task ({config.task.name}): nothing here speaks of "
        "others."
    ]
    seeds = {record.plan.seed for record in records}
    if len(seeds) == 1:
        limits.append("One seed: intervals cover the examples only, and seed variance is not known.")
    elif len(seeds) < FEW_SEEDS:
        limits.append(
            "2 seeds: their spread is hardly known, so that intervals are wide wherever seeds differ; "
            "three or more would tell more."
        )
    lost = sum(record.ended and record.status != "completed" for record in records)
    if lost:
        limits.append(
            f"{lost} trial(s) did not complete and are left out of means; they count against stability."
        )
    if any(not record.ended for record in records):
        limits.append("The study is not finished: planned trials are missing here.")
    timed = [record.measured.disturbance or 0.0 for record in records if record.plan.regime == "time"]
    disturbed = sum(share > DISTURBED for share in timed)
    if disturbed:
        limits.append(
            f"{disturbed} time-matched trial(s) had less than 90% of their core to themselves: their "
            "budgets bought fewer steps."
        )
    limits.append(
        "With four objectives most points are on a raw front; the bootstrap probability of being on it "
        "says more."
    )
    return limits
