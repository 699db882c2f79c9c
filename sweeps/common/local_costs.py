"""What the trials of a study will take: measured where they would run, else the preset's guess."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from grit.cli.phases import phase
from grit.config.run_config import RunConfig
from grit.errors import ConfigError
from ray_jobs.design.resources import Costs
from ray_jobs.execution.calibrate import budget_of, measured_costs
from ray_jobs.execution.runner import RunOptions
from ray_jobs.records.study_file import StudyFile
from sweeps.common.request import StudyRequest
from sweeps.common.run_options import check_gpu_is_not_shared


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


@dataclass(frozen=True, kw_only=True)
class TimeBudget:
    """Training seconds of a time-matched trial, and the model of the device that they were measured on.

    None where they were given, or measured on this machine alone.
    """

    seconds: float
    device: str | None = None


def time_budget(
    request: StudyRequest,
    options: RunOptions,
    earlier: StudyFile | None,
    content: Mapping[str, str],
    *,
    launches: bool,
) -> TimeBudget:
    """The time budget: as asked for, as the continued study has it, or measured where trials will run.

    What launches nothing measures nothing: it has the preset's guess.

    Raises:
        ConfigError: it cannot be measured.
    """
    if "time" in request.regimes:
        check_gpu_is_not_shared(options.resources, "a time budget")
    if request.budget_seconds is not None or "time" not in request.regimes:
        return TimeBudget(seconds=request.budget_seconds or 1.0)
    if earlier is not None and "time" in earlier.budgets:
        return TimeBudget(seconds=float(earlier.budgets["time"]), device=earlier.device)
    steps = request.budget_steps
    if not launches:
        return TimeBudget(seconds=request.preset.costs.step_seconds * steps)
    measured = _measured_budget(request.base, steps, options, content)
    phase(f"time budget: {measured.seconds:g} s (set --budget-seconds to choose it)")
    return measured


def _measured_budget(
    base: RunConfig, steps: int, options: RunOptions, content: Mapping[str, str]
) -> TimeBudget:
    asked = f"measuring how long {steps} first-order steps take"
    if options.address is None:
        phase(f"{asked} here, for the time budget ...")
        return TimeBudget(seconds=budget_of(measured_costs(base, options.concurrent), steps))
    if options.workers > 1:
        raise ConfigError(
            "budget-seconds",
            None,
            f"must be given: how long {steps} steps of {options.workers} workers take there is not measured",
        )
    from ray_jobs.execution.nodes.calibration import costs_on_workers

    phase(f"{asked} on workers of {options.address}, for the time budget ...")
    there = costs_on_workers(
        base,
        options.resources,
        content,
        address=options.address,
        concurrent=options.concurrent,
        may_grow=options.may_grow,
        verbose=options.verbose,
    )
    phase(f"measured on {there.device}")
    return TimeBudget(seconds=budget_of(there.costs, steps), device=there.device)
