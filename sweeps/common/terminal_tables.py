"""The plan of a study as the terminal shows it before anything runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

from grit.config.declared_knobs import KNOBS
from ray_jobs.design.plan import Study
from ray_jobs.records.describe import changes_in_words, duration, knobs_of
from ray_jobs.records.sequential import SequentialDesign
from ray_jobs.records.trial_record import TrialRecord
from sweeps.common.plan_forecast import PlanForecast, most_trials

#: Why a trial will not run, as its row has it, and in the sentence below the table.
ENDED, REUSED = "ended", "reused"
_LONG = {
    ENDED: "have ended already and will not run again",
    REUSED: "have been run by a study beside this one and are taken over (--no-reuse: not)",
}


#: What tells one planned trial from another.
_SETTING = ("trial", "method", "regime", "seed", "design", *KNOBS, "also set")


def _setting(record: TrialRecord) -> list[str]:
    """A trial's row under `_SETTING`; a dash where its method has no such knob."""
    knobs = knobs_of(record) or dict.fromkeys(KNOBS, "-")
    plan = record.plan
    return [
        record.trial_id,
        record.method,
        plan.regime,
        str(plan.seed),
        plan.design,
        *knobs.values(),
        changes_in_words(record),
    ]


def plan_table(study: Study, forecast: PlanForecast, settled: Mapping[str, str]) -> str:
    """Every planned trial with its predicted seconds; then what follows them.

    Those that are `settled` have the word instead that says why they will not run. Searched points are
    counted, since their knobs are not known yet.
    """
    rows: list[list[Any]] = []
    for trial in study.trials:
        budget = trial.config.budget
        unit = "steps" if budget.regime == "step" else "s"
        predicted = f"{forecast.predicted[trial.trial_id]:.0f}"
        shown = settled.get(trial.trial_id, predicted)
        rows.append([*_setting(trial.record), f"{budget.amount:g} {unit}", shown])
    sides = ["left"] * len(_SETTING) + ["right", "right"]
    headers = [*_SETTING, "budget", "est. s"]
    lines = [tabulate(rows, headers=headers, colalign=sides, disable_numparse=True)]
    if study.search is not None and forecast.searched:
        lines.append(
            f"then {forecast.searched} searched trials: {study.search.points} points x {len(study.budgets)} "
            f"regimes x {len(study.searched_seeds)} seeds ({study.search.sampler})"
        )
    if study.sequential is not None:
        lines.append(_added(study.sequential, most_trials(study, forecast.searched)))
    if forecast.trunks:
        lines.append(
            f"{forecast.trunks} trunks are trained once: about {duration(forecast.spared_seconds)} of "
            "training saved (--no-share: not)"
        )
    counts = Counter(settled.values())
    lines += [f"{count} of these {_LONG[word]}" for word, count in counts.items()]
    if forecast.ended_beside:
        lines.append(f"{forecast.ended_beside} searched or added trials have ended already")
    return "\n".join(lines)


def _added(design: SequentialDesign, most: int) -> str:
    """How trials are added, as far as that is known before; `most` are those of all seeds."""
    limits = [f"{design.max_hours:g} wall hours"] if design.max_hours else []
    limits += [f"{design.max_gpu_hours:g} GPU-hours"] if design.max_gpu_hours else []
    limits.append(f"{most} trials in all")
    return "then one seed at a time where it decides most, until every setting is decided or out of reach" + (
        f", at most {' and '.join(limits)}" if limits else ""
    )


def foresight_table(rows: Sequence[Sequence[str]], *, first: int, most: int) -> str:
    """What a design can tell of each metric."""
    headers = [
        "what it can tell",
        "tolerance",
        f"told with {first} seeds",
        f"with {most}",
        "seeds to decide equals",
        "noise from",
    ]
    return "\n" + str(tabulate(rows, headers=headers, disable_numparse=True)) + "\n"


def departures_table(rows: Sequence[Sequence[str]]) -> str:
    """Where a preset is not what its source prints, and why."""
    return str(tabulate(rows, headers=["setting", "source", "here", "why"]))
