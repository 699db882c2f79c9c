"""How many trials run at once, of what size, on which engine: what this machine or cluster allows."""

from __future__ import annotations

import sys
from dataclasses import replace

from grit.config.run_config import RunConfig
from grit.config.settings import Range
from grit.errors import ConfigError
from ray_jobs.design.plan import Study
from ray_jobs.design.resources import Costs, TrialResources
from ray_jobs.execution.cluster import check_concurrency, cores
from ray_jobs.execution.engines import EngineName, engine_for
from ray_jobs.execution.nodes.storage import StudyStorage
from ray_jobs.execution.runner import RunOptions
from ray_jobs.records.kept_adapters import Keep
from sweeps.common.study_options import ExecutionOptions


def run_options(
    base: RunConfig, resources: TrialResources, costs: Costs, execution: ExecutionOptions
) -> RunOptions:
    """How many trials at once, of what size.

    Raises:
        ConfigError: this machine, or the cluster, is not enough.
    """
    if base.execution.threads > resources.cpus:
        raise ConfigError(
            "threads",
            base.execution.threads,
            f"must be at most the {resources.cpus} core(s) that a trial of this preset has",
        )
    workers = execution.workers_per_trial
    room = cores() // (resources.cpus * workers)
    if execution.address is None and resources.gpus:
        places = _gpus_here(base, resources, execution) * resources.trials_per_gpu
        room = min(room, places // (resources.gpus * workers))
    concurrent = execution.max_concurrent or (1 if execution.address else max(1, room))
    if not (execution.dry_run or execution.save_study):
        check_concurrency(execution.address, concurrent * workers, resources)
        if execution.address and execution.output is None:
            raise ConfigError(
                "output", None, "must be given with a cluster: a folder that every node can reach"
            )
    return RunOptions(
        concurrent=concurrent,
        resources=resources,
        address=execution.address,
        may_grow=execution.may_grow,
        share=execution.share,
        workers=workers,
        engine=_engine(base, costs, execution),
        storage=_storage(execution),
        keep=_keep(execution),
        verbose=execution.verbose,
    )


#: Trials that may share a GPU: below what Ray's resolution tells apart.
_SHARING = Range(words="must be a whole number from 1 to 100", low=1, high=100, high_in=True, whole=True)


def held_by_trial(resources: TrialResources, execution: ExecutionOptions) -> TrialResources:
    """What a trial's worker holds, as this call asks for it.

    Raises:
        ConfigError: a GPU is to be shared by trials that cannot.
    """
    shared = execution.trials_per_gpu
    if shared is not None:
        _SHARING.check("trials-per-gpu", shared)
    held = replace(
        resources,
        accelerator=execution.accelerator or resources.accelerator,
        trials_per_gpu=shared or resources.trials_per_gpu,
    )
    per_gpu = held.trials_per_gpu
    if per_gpu > 1 and held.gpus != 1:
        allowed = f"is for trials that hold one GPU, and those of this preset hold {held.gpus or 'none'}"
        raise ConfigError("trials-per-gpu", per_gpu, allowed)
    if per_gpu > 1 and execution.workers_per_trial > 1:
        allowed = "must be 1 where several workers train one trial, which cannot share a GPU"
        raise ConfigError("trials-per-gpu", per_gpu, allowed)
    return held


def check_clock_is_not_shared(study: Study, resources: TrialResources) -> None:
    """Refuses trials that measure time beside others on their GPU.

    Raises:
        ConfigError: a trial has a time budget, or is there to be timed.
    """
    if resources.trials_per_gpu == 1:  # a plan may be long
        return
    for trial in study.trials:
        timed = trial.config.budget.regime == "time"
        if timed or trial.config.audits.beside:
            check_gpu_is_not_shared(
                resources, "a time budget" if timed else "the step times of methods that take turns"
            )


def check_gpu_is_not_shared(resources: TrialResources, clock: str) -> None:
    """Refuses to share a GPU whose time is measured.

    Args:
        resources: of a trial.
        clock: what is measured, in words.

    Raises:
        ConfigError: it is shared.
    """
    if resources.trials_per_gpu > 1:
        raise ConfigError(
            "trials-per-gpu",
            resources.trials_per_gpu,
            f"would disturb {clock}, which needs a GPU to itself (--regimes step plans no time budget)",
        )


def _keep(execution: ExecutionOptions) -> Keep:
    """Whose adapters stay.

    Raises:
        ConfigError: an adapter is to be registered that is not kept.
    """
    keep: Keep = execution.keep  # type: ignore[assignment]  # one of the choices
    if execution.register is not None and keep == "none":
        raise ConfigError("register", execution.register, "needs an adapter, and --keep none keeps none")
    return keep


def _engine(base: RunConfig, costs: Costs, execution: ExecutionOptions) -> EngineName:
    """Which engine runs the trials; said where nobody asked for it."""
    if execution.execution == "ray":
        return "ray"
    if execution.execution == "warm":
        return "warm"
    seconds = base.budget.amount if base.budget.regime == "time" else costs.step_seconds * base.budget.amount
    engine = engine_for(seconds + costs.other_seconds, on_cluster=execution.address is not None)
    if engine == "ray":
        minutes = (seconds + costs.other_seconds) / 60
        print(
            f"execution: ray, since a trial takes some {minutes:.0f} minutes (--execution overrules)",
            file=sys.stderr,
        )
    return engine


def _storage(execution: ExecutionOptions) -> str | None:
    """The root of Ray's own engine.

    Raises:
        ConfigError: it is not for this engine, or cannot be opened.
    """
    if execution.storage is None:
        return None
    if execution.execution == "warm":
        raise ConfigError("storage", execution.storage, "is for --execution ray")
    if not (execution.dry_run or execution.save_study):
        StudyStorage(execution.storage)  # which may ask a cloud
    return execution.storage


def _gpus_here(base: RunConfig, resources: TrialResources, execution: ExecutionOptions) -> int:
    import torch

    count = torch.cuda.device_count()
    enough = count >= resources.gpus * execution.workers_per_trial
    if not enough and not (execution.dry_run or execution.save_study):
        raise ConfigError(
            "preset",
            base.backbone.model,
            f"needs {resources.gpus} GPU(s) a trial and this machine has {count}; give the cluster's "
            "--address, or look at the plan with --dry-run",
        )
    return count
