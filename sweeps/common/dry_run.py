"""What `--dry-run` shows: every trial, why some will not run, time, money, what it can tell."""

from __future__ import annotations

from pathlib import Path

from grit.presets.run_presets import departures
from ray_jobs.design.plan import Study
from ray_jobs.design.study_spec import StudySpec
from ray_jobs.execution.runner import RunOptions, output_folder
from ray_jobs.records.kept_adapters import Keep, default_point_id, will_be_kept
from ray_jobs.records.reuse import Neighbours
from ray_jobs.records.store import StudyStore
from ray_jobs.records.study_file import Call
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

    Raises:
        ConfigError: the output folder holds another study, or a trial does not train.
    """
    output = execution.output or output_folder(study.name)
    here = forecast_here(study.base, spec.costs, options, measure=execution.measure)
    ended: set[str] = set()
    if execution.output is not None:
        store = StudyStore(execution.output, study.fingerprint(), resume=execution.resume)
        ended = {trial_id for trial_id, record in store.records.items() if record.ended}
    settled = dict.fromkeys(ended, ENDED)
    neighbours = neighbours_of(study, output, call, options.keep) if execution.reuse else None
    if neighbours is not None:
        owed = [trial for trial in study.trials if trial.trial_id not in ended]
        settled.update({t.trial_id: REUSED for t in owed if neighbours.find(t.record) is not None})
    plan = forecast_plan(
        study, here.costs, spec.resources, concurrent=options.concurrent, share=options.share, settled=settled
    )
    print(plan_table(study, here.costs, forecast=plan, settled=settled))
    for sentence in [] if neighbours is None else neighbours.declined():
        print(sentence)
    print(total_line(plan, usd_per_gpu_hour=execution.usd_per_gpu_hour, source=here.source))
    print(foresight(study, spec.preset, task_metric, output))
    print(here.memory or memory)
    if rows := departures(spec.preset):
        print("\nwhere this preset is not what its source prints:\n" + departures_table(rows))
    if unmeasured:
        print(
            "the time budget shown is a guess: it is measured before the first trial, or give "
            "--budget-seconds"
        )
    return plan


def neighbours_of(study: Study, folder: Path, call: Call, keep: Keep) -> Neighbours:
    """The studies beside `folder`, for trials of this one."""
    default_point = default_point_id(trial.record for trial in study.trials)
    return Neighbours(folder, call, needs_adapter=lambda record: will_be_kept(record, keep, default_point))
