"""Which engine executes a study: warm slots of ours on one machine, or Ray's own on a cluster.

Our slots save the 10 to 20 seconds that starting a Ray Train run costs, which short trials feel. Ray's engine
queues, places, restarts and releases; hours-long trials do not feel its start.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from grit.config.run_config import RunConfig
from grit.runtime.checkpoint_files import CHECKPOINT_FILE
from ray_jobs.design.resources import TrialResources
from ray_jobs.execution.nodes.timed_device import TimedDevice
from ray_jobs.execution.outcome import Collected
from ray_jobs.records.kept_adapters import forget_adapters
from ray_jobs.schedule.job import Job

EngineName = Literal["warm", "ray"]
#: From this many predicted seconds of a trial on, starting a Ray Train run for it costs less than 3%.
LONG_TRIAL_SECONDS = 600.0


def engine_for(trial_seconds: float, *, on_cluster: bool) -> EngineName:
    """The engine that suits trials of a predicted length."""
    return "ray" if on_cluster and trial_seconds >= LONG_TRIAL_SECONDS else "warm"


class JobFiles(Protocol):
    """What jobs leave for each other."""

    def has_trunk(self, trunk_id: str) -> bool:
        """Whether a trunk's checkpoint is there."""

    def forget(self, job_id: str) -> None:
        """Removes what a trial that is on record, or a trunk that is spent, would have gone on from."""

    def keep(self, trial_ids: Collection[str]) -> None:
        """Brings the adapters of these trials into the study's folder, and removes all others."""


class FolderFiles:
    """In the study's own folder, which every node can reach."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._checkpoints = folder, folder / "checkpoints"

    def has_trunk(self, trunk_id: str) -> bool:
        """Whether a trunk's checkpoint is there."""
        return (self._checkpoints / trunk_id / CHECKPOINT_FILE).exists()

    def forget(self, job_id: str) -> None:
        """Removes a job's folder."""
        shutil.rmtree(self._checkpoints / job_id, ignore_errors=True)

    def keep(self, trial_ids: Collection[str]) -> None:
        """Removes all other adapters: these are there."""
        forget_adapters(self._folder, but=trial_ids)


class Engine(Protocol):
    """Executes jobs.

    Attributes:
        board: the actor that knows of running jobs.
    """

    board: Any

    def trainable(self) -> Any:
        """What Tune runs for each job."""

    def offer(self, job: Job) -> None:
        """Takes a job in."""

    def collect(self, job_id: str) -> Collected | None:
        """Takes what is known of a job that has ended; None when it has no outcome."""

    def close(self) -> None:
        """Lets everything end that it has started."""


def job_files(engine: EngineName, folder: Path, storage: str) -> JobFiles:
    """What an engine's jobs leave for each other, and where."""
    if engine == "warm":
        return FolderFiles(folder)
    from ray_jobs.execution.per_trial.stored_files import StoredFiles

    return StoredFiles(storage, folder)


def start_engine(
    engine: EngineName,
    *,
    name: str,
    slots: int,
    resources: TrialResources,
    workers: int,
    may_grow: bool,
    folder: Path,
    storage: str,
    content: Mapping[str, str],
    keeps: bool = False,
    examined: RunConfig | None = None,
    timed_device: TimedDevice | None = None,
) -> Engine:
    """Starts an engine on the connected Ray.

    Args:
        engine: which.
        name: of the execution, unlike any other on the cluster.
        slots: trials at once, of the warm engine.
        resources: what one worker holds.
        workers: processes that train one trial together.
        may_grow: whether more nodes may come.
        folder: the study's own.
        storage: the root of Ray's own engine, a path or a URI.
        content: hashes of task, documents and model.
        keeps: whether completed trials leave their adapters.
        examined: the study's configuration, where warm workers are examined before they get work (Ray's own
            engine always does): on machines other than this one.
        timed_device: of time-matched trials; None where there are none.
    """
    if engine == "warm":
        from ray_jobs.execution.warm.slots import SlotPool

        return SlotPool(
            name=name,
            slots=slots,
            resources=resources.as_dict(),
            workers=workers,
            folder=folder,
            content=content,
            keeps=keeps,
            examined=examined,
            timed_device=timed_device,
        )
    from ray_jobs.execution.per_trial.engine import PerTrialEngine

    return PerTrialEngine(
        name=name,
        resources=resources.as_dict(),
        workers=workers,
        may_grow=may_grow,
        storage=storage,
        folder=folder,
        content=content,
        keeps=keeps,
        timed_device=timed_device,
    )
