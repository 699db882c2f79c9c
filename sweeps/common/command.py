"""From what was asked for to a finished study.

Checks, the plan, its execution, the report, and what the terminal says.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from grit.adapters.check_model import check_earlier_tasks, check_model
from grit.backbone import resolve as model_folder
from grit.cli.pasted import pasted
from grit.cli.phases import passing
from grit.config.extensions import load_extensions
from grit.config.run_config import RunConfig
from grit.errors import ConfigError
from grit.evaluation.probes import check_probes
from grit.io.local_disk import check_sqlite
from grit.io.provenance import provenance
from grit.tasks.loading import content_hashes, load_documents, load_task, source_documents
from ray_jobs.design.forecast import check_memory, machine_memory, shape_of
from ray_jobs.design.plan import Study
from ray_jobs.design.resources import Costs, TrialResources
from ray_jobs.design.study_spec import SPEC_FILE, StudySpec
from ray_jobs.design.study_store import store_of
from ray_jobs.execution.cluster import ROOT, check_address
from ray_jobs.execution.nodes.timed_device import device_of
from ray_jobs.execution.runner import RunOptions, StudyRunner, output_folder
from ray_jobs.records.reuse import Neighbours
from ray_jobs.records.store import STUDY_PACKAGES, StudyStore
from ray_jobs.records.study_file import STUDY_FILE, Call, Caps, Execution, StudyFile, read_study
from ray_jobs.schedule.scheduler import Decisions
from ray_jobs.schedule.search import open_storage
from ray_jobs.tracking.marks import StudyMarks
from ray_jobs.tracking.tracker import Tracker
from sweeps.common.conclusion import address_lines, conclude
from sweeps.common.dry_run import neighbours_of, show_plan
from sweeps.common.local_costs import time_budget
from sweeps.common.plan_forecast import PlanForecast, unheard
from sweeps.common.request import StudyRequest
from sweeps.common.run_options import check_clock_is_not_shared, held_by_trial, run_options
from sweeps.common.study_options import ExecutionOptions, SearchOptions
from sweeps.common.uri_schemes import check_scheme

#: Makes the study of a request, given the hashes of its content and the time budget in seconds.
MakeStudy = Callable[[StudyRequest, dict[str, str], float], Study]


@dataclass(frozen=True, kw_only=True)
class Content:
    """What the names in a configuration stand for: hashes, the task's metric, sizes, and general text."""

    hashes: dict[str, str]
    metric: str
    sizes: dict[str, int]
    documents: list[str]


def run_study(
    preset_name: str,
    execution: ExecutionOptions,
    search: SearchOptions,
    *,
    request: StudyRequest | None = None,
    make: MakeStudy | None = None,
    spec: StudySpec | None = None,
    planned: Callable[[PlanForecast], None] = unheard,
) -> int:
    """Runs a study: of a request, which `make` turns into one, or of a file (`spec`).

    `planned` hears what a dry run predicts.

    Raises:
        ConfigError: something cannot be used; nothing was launched.
    """
    check_scheme("tracking-uri", execution.tracking_uri)
    check_scheme("optuna-storage", search.optuna_storage)
    base, resources, costs = _basis(request, spec)
    resources = held_by_trial(resources, execution)
    with passing("checking the task, the model and the plan"):
        options = run_options(base, resources, costs, execution)
        earlier = _earlier(execution)
        content = content_of(base, ask_hub=not execution.dry_run, earlier=earlier)
        memory = _memory_line(base, resources, options)
    launches = not (execution.dry_run or execution.save_study)
    check_address(execution.address if launches else None)
    if spec is not None:
        study = spec.study(content.hashes)
        options = replace(options, device=None if earlier is None else earlier.device)
    else:
        assert request is not None and make is not None
        budget = time_budget(request, options, earlier, content.hashes, launches=launches)
        options = replace(options, device=budget.device)
        study = make(request, content.hashes, budget.seconds)
    _check_trials(study, options, content.documents)
    spec = spec or StudySpec.of(study, preset=preset_name, resources=resources, costs=costs)
    if execution.save_study is not None:
        spec.write(execution.save_study)
        print(f"{execution.save_study}: {len(study.trials)} designed trials; run it with --study")
        return 0
    if execution.dry_run:
        planned(
            show_plan(
                study,
                spec,
                options,
                execution,
                _call(options, study, search),
                memory=memory,
                task_metric=content.metric,
                unmeasured=request is not None and request.measures_its_budget,
                provisional=earlier is None and not Path(model_folder(base.backbone.model)).is_dir(),
            )
        )
        return 0
    _check_search(study, search, execution.output or output_folder(study.name))
    decides = request is not None and request.decides
    return _execute(study, spec, content, options, execution, search, decides=decides)


def _check_search(study: Study, search: SearchOptions, output: Path) -> None:
    """Refuses a storage that the search could not use."""
    if search.optuna_storage is not None:
        open_storage(search.optuna_storage)
    elif study.search is not None:
        own = f"sqlite:///{output.absolute() / 'optuna.db'}"
        check_sqlite("optuna-storage", own, "give --optuna-storage journal:PATH, or a server's URL")


def _basis(request: StudyRequest | None, spec: StudySpec | None) -> tuple[RunConfig, TrialResources, Costs]:
    if spec is not None:
        return spec.base, spec.resources, spec.costs
    assert request is not None
    return request.base, request.preset.resources, request.preset.costs


def _memory_line(base: RunConfig, resources: TrialResources, options: RunOptions) -> str:
    """What a trial is predicted to hold, in words.

    Raises:
        ConfigError: it cannot fit.
    """
    return check_memory(
        base,
        shape_of(base.backbone.model, model_folder(base.backbone.model)),
        gpu=resources.gpus > 0,
        concurrent=options.concurrent,
        machine_bytes=None if options.address else machine_memory(),
        per_gpu=resources.trials_per_gpu,
    )


def _earlier(execution: ExecutionOptions) -> StudyFile | None:
    """The study that the output folder holds already, whichever it is."""
    folder = execution.output
    return read_study(folder) if folder is not None and (folder / STUDY_FILE).exists() else None


def content_of(base: RunConfig, *, ask_hub: bool, earlier: StudyFile | None = None) -> Content:
    """Loads task, documents and model far enough to refuse what cannot be used.

    Without `ask_hub` the commit of a model on the hub is the one that `earlier` has recorded, if any.
    """
    task, documents = load_task(base.task), load_documents(base.task)
    check_probes(base.evaluation.probes)
    check_model(base, task, ask_hub=ask_hub)
    check_earlier_tasks(base, ask_hub=ask_hub)
    folder = model_folder(base.backbone.model)
    sizes = {
        "train": len(task.train),
        "rows_without_answer": task.left_out,
        "evaluation": min(len(task.evaluation), base.evaluation.eval_examples),
        "retention_documents": min(len(documents), base.evaluation.retention_documents),
    }
    hashes = content_hashes(task, documents, base, folder, ask_hub=ask_hub)
    if not ask_hub and earlier is not None and not Path(folder).is_dir():
        hashes["model"] = earlier.content.get("model", hashes["model"])
    return Content(hashes=hashes, metric=task.metric, sizes=sizes, documents=documents)


def _check_trials(study: Study, options: RunOptions, documents: list[str]) -> None:
    """Refuses trials that could not run as this call would run them, whatever the study's base allows."""
    check_clock_is_not_shared(study, options.resources)
    model = study.base.backbone.model
    shape = shape_of(model, model_folder(model))
    for trial in study.trials:
        config, beside = trial.config, trial.config.audits.beside
        if config.reads_source:
            source_documents(config, documents)
        accumulation = config.optimization.accumulation
        if accumulation % options.workers:
            raise ConfigError(
                "workers-per-trial",
                options.workers,
                f"must divide the accumulation of every trial, and one has {accumulation}",
            )
        alone = beside or not config.grit.accumulated_statistics or config.spec.one_process
        if options.workers > 1 and alone:
            raise ConfigError(
                "workers-per-trial",
                options.workers,
                "must be 1 in this study: a trial of it is about one process",
            )
        if beside:
            machine = None if options.address else machine_memory()
            gpu = options.resources.gpus > 0
            check_memory(config, shape, gpu=gpu, concurrent=1, machine_bytes=machine)


def _call(options: RunOptions, study: Study, search: SearchOptions) -> Call:
    """This call, as `study.json` has it."""
    return Call(
        created=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        keep=options.keep,
        extensions=load_extensions(),
        search_points=0 if study.search is None else study.search.points,
        sampler=None if study.search is None else study.search.sampler,
        caps=Caps(overhead=search.max_overhead, footprint=search.max_footprint),
        execution=Execution(
            concurrent=options.concurrent,
            resources=options.resources.as_dict(),
            workers=options.workers,
            address=options.address,
        ),
        **provenance(ROOT, STUDY_PACKAGES),
    )


def _execute(
    study: Study,
    spec: StudySpec,
    content: Content,
    options: RunOptions,
    execution: ExecutionOptions,
    search: SearchOptions,
    *,
    decides: bool,
) -> int:
    """Runs the study.

    What is refused before its first trial leaves nothing behind, and no MLflow run is left open.
    """
    store = _store(study, execution)
    options = replace(options, optuna_storage=search.optuna_storage, device=_device(options, store))
    call = _call(options, study, search)
    made = StudyFile(
        study_id=store.study_id,
        fingerprint=study.fingerprint(),
        name=study.name,
        config=study.base,
        budgets={budget.regime: budget.amount for budget in study.budgets},
        seeds=study.seeds,
        content=content.hashes,
        task_metric=content.metric,
        sizes=content.sizes,
        sequential=study.sequential,
        device=options.device,
        calls=(call,),
    )
    store.open(made)
    try:
        spec.write(store.folder / SPEC_FILE)
        uri = execution.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")  # as MLflow's own tools
        with passing("opening MLflow's store"):
            tracker = _tracker(made, store, uri)
    except ConfigError:
        store.withdraw()
        raise
    _say_where(store.folder, tracker, searches=_searches(study) and search.optuna_storage is None)
    try:
        neighbours = neighbours_of(study, store.folder, call, options) if execution.reuse else None
        decisions = _decisions(study, store.folder, options)
        runner = StudyRunner(
            study, options, store, tracker=tracker, neighbours=neighbours, decisions=decisions
        )
        _say_what_is_reused(runner.reused, neighbours)
        outcome = runner.run()
        return conclude(store.folder, outcome, runner, tracker, execution, decides=decides)
    except ConfigError:
        tracker.finish(StudyMarks(), [], interrupted=True)
        store.withdraw()
        raise
    except BaseException:
        tracker.finish(StudyMarks(), [], interrupted=True)
        raise


def _store(study: Study, execution: ExecutionOptions) -> StudyStore:
    """The study's own folder; says where it continues one."""
    store = store_of(study, execution.output or output_folder(study.name), resume=execution.resume)
    if store.continues:
        done = sum(record.ended for record in store.records.values())
        print(f"continuing the study in {store.folder}: {done} trials have ended", file=sys.stderr)
    return store


def _say_what_is_reused(count: int, neighbours: Neighbours | None) -> None:
    """How many trials are taken over, and why others are not."""
    if count:
        print(f"reused: {count} trial(s) that studies beside this one have run", file=sys.stderr)
    for sentence in [] if neighbours is None else neighbours.declined():
        print(sentence, file=sys.stderr)


def _device(options: RunOptions, store: StudyStore) -> str | None:
    """What time budgets are for: as measured, or what the folder's own trials ran on."""
    return options.device or device_of(store.records.values())


def _searches(study: Study) -> bool:
    return study.search is not None and study.search.points > 0


def _say_where(folder: Path, tracker: Tracker, *, searches: bool) -> None:
    """Where the study can be looked at while it runs."""
    status = pasted(sys.executable, "-m", "sweeps.status", folder, "--watch")
    print(f"watch:   {status}\n{address_lines(tracker)}", file=sys.stderr)
    if searches:
        shown = pasted(Path(sys.executable).parent / "optuna-dashboard", f"sqlite:///{folder / 'optuna.db'}")
        here = find_spec("optuna_dashboard") is not None
        install = (
            "" if here else f"  # first: {pasted(sys.executable, '-m', 'pip', 'install', 'optuna-dashboard')}"
        )
        print(f"search:  {shown}{install}", file=sys.stderr)


def _decisions(study: Study, folder: Path, options: RunOptions) -> Decisions:
    """What the evidence so far decides of the rest: seeds of a design that grows, what a search holds."""
    from analysis.studies.sensitivity.growth import Growth, SettledKnobs

    held = SettledKnobs(folder=folder)
    if study.sequential is None:
        return Decisions(held=held)
    gpus = options.resources.gpu_share * options.workers
    growth = Growth(folder=folder, design=study.sequential, gpus=gpus, began=time.time())
    return Decisions(growth=growth, held=held)


def _tracker(made: StudyFile, store: StudyStore, uri: str | None) -> Tracker:
    from analysis.studies.sensitivity.growth import LiveMarks
    from ray_jobs.tracking.mlflow_tracker import MlflowTracker

    return MlflowTracker(
        uri or f"sqlite:///{(store.folder / 'mlflow.db').absolute()}",
        made,
        artifacts=store.folder / "mlartifacts" if uri is None else None,
        marker=LiveMarks(folder=store.folder),
    )
