"""What the trials of a study will take: measured where they would run, else the preset's guess."""

from __future__ import annotations

from dataclasses import dataclass

from grit.cli.phases import phase
from grit.config.run_config import RunConfig
from grit.errors import ConfigError
from ray_jobs.design.resources import Costs
from ray_jobs.execution.calibrate import measured_costs, seconds_for
from ray_jobs.execution.runner import RunOptions
from ray_jobs.records.study_file import StudyFile
from sweeps.common.request import StudyRequest


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """Costs of a trial, where they come from in words, and a sentence on memory where it was measured."""

    costs: Costs
    source: str
    memory: str | None = None


def forecast_here(base: RunConfig, guess: Costs, options: RunOptions, *, measure: bool) -> Forecast:
    """Costs as measured on this machine, as loaded as the study would load it.

    On a cluster, or without the GPU that a trial needs, they are the preset's guess, and called so.

    Raises:
        ConfigError: a trial does not train.
    """
    if not measure:
        return Forecast(costs=guess, source="guessed by the preset")
    if options.address is not None:
        return Forecast(costs=guess, source="guessed by the preset: the cluster was not measured")
    if options.resources.gpus:
        import torch

        if not torch.cuda.is_available():
            return Forecast(costs=guess, source="guessed by the preset: no GPU here to measure on")
    phase(f"measuring a step and an evaluation here, {options.concurrent} at once ...")
    here = measured_costs(base, options.concurrent)
    costs = Costs(
        step_seconds=here.step,
        other_seconds=here.evaluations(base.evaluation),
        rung_seconds=here.by(base.evaluation.quality),
        # Ray and its workers, the model, and the untuned model's own scores.
        startup_seconds=guess.startup_seconds + here.start + here.evaluation,
    )
    memory = f"memory: {here.memory / 1e9:.1f} GB a trial, measured here"
    return Forecast(costs=costs, source="measured here", memory=memory)


def budget_seconds(
    request: StudyRequest, options: RunOptions, earlier: StudyFile | None, *, launches: bool
) -> float:
    """The time budget: as asked for, as the continued study has it, or measured here.

    What launches nothing measures nothing: it has the preset's guess.

    Raises:
        ConfigError: it is not known on a cluster.
    """
    if request.budget_seconds is not None or "time" not in request.regimes:
        return request.budget_seconds or 1.0
    if earlier is not None and "time" in earlier.budgets:
        return float(earlier.budgets["time"])
    steps = request.budget_steps
    if not launches:
        return request.preset.costs.step_seconds * steps
    if options.address is not None:
        raise ConfigError(
            "budget-seconds", None, f"must be given: how long {steps} steps of this take there is not known"
        )
    phase(f"measuring how long {steps} first-order steps take here, for the time budget ...")
    seconds = seconds_for(request.base, steps, options.concurrent)
    phase(f"time budget: {seconds:g} s (set --budget-seconds to choose it)")
    return seconds
