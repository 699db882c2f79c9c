"""The plan of a study as the terminal shows it before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tabulate import tabulate

from grit.config.run_config import RunConfig
from ray_jobs.design.plan import Study
from ray_jobs.design.resources import Costs, TrialResources
from ray_jobs.design.trunk_plan import TrunkPlan, plan_trunks, seconds_saved
from ray_jobs.records.describe import describe, duration
from ray_jobs.records.sequential import SequentialDesign

#: What a step with hardly any sequences costs, against the base's; seconds of a memory probe (mostly
#: imports); scorings per truncation.
SMALL_STEP, PROBE_SECONDS, TRUNCATION_SHARE = 0.3, 8.0, 1.5


@dataclass(frozen=True, kw_only=True)
class PredictedTrunk:
    """What a trunk is predicted to take."""

    trunk_id: str
    parent: str | None
    train_seconds: float


def plan_table(
    study: Study,
    costs: Costs,
    resources: TrialResources,
    concurrent: int,
    *,
    share: bool,
    usd_per_gpu_hour: float,
    source: str,
) -> str:
    """Every planned trial with its predicted seconds, then the sums, and where the prediction comes from.

    Searched points are counted, since their knobs are not known yet.
    """
    trials = study.trials
    seconds = [predicted_seconds(trial.config, study.base, costs) for trial in trials]
    rows: list[list[Any]] = []
    for trial, predicted in zip(trials, seconds, strict=True):
        budget = trial.config.budget
        unit = "steps" if budget.regime == "step" else "s"
        rows.append([trial.trial_id, describe(trial.record), f"{budget.amount:g} {unit}", f"{predicted:.0f}"])
    headers, sides = ["trial", "setting", "budget", "est. s"], ("left", "left", "right", "right")
    lines = [tabulate(rows, headers=headers, colalign=sides)]
    seeds = len(study.searched_seeds)
    searched = 0 if study.search is None else study.search.points * len(study.budgets) * seeds
    if study.search is not None and searched:
        lines.append(
            f"then {searched} searched trials: {study.search.points} points x {len(study.budgets)} regimes "
            f"x {seeds} seeds ({study.search.sampler})"
        )
    added = 0 if study.sequential is None else _added(study.sequential, len(trials) + searched, lines)
    shared = plan_trunks(trials) if share else plan_trunks(())
    spared = _spared(shared, costs)
    if spared:
        lines.append(
            f"{len(shared.trunks)} trunks are trained once: about {duration(spared)} of training "
            "saved (--no-share: not)"
        )
    total = sum(seconds) * (1 + (searched + added) / max(1, len(trials))) - spared
    minutes = max(1.0, (total / concurrent + costs.startup_seconds) / 60)
    time = f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.0f} hours"
    most = "at most " if added else ""
    money = _money(total / 3600 * resources.gpus, usd_per_gpu_hour)
    lines.append(
        f"{most}{len(trials) + searched + added} trials; about {time} with {concurrent} at once{money} "
        f"({source})"
    )
    return "\n".join(lines)


def _added(design: SequentialDesign, planned: int, lines: list[str]) -> int:
    """How many trials are added at most, as far as that is known before; `lines` get a sentence on it."""
    limits = [f"{design.max_hours:g} wall hours"] if design.max_hours else []
    limits += [f"{design.max_gpu_hours:g} GPU-hours"] if design.max_gpu_hours else []
    if design.max_trials is not None:
        limits.append(f"{design.max_trials} trials in all")
    lines.append(
        "then one seed at a time where it decides most, until every setting is decided or out of reach"
        + (f", at most {' and '.join(limits)}" if limits else "")
    )
    return 0 if design.max_trials is None else max(0, design.max_trials - planned)


def _money(gpu_hours: float, usd_per_gpu_hour: float) -> str:
    if not gpu_hours:
        return ""
    cost = gpu_hours * usd_per_gpu_hour
    return f", {gpu_hours:.1f} GPU-hours, about ${cost:,.0f} at ${usd_per_gpu_hour:g} each"


def predicted_seconds(config: RunConfig, base: RunConfig, costs: Costs) -> float:
    """Seconds of one trial.

    A step costs by the sequences it holds and by the runs that take turns; probes of memory, truncations,
    scales and rungs of a ladder come on top.
    """
    runs = 1 + len(config.audits.beside)
    step = costs.step_seconds * max(config.step_sequences / base.step_sequences, SMALL_STEP) * runs
    training = config.budget.amount * step if config.budget.regime == "step" else config.budget.amount
    probes = PROBE_SECONDS * runs if config.audits.memory else 0.0
    audits = config.audits
    further = TRUNCATION_SHARE * len(audits.truncations) + len(audits.ladder) + len(audits.scales)
    rung = costs.rung_seconds
    if rung is None:
        rung = costs.other_seconds / config.evaluation.evaluations
    return training + probes + costs.other_seconds + further * rung


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


def _spared(shared: TrunkPlan, costs: Costs) -> float:
    """Predicted training seconds that trunks save."""
    predicted = [
        PredictedTrunk(
            trunk_id=trunk.trunk_id, parent=trunk.parent, train_seconds=trunk.steps * costs.step_seconds
        )
        for trunk in shared.trunks
    ]
    reached = {trunk.trunk_id: trunk.train_seconds for trunk in predicted}
    return seconds_saved(predicted, [reached[trunk_id] for trunk_id in shared.fork_of.values()])
