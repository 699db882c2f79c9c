"""What a planned study is predicted to take, before anything runs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from grit.config.run_config import RunConfig
from ray_jobs.design.plan import Study
from ray_jobs.design.resources import Costs, TrialResources
from ray_jobs.design.trunk_plan import TrunkPlan, plan_trunks, seconds_saved
from ray_jobs.records.describe import duration

#: What a step with hardly any sequences costs, against the base's; seconds of a memory probe (mostly
#: imports); scorings per truncation.
SMALL_STEP, PROBE_SECONDS, TRUNCATION_SHARE = 0.3, 8.0, 1.5


@dataclass(frozen=True, kw_only=True)
class PlanForecast:
    """What is left of a study, in trials, wall seconds and GPU-hours.

    Attributes:
        predicted: seconds of every designed trial, by id.
        trials: in all: designed, searched, and those that may be added as far as their number is limited.
        searched: of them, whose settings are not known yet.
        ended_beside: of the searched and added ones, those that have ended.
        may_grow: whether some are added only where they decide something: all figures are then the most.
        trunks: beginnings that trials share, trained once, which saves `spared_seconds` of training.
        seconds: wall seconds of what neither has ended nor is taken from a neighbour.
        concurrent: trials at once.
    """

    predicted: Mapping[str, float]
    trials: int
    searched: int
    ended_beside: int
    may_grow: bool
    trunks: int
    spared_seconds: float
    seconds: float
    gpu_hours: float
    concurrent: int


@dataclass(frozen=True, kw_only=True)
class PredictedTrunk:
    """What a trunk is predicted to take."""

    trunk_id: str
    parent: str | None
    train_seconds: float


def forecast_plan(
    study: Study,
    costs: Costs,
    resources: TrialResources,
    *,
    concurrent: int,
    workers: int,
    share: bool,
    settled: Collection[str] = (),
    ended_beside: int = 0,
) -> PlanForecast:
    """Predicts a study's trials and time.

    Args:
        study: the plan.
        costs: of one trial of its base.
        resources: of one trial.
        concurrent: trials at once.
        workers: processes that train one trial together.
        share: whether trials share trunks.
        settled: ids of designed trials that will not run: they have ended, or a neighbour has run them.
        ended_beside: searched and added trials that have ended.
    """
    predicted = {t.trial_id: predicted_seconds(t.config, study.base, costs) for t in study.trials}
    owed = [trial for trial in study.trials if trial.trial_id not in settled]
    searched = 0
    if study.search is not None:
        searched = study.search.points * len(study.budgets) * len(study.searched_seeds)
    planned = len(study.trials) + searched
    added = 0 if study.sequential is None else max(0, most_trials(study, searched) - planned)
    shared = plan_trunks(owed if share else ())
    spared = _spared(shared, costs)
    # a trial whose settings are not known yet is taken for an average one
    average = sum(predicted.values()) / max(1, len(predicted))
    coming = max(0, searched + added - ended_beside)
    total = sum(predicted[trial.trial_id] for trial in owed) + coming * average - spared
    runs = bool(owed) or coming > 0
    return PlanForecast(
        predicted=predicted,
        trials=planned + added,
        searched=searched,
        ended_beside=ended_beside,
        may_grow=added > 0,
        trunks=len(shared.trunks) if spared else 0,
        spared_seconds=spared,
        seconds=total / concurrent + costs.startup_seconds if runs else 0.0,
        gpu_hours=total / 3600 * resources.gpu_share * workers,
        concurrent=concurrent,
    )


def most_trials(study: Study, searched: int) -> int:
    """The most trials that a growing study can come to.

    Its limit, or all its settings with all its seeds beside the control's and the searched ones, which do not
    grow.
    """
    assert study.sequential is not None
    if study.sequential.max_trials is not None:
        return study.sequential.max_trials
    controls = sum(trial.record.plan.design == "control" for trial in study.trials)
    return len(study.points) * len(study.seeds) * len(study.budgets) + controls + searched


def predicted_seconds(config: RunConfig, base: RunConfig, costs: Costs) -> float:
    """Seconds of one trial.

    A step costs by the sequences it holds and by the runs that take turns; probes of memory, truncations,
    scales, rungs of a ladder and looks back at earlier tasks come on top.
    """
    runs = 1 + len(config.audits.beside)
    step = costs.step_seconds * max(config.step_sequences / base.step_sequences, SMALL_STEP) * runs
    training = config.budget.amount * step if config.budget.regime == "step" else config.budget.amount
    probes = PROBE_SECONDS * runs if config.audits.memory else 0.0
    audits = config.audits
    further = TRUNCATION_SHARE * len(audits.truncations) + len(audits.ladder) + len(audits.scales)
    stages = len(config.sequence.before) + 1
    further += stages * (stages + 1) / 2 if stages > 1 else 0
    rung = costs.rung_seconds
    if rung is None:
        rung = costs.other_seconds / config.evaluation.evaluations
    return training + probes + costs.other_seconds + further * rung


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


def total_line(forecast: PlanForecast, *, usd_per_gpu_hour: float, source: str) -> str:
    """Trials, time and money of one plan, in a line."""
    most = "at most " if forecast.may_grow else ""
    words = _time_and_money(forecast.seconds, forecast.gpu_hours, usd_per_gpu_hour)
    return f"{most}{forecast.trials} trials; {words} ({forecast.concurrent} at once, {source})"


def series_line(forecasts: Iterable[PlanForecast], *, usd_per_gpu_hour: float) -> str:
    """The same of several studies that run one after the other."""
    plans = list(forecasts)
    seconds, gpu_hours = sum(plan.seconds for plan in plans), sum(plan.gpu_hours for plan in plans)
    grows = any(plan.may_grow for plan in plans)
    most = "at most " if grows else ""
    trials = sum(plan.trials for plan in plans)
    words = _time_and_money(seconds, gpu_hours, usd_per_gpu_hour)
    return f"all {len(plans)} studies: {most}{trials} trials; {words}"


def _time_and_money(seconds: float, gpu_hours: float, usd_per_gpu_hour: float) -> str:
    if not seconds:
        return "nothing is left to run"
    words = f"about {duration(max(60.0, seconds))}"
    if not gpu_hours:
        return words
    cost = gpu_hours * usd_per_gpu_hour
    return f"{words}, {gpu_hours:.1f} GPU-hours, about ${cost:,.0f} at ${usd_per_gpu_hour:g} each"


def unheard(_plan: PlanForecast) -> None:
    """Nobody asks what a dry run predicts."""
