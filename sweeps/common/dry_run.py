"""What `--dry-run` shows: every trial, why some will not run, time, money, what it can tell."""

from __future__ import annotations

from pathlib import Path

from grit.errors import ConfigError
from grit.presets.run_presets import departures
from ray_jobs.design.plan import Study
from ray_jobs.design.study_spec import StudySpec
from ray_jobs.design.study_store import store_of
from ray_jobs.execution.cluster import check_concurrency
from ray_jobs.execution.runner import RunOptions, output_folder
from ray_jobs.records.kept_adapters import default_point_id, will_be_kept
from ray_jobs.records.reuse import Neighbours
from ray_jobs.records.study_file import Call
from ray_jobs.records.trial_status import STATUSES
from sweeps.common.foresight import foresight
from sweeps.common.local_costs import forecast_here
from sweeps.common.plan_forecast import PlanForecast, forecast_plan, total_line
from sweeps.common.study_options import ExecutionOptions
from sweeps.common.terminal_tables import ENDED, REUSED, departures_table, plan_table


def show_plan(
    study: Study,
    spec: StudySpec,
    options: RunOptions,
    execution: ExecutionOptions,
    call: Call,
    *,
    memory: str,
    task_metric: str,
    unmeasured: bool,
    provisional: bool,
) -> PlanForecast:
    """Prints the plan.

    Args:
        study: the plan itself.
        spec: the same as a file would have it, with what a trial needs and costs.
        options: how it would run.
        execution: what was asked for.
        call: as `study.json` would have it.
        memory: what a trial is predicted to hold, where it is not measured here.
        task_metric: the task's.
        unmeasured: whether its time budget is a guess.
        provisional: whether its trials will have other ids: the hub was not asked for the model's commit.

    Raises:
        ConfigError: the output folder holds another study, or a trial does not train.
    """
    output = execution.output or output_folder(study.name)
    ended = _ended(study, execution)
    here = forecast_here(study.base, spec.costs, options, measure=execution.measure)
    asks = execution.reuse and not provisional
    neighbours = neighbours_of(study, output, call, options) if asks else None
    settled = _settled(study, ended, neighbours)
    plan = forecast_plan(
        study,
        here.costs,
        spec.resources,
        concurrent=options.concurrent,
        workers=options.workers,
        share=options.share,
        settled=settled,
        ended_beside=len(ended) - sum(word == ENDED for word in settled.values()),
    )
    print(plan_table(study, plan, settled))
    for sentence in [] if neighbours is None else neighbours.declined():
        print(sentence)
    if provisional and execution.reuse:
        print("what other studies have run is not counted: the hub was not asked for the model's commit")
    print(total_line(plan, usd_per_gpu_hour=execution.usd_per_gpu_hour, source=here.source))
    print(foresight(study, spec.preset, task_metric, output))
    print("\n".join([here.memory or memory, *_refused_here(options)]))
    if rows := departures(spec.preset):
        print("\nwhere this preset is not what its source prints:\n" + departures_table(rows))
    if unmeasured:
        print(
            "the time budget shown is a guess: it is measured before the first trial, or give "
            "--budget-seconds"
        )
    return plan


def _refused_here(options: RunOptions) -> list[str]:
    """A plan may be for another machine; what this one could not run is said."""
    try:
        check_concurrency(options.address, options.concurrent * options.workers, options.resources)
    except ConfigError as error:
        return [f"this machine would refuse it: {error}"]
    return []


def _ended(study: Study, execution: ExecutionOptions) -> set[str]:
    """Trials that the output folder has and that will not run again."""
    if execution.output is None:
        return set()
    store = store_of(study, execution.output, resume=execution.resume)
    return {name for name, record in store.records.items() if not STATUSES[record.status].runs_again}


def _settled(study: Study, ended: set[str], neighbours: Neighbours | None) -> dict[str, str]:
    """Designed trials that will not run, with the word that says why."""
    settled: dict[str, str] = {}
    for trial in study.trials:
        if trial.trial_id in ended:
            settled[trial.trial_id] = ENDED
        elif neighbours is not None and neighbours.find(trial.record) is not None:
            settled[trial.trial_id] = REUSED
    return settled


def neighbours_of(study: Study, folder: Path, call: Call, options: RunOptions) -> Neighbours:
    """The studies beside `folder`, for trials of this one."""
    default_point = default_point_id(trial.record for trial in study.trials)
    return Neighbours(
        folder,
        call,
        needs_adapter=lambda record: will_be_kept(record, options.keep, default_point),
        device=options.device,
    )
