"""Tables for the terminal: the plan before a study, the front after it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from grit.config.run import RunConfig
from ray_jobs.design.sharing import SharedPlan, plan_trunks, seconds_saved
from ray_jobs.design.study import Study, TrialSpec
from ray_jobs.design.study_presets import Preset
from ray_jobs.records.describe import describe, duration

#: Seconds until the first worker trains, and for the report: for the estimate of a plan.
STARTUP_SECONDS = 45.0
#: What a step with hardly any sequences costs, against the preset's; seconds of a memory probe (mostly
#: imports); scorings per truncation.
SMALL_STEP, PROBE_SECONDS, TRUNCATION_SHARE = 0.3, 8.0, 1.5

if TYPE_CHECKING:
    from analysis.data.points import PointSummary


def plan_table(
    study: Study,
    trials: Sequence[TrialSpec],
    preset: Preset,
    concurrent: int,
    *,
    share: bool,
    usd_per_gpu_hour: float,
) -> str:
    """Every planned trial with its predicted seconds, then the sums.

    Searched points are counted, since their knobs are not known yet.
    """
    rows: list[list[Any]] = []
    total = 0.0
    shared = plan_trunks(trials) if share else SharedPlan(trunks=(), fork_of={})
    for trial in trials:
        budget = trial.config.budget
        seconds = predicted_seconds(trial.config, preset)
        total += seconds
        unit = "steps" if budget.regime == "step" else "s"
        rows.append([trial.trial_id, describe(trial.record), f"{budget.amount:g} {unit}", f"{seconds:.0f}"])
    searched = 0 if study.search is None else study.search.points * len(study.budgets) * len(study.seeds)
    total += searched * (total / max(1, len(trials)))
    spared = _spared(shared, preset)
    total -= spared
    lines = [
        tabulate(
            rows,
            headers=["trial", "setting", "budget", "est. s"],
            colalign=("left", "left", "right", "right"),
        )
    ]
    if study.search is not None and searched:
        lines.append(
            f"then {searched} searched trials: {study.search.points} points x {len(study.budgets)} regimes "
            f"x {len(study.seeds)} seeds "
            f"({study.search.sampler})"
        )
    hours = total / 3600
    if spared:
        lines.append(
            f"{len(shared.trunks)} shared beginnings are trained once: about {duration(spared)} of "
            "training saved (--no-share: not)"
        )
    used = hours * preset.resources.gpus
    gpus = (
        f", {used:.1f} GPU-hours, about ${used * usd_per_gpu_hour:,.0f} at ${usd_per_gpu_hour:g} each"
        if preset.resources.gpus
        else ""
    )
    minutes = max(1.0, (total / concurrent + STARTUP_SECONDS) / 60)
    time = f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.0f} hours"
    lines.append(
        f"{len(trials) + searched} trials; about {time} with {concurrent} at once{gpus} (predicted from "
        "the preset)"
    )
    return "\n".join(lines)


def predicted_seconds(config: RunConfig, preset: Preset) -> float:
    """Seconds of one trial: a step costs by the sequences it holds and by the runs that take turns.

    Probes of memory and truncations come on top.
    """
    sequences = (
        config.optimization.micro_batch
        * config.optimization.accumulation
        / (preset.base.optimization.micro_batch * preset.base.optimization.accumulation)
    )
    step = preset.step_seconds * max(sequences, SMALL_STEP) * (1 + len(config.audits.beside))
    probes = PROBE_SECONDS * (1 + len(config.audits.beside)) if config.audits.memory else 0.0
    scored = preset.other_seconds * (1 + TRUNCATION_SHARE * len(config.audits.truncations))
    return (
        (config.budget.amount * step if config.budget.regime == "step" else config.budget.amount)
        + probes
        + scored
    )


def departures_table(rows: list[list[str]]) -> str:
    """Where a preset is not what the paper prints, and why."""
    return str(tabulate(rows, headers=["setting", "paper", "here", "why"]))


def _spared(shared: SharedPlan, preset: Preset) -> float:
    """Predicted training seconds that shared beginnings save."""
    predicted: list[dict[str, Any]] = [
        {
            "trunk_id": trunk.trunk_id,
            "parent": trunk.parent,
            "train_seconds": trunk.steps * preset.step_seconds,
        }
        for trunk in shared.trunks
    ]
    reached = {trunk["trunk_id"]: trunk["train_seconds"] for trunk in predicted}
    return seconds_saved(predicted, [reached[trunk_id] for trunk_id in shared.fork_of.values()])


def front_table(front: Sequence[PointSummary]) -> str:
    """The Pareto front as it stands on the terminal: means over seeds."""
    rows = []
    for point in sorted(front, key=lambda p: (p.regime, -p.mean("quality"))):
        rows.append(
            [
                point.regime,
                point.method,
                *point.knob_texts(),
                f"{point.mean('quality'):.3f}",
                f"{point.mean('retention'):.3f}",
                f"{point.mean('overhead'):.1%}",
                f"{point.mean('footprint'):.0%}",
                len(point.seeds),
            ]
        )
    headers = [
        "regime",
        "method",
        "tau",
        "T",
        "lambda",
        front[0].quality_metric if front else "quality",
        "retention",
        "overhead",
        "footprint",
        "n",
    ]
    title = "\nPareto front (quality, retention, overhead, footprint; means over n seeds)\n"
    return title + str(tabulate(rows, headers=headers, disable_numparse=True))
