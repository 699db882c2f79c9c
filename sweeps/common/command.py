"""From a command line to a finished study: what every script in this folder runs."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from grit.adapters.check_model import check_model
from grit.backbone import resolve as model_folder
from grit.config.sections import Regime
from grit.errors import ConfigError
from grit.evaluation.probes import check_probes
from grit.io.provenance import provenance
from grit.tasks.registry import content_hashes, load_documents, load_task
from grit.training.run_presets import departures
from ray_jobs.design.forecast import check_memory, machine_memory, shape_of
from ray_jobs.design.study import Point, Search, Study, fingerprint, plan
from ray_jobs.design.study_presets import Preset, preset
from ray_jobs.execution.cluster import ROOT, check_address, check_concurrency, cores
from ray_jobs.execution.runner import RunOptions, StudyOutcome, StudyRunner, output_folder
from ray_jobs.records.reuse import Neighbours
from ray_jobs.records.store import STUDY_PACKAGES, StudyStore
from ray_jobs.records.trial_record import read_study
from ray_jobs.schedule.search import open_storage
from sweeps.common.options import PresetOf, SweepOptions, parser, resolve
from sweeps.common.terminal_tables import departures_table, front_table, plan_table

EXIT_BAD_INPUT, EXIT_INTERRUPTED = 2, 130
#: Options that say which points are measured.
DESIGN_OPTIONS = (
    "tau",
    "T",
    "lambda_",
    "grid",
    "point",
    "small_batch",
    "search_points",
    "sampler",
    "space",
    "stop_dominated",
)

Points = Callable[[Preset, SweepOptions], list[Point]]
SearchOf = Callable[[Preset, SweepOptions], Search | None]


def nothing(_preset: Preset, _options: SweepOptions) -> Search | None:
    """Nothing is searched: all points are designed."""
    return None


def main(
    name: str,
    description: str,
    points: Points,
    search: SearchOf = nothing,
    argv: Sequence[str] | None = None,
    *,
    regimes: Sequence[Regime] = ("step", "time"),
    designs: Collection[str] = DESIGN_OPTIONS,
    presets: PresetOf = preset,
    own: Callable[[argparse.ArgumentParser], None] = lambda parser: None,
) -> int:
    """Runs one study script.

    Args:
        name: of the study.
        description: for `--help`.
        points: what is measured.
        search: what is searched after that.
        argv: the command line; None for the process's own.
        regimes: the default ones.
        designs: which of `DESIGN_OPTIONS` mean something here; the others are refused, since this study
            designs its points itself.
        presets: what the study starts from, by a preset's name; the script may have its own idea of seeds and
            budgets.
        own: adds the script's own options, which then stand in `SweepOptions.own`.

    Returns:
        Its exit code: 0 done, 2 bad input (nothing was launched), 130 interrupted, 1 no trial completed.
    """
    known = parser(description, regimes)
    own(known)
    arguments = known.parse_args(argv)
    try:
        for option in DESIGN_OPTIONS:
            if option not in designs and getattr(arguments, option) != known.get_default(option):
                raise ConfigError(
                    option.strip("_").replace("_", "-"),
                    getattr(arguments, option),
                    "has no meaning here: this study's points are its own",
                )
        return _run(name, resolve(arguments, os.environ, presets), points, search)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print(
            "interrupted before the first trial or after the last; records are as they were", file=sys.stderr
        )
        return EXIT_INTERRUPTED


def _run(name: str, options: SweepOptions, points: Points, search: SearchOf) -> int:
    execution = _execution(options)
    content, details = _content(options)
    memory = _check_memory(options, execution)
    if options.dry_run:
        study = _study(
            name,
            options,
            points,
            search,
            content,
            options.budget_seconds or options.preset.step_seconds * options.budget_steps,
        )
        done = (
            StudyStore(options.output, fingerprint(study), resume=options.resume).records
            if options.output
            else {}
        )
        print(
            plan_table(
                study,
                plan(study),
                options.preset,
                execution.concurrent,
                share=options.share,
                usd_per_gpu_hour=options.usd_per_gpu_hour,
            )
        )
        print(memory)
        if rows := departures(options.preset_name):
            print("\nwhere this preset is not what the paper prints:\n" + departures_table(rows))
        if done:
            print(
                f"{sum(record.ended for record in done.values())} of these have ended already and will not "
                "run again"
            )
        if options.budget_seconds is None and "time" in options.regimes:
            print(
                "the time budget shown is a guess: it is measured before the first trial, or give "
                "--budget-seconds"
            )
        return 0
    if options.address:
        check_address(options.address)
    if options.optuna_storage is not None:
        open_storage(options.optuna_storage)
    study = _study(name, options, points, search, content, _budget_seconds(options, execution.concurrent))
    output = options.output or output_folder(name)
    store = StudyStore(output, fingerprint(study), resume=options.resume)
    budgets = {budget.regime: budget.amount for budget in study.budgets}
    call = {
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "search_points": options.search_points,
        "sampler": options.sampler,
        "caps": {"overhead": options.max_overhead, "footprint": options.max_footprint},
        "execution": {
            "concurrent": execution.concurrent,
            "resources": execution.resources.as_dict(),
            "workers": execution.workers,
            "address": options.address,
        },
        **provenance(ROOT, STUDY_PACKAGES),
    }
    store.open({"name": name, "config": study.base.to_dict(), "budgets": budgets, **details}, call)
    return _execute(
        options, study, execution, store, Neighbours(store.folder, call) if options.reuse else None
    )


def _execute(
    options: SweepOptions,
    study: Study,
    execution: RunOptions,
    store: StudyStore,
    neighbours: Neighbours | None,
) -> int:
    """Runs the study.

    What is refused before its first trial leaves nothing behind, and no MLflow run is left open.
    """
    try:
        tracker = _tracker(options, study, store)
    except ConfigError:
        store.withdraw()
        raise
    try:
        return _conclude(
            store.folder, StudyRunner(study, execution, store, tracker, neighbours).run(), tracker
        )
    except ConfigError:
        tracker.finish([], [], interrupted=True)
        store.withdraw()
        raise
    except BaseException:
        tracker.finish([], [], interrupted=True)
        raise


def _execution(options: SweepOptions) -> RunOptions:
    resources = replace(options.preset.resources, accelerator=options.accelerator)
    if options.preset.base.execution.threads > resources.cpus:
        raise ConfigError(
            "threads",
            options.preset.base.execution.threads,
            f"must be at most the {resources.cpus} core(s) that a trial of this preset has",
        )
    room = cores() // (resources.cpus * options.workers)
    if options.address is None and resources.gpus:
        import torch

        room = min(room, torch.cuda.device_count() // (resources.gpus * options.workers))
        if room < 1 and not options.dry_run:
            raise ConfigError(
                "preset",
                options.preset.base.backbone.model,
                f"needs {resources.gpus} GPU(s) a trial and this machine has "
                f"{torch.cuda.device_count()}; give the cluster's --address, or look at the plan with "
                "--dry-run",
            )
    concurrent = options.concurrent or (1 if options.address else max(1, room))
    if not options.dry_run:
        check_concurrency(options.address, concurrent * options.workers, resources)
        if options.address and options.output is None:
            raise ConfigError(
                "output", None, "must be given with a cluster: a folder that every node can reach"
            )
    return RunOptions(
        concurrent=concurrent,
        resources=resources,
        address=options.address,
        may_grow=options.may_grow,
        share=options.share,
        workers=options.workers,
        optuna_storage=options.optuna_storage,
        verbose=options.verbose,
    )


def _check_memory(options: SweepOptions, execution: RunOptions) -> str:
    base, gpu = options.preset.base, execution.resources.gpus > 0
    shape = shape_of(base.backbone.model, model_folder(base.backbone.model))
    return check_memory(
        base,
        shape,
        gpu=gpu,
        concurrent=execution.concurrent,
        machine_bytes=None if options.address else machine_memory(),
    )


def _content(options: SweepOptions) -> tuple[dict[str, str], dict[str, Any]]:
    """Loads task, documents and model far enough to refuse what cannot be used.

    Their hashes, and what `study.json` says of them.
    """
    base = options.preset.base
    task, documents = load_task(base.task), load_documents(base.task)
    check_probes(base.evaluation.probes)
    check_model(base, task, ask_hub=not options.dry_run)
    content = content_hashes(
        task, documents, base, model_folder(base.backbone.model), ask_hub=not options.dry_run
    )
    sizes = {
        "train": len(task.train),
        "rows_without_answer": task.left_out,
        "evaluation": min(len(task.evaluation), base.evaluation.eval_examples),
        "retention_documents": min(len(documents), base.evaluation.retention_documents),
    }
    return content, {
        "seeds": list(options.seeds),
        "content": content,
        "task_metric": task.metric,
        "sizes": sizes,
    }


def _study(
    name: str,
    options: SweepOptions,
    points: Points,
    search: SearchOf,
    content: dict[str, str],
    seconds: float,
) -> Study:
    study = Study(
        name=name,
        base=options.preset.base,
        points=tuple(points(options.preset, options)),
        seeds=options.seeds,
        budgets=options.budgets(seconds),
        content=content,
        search=search(options.preset, options),
    )
    _check_trials(study, options)
    return study


def _check_trials(study: Study, options: SweepOptions) -> None:
    """Refuses trials that could not run as this call would run them, whatever the study's base allows."""
    shape, gpu = (
        shape_of(study.base.backbone.model, model_folder(study.base.backbone.model)),
        options.preset.resources.gpus > 0,
    )
    for trial in plan(study):
        config = trial.config
        if config.optimization.accumulation % options.workers:
            raise ConfigError(
                "workers-per-trial",
                options.workers,
                f"must divide the accumulation of every trial, and one has {config.optimization.accumulation}",
            )
        if options.workers > 1 and (config.audits.beside or not config.grit.accumulated_statistics):
            raise ConfigError(
                "workers-per-trial",
                options.workers,
                "must be 1 in this study: a trial of it is about one process",
            )
        if config.audits.beside:
            check_memory(
                config,
                shape,
                gpu=gpu,
                concurrent=1,
                machine_bytes=None if options.address else machine_memory(),
            )


def _budget_seconds(options: SweepOptions, concurrent: int) -> float:
    """The time budget: as asked for, as the resumed study had it, or measured here."""
    if options.budget_seconds is not None or "time" not in options.regimes:
        return options.budget_seconds or 1.0
    if options.resume and options.output is not None:
        known = read_study(options.output)["budgets"].get("time")
        if known is not None:
            return float(known)
    if options.address is not None:
        raise ConfigError(
            "budget-seconds",
            None,
            f"must be given: how long {options.budget_steps} steps of this take there is not known",
        )
    from ray_jobs.execution.calibrate import seconds_for

    print(
        f"measuring how long {options.budget_steps} first-order steps take here, {concurrent} at once, for "
        "the time budget ...",
        file=sys.stderr,
        flush=True,
    )
    seconds = seconds_for(options.preset.base, options.budget_steps, concurrent)
    print(f"time budget: {seconds:g} s (set --budget-seconds to choose it)", file=sys.stderr, flush=True)
    return seconds


def _tracker(options: SweepOptions, study: Study, store: StudyStore) -> Any:
    from ray_jobs.tracking.mlflow_tracker import MlflowTracker

    base, beside = study.base, options.tracking_uri is None
    uri = options.tracking_uri or f"sqlite:///{(store.folder / 'mlflow.db').absolute()}"
    params = {
        "model": base.backbone.model,
        "task": base.task.name,
        "method": base.method,
        "rank": base.adapter.rank,
        "learning_rate": base.optimization.learning_rate,
        "seeds": " ".join(map(str, study.seeds)),
        **{f"budget_{b.regime}": b.amount for b in study.budgets},
    }
    return MlflowTracker(
        uri,
        study.name,
        store.study_id,
        params=params,
        artifacts=store.folder / "mlartifacts" if beside else None,
    )


def _conclude(output: Path, outcome: StudyOutcome, tracker: Any) -> int:
    """Report, MLflow's last words, and what the terminal shows at the end."""
    from analysis.report import Report, rebuild

    if outcome.broken is not None:
        tracker.finish([], [], interrupted=True)
        print(
            f"error: {outcome.broken}; what was recorded before is whole: make room, then go on with "
            f"--output {output} --resume",
            file=sys.stderr,
        )
        return 1
    completed = any(record.status == "completed" for record in outcome.records)
    front: list[str] = []
    if completed:
        report = rebuild(output)  # under the caps of this call, which study.json holds
        front = report.front_trials if isinstance(report, Report) else []
        print(front_table(report.front) if isinstance(report, Report) else "\n" + report.terminal())
    artifacts = [
        path
        for name in (
            "report.html",
            "report.md",
            "pareto.csv",
            "recommendation.json",
            "study.json",
            "trials.jsonl",
            "figures",
            "tables",
        )
        if (path := output / name).exists()
    ]
    tracker.finish(front, artifacts, interrupted=outcome.interrupted)
    if tracker.failure:
        print(
            f"warning: MLflow lost contact: {tracker.failure}; --resume delivers what is missing",
            file=sys.stderr,
        )
    counts = Counter(record.status for record in outcome.records)
    print(
        f"\n{', '.join(f'{count} {status}' for status, count in counts.items())} in {outcome.seconds:.0f} s"
        + (f"; {outcome.reused} reused" if outcome.reused else "")
    )
    if completed:
        print(f"report:  xdg-open {output / 'report.html'}")
        if tracker.uri.startswith("http"):
            print(f"MLflow:  {tracker.uri}/{tracker.page()}")
        else:
            print(
                f"MLflow:  {Path(sys.executable).parent / 'mlflow'} ui --workers 1 --backend-store-uri "
                f"{tracker.uri}"
            )
            print(f"         then open http://127.0.0.1:5000/{tracker.page()}")
    if outcome.interrupted:
        print(f"interrupted: continue with the same command and --output {output} --resume", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0 if completed else 1
