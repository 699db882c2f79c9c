"""From a command line to a finished study: what every script in this folder runs."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from grit.backbone import resolve as model_folder
from grit.errors import ConfigError
from grit.tasks.registry import content_hashes, load_documents, load_task
from ray_jobs.cluster import ROOT, check_address, check_concurrency, cores
from ray_jobs.presets import Preset
from ray_jobs.records import read_study
from ray_jobs.runner import RunOptions, StudyOutcome, StudyRunner, output_folder
from ray_jobs.store import StudyStore, provenance
from ray_jobs.study import Point, Search, Study, fingerprint, plan
from sweeps.options import SweepOptions, parser, resolve
from sweeps.tables import front_table, plan_table

EXIT_BAD_INPUT, EXIT_INTERRUPTED = 2, 130

Points = Callable[[Preset], list[Point]]
SearchOf = Callable[[Preset, SweepOptions], Search | None]


def main(name: str, description: str, points: Points, search: SearchOf, argv: Sequence[str] | None = None) -> int:
    """Runs one study script; returns its exit code: 0 done, 2 bad input (nothing was launched), 130 interrupted, 1 no trial completed."""
    arguments = parser(description).parse_args(argv)
    try:
        return _run(name, resolve(arguments, os.environ), points, search)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT


def _run(name: str, options: SweepOptions, points: Points, search: SearchOf) -> int:
    execution = _execution(options)
    study, details = _study(name, options, points, search)
    if options.dry_run:
        print(plan_table(study, plan(study), options.preset, execution.concurrent))
        return 0
    output = options.output or output_folder(name)
    store = StudyStore(output, fingerprint(study), resume=options.resume)
    if options.address:
        check_address(options.address)
    store.open({"name": name, "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "resume": options.resume, **details,
                "execution": {"concurrent": execution.concurrent, "resources": execution.resources.as_dict(), "address": options.address},
                **provenance(ROOT)})
    tracker = _tracker(options, study, output)
    outcome = StudyRunner(study, execution, store, tracker).run()
    return _conclude(output, outcome, tracker)


def _execution(options: SweepOptions) -> RunOptions:
    resources = options.preset.resources
    concurrent = options.concurrent or (1 if options.address else max(1, cores() // resources.cpus))
    if options.address is None and resources.gpus:
        import torch

        if torch.cuda.device_count() < concurrent * resources.gpus and not options.dry_run:
            raise ConfigError("preset", options.preset.base.model,
                              f"needs {resources.gpus} GPU(s) a trial and this machine has {torch.cuda.device_count()}; "
                              "give the cluster's --address, or look at the plan with --dry-run")
    if not options.dry_run:
        check_concurrency(options.address, concurrent, resources)
    return RunOptions(concurrent=concurrent, resources=resources, address=options.address, verbose=options.verbose)


def _study(name: str, options: SweepOptions, points: Points, search: SearchOf) -> tuple[Study, dict[str, Any]]:
    base = options.preset.base
    task, documents = load_task(base.task), load_documents(base.task)
    _check_model(base.model)
    content = content_hashes(task, documents, model_folder(base.model))
    seconds = _budget_seconds(options, base.task.name)
    study = Study(name=name, base=base, points=tuple(points(options.preset)), seeds=options.seeds, budgets=options.budgets(seconds),
                  content=content, search=search(options.preset, options))
    details = {
        "config": base.to_dict(), "seeds": list(options.seeds), "budgets": {b.regime: b.amount for b in study.budgets}, "content": content,
        "task_metric": task.metric, "search_points": options.search_points, "sampler": options.sampler,
        "sizes": {"train": len(task.train), "evaluation": min(len(task.evaluation), base.eval_examples),
                  "retention_documents": min(len(documents), base.retention_documents)}}
    return study, details


def _check_model(model: str) -> None:
    """Refuses a folder that is no model. A hub id can only be checked by loading it."""
    folder = Path(model_folder(model))
    looks_local = folder.exists() or model.startswith((".", "/", "~"))
    if looks_local and not (folder / "config.json").is_file():
        raise ConfigError("model", model, "is not a model folder: there is no config.json in it")
    if looks_local and not any(folder.glob("*.safetensors")):
        raise ConfigError("model", model, "holds no *.safetensors weights")


def _budget_seconds(options: SweepOptions, task: str) -> float:
    """The time budget: as asked for, as the resumed study had it, or measured here."""
    if options.budget_seconds is not None or "time" not in options.regimes:
        return options.budget_seconds or 1.0
    if options.resume and options.output is not None and (options.output / "study.json").exists():
        return float(read_study(options.output)["budgets"]["time"])
    if options.address is not None:
        raise ConfigError("budget-seconds", None, f"must be given: how long {options.budget_steps} steps of {task!r} take there is not known")
    from ray_jobs.calibrate import seconds_for

    print(f"measuring how long {options.budget_steps} first-order steps take here, for the time budget ...", file=sys.stderr, flush=True)
    seconds = seconds_for(options.preset.base, options.budget_steps)
    print(f"time budget: {seconds:g} s (set --budget-seconds to choose it)", file=sys.stderr, flush=True)
    return seconds


def _tracker(options: SweepOptions, study: Study, output: Path) -> Any:
    from ray_jobs.tracking import MlflowTracker

    uri = options.tracking_uri or f"sqlite:///{(output / 'mlflow.db').absolute()}"
    base = study.base
    params = {"model": base.model, "task": base.task.name, "method": base.method, "rank": base.rank, "learning_rate": base.learning_rate,
              "seeds": " ".join(map(str, study.seeds)), **{f"budget_{b.regime}": b.amount for b in study.budgets}}
    return MlflowTracker(uri, study.name, fingerprint(study), params=params)


def _conclude(output: Path, outcome: StudyOutcome, tracker: Any) -> int:
    """Report, MLflow's last words, and what the terminal shows at the end."""
    from analysis.report import build_report

    completed = any(record.status == "completed" for record in outcome.records)
    front: list[str] = []
    if completed:
        report = build_report(output)
        front = report.front_trials
        print(front_table(report.front))
    artifacts = [path for name in ("report.html", "report.md", "pareto.csv", "recommendation.json", "study.json", "trials.jsonl", "figures")
                 if (path := output / name).exists()]
    tracker.finish(front, artifacts, interrupted=outcome.interrupted)
    if tracker.failure:
        print(f"warning: MLflow lost contact: {tracker.failure}; --resume delivers what is missing", file=sys.stderr)
    counts = Counter(record.status for record in outcome.records)
    print(f"\n{', '.join(f'{count} {status}' for status, count in counts.items())} in {outcome.seconds:.0f} s"
          + (f"; {outcome.reused} reused" if outcome.reused else ""))
    if completed:
        print(f"report:  xdg-open {output / 'report.html'}")
        print(f"MLflow:  {Path(sys.executable).parent / 'mlflow'} ui --workers 1 --backend-store-uri {tracker.uri}")
        print(f"         then open http://127.0.0.1:5000/#/experiments/{tracker.experiment_id}/runs?compareRunsMode=CHART")
    if outcome.interrupted:
        print(f"interrupted: continue with the same command and --output {output} --resume", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0 if completed else 1
