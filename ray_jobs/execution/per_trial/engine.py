"""Ray's own engine, as the study's runner sees it: jobs go in, outcomes come out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ray_jobs.execution.nodes.admission import expected_at
from ray_jobs.execution.nodes.storage import StudyStorage
from ray_jobs.execution.nodes.timed_device import TimedDevice
from ray_jobs.execution.outcome import Collected
from ray_jobs.execution.per_trial.gpu_hold import held_gpu
from ray_jobs.execution.per_trial.ledger import TrialLedger
from ray_jobs.execution.per_trial.stored_files import attempt_folder, counted_adapter
from ray_jobs.execution.per_trial.train_job import OUTCOMES, EngineSettings
from ray_jobs.execution.per_trial.trial import train_trial
from ray_jobs.schedule.job import Job

#: What only the head has, so that drivers of trials do not stand on a node that may be taken away.
HEAD = "node:__internal_head__"


class PerTrialEngine:
    """One Ray Train run per trial.

    Args:
        name: of the ledger, unlike any other on the cluster.
        resources: what one worker holds.
        workers: processes that train one trial together.
        may_grow: whether more nodes may come.
        storage: the study's root, which every node can reach: a folder, or a URI.
        folder: the study's own, on this machine.
        content: hashes of task, documents and model, as the driver has them.
        keeps: whether completed trials leave their adapters in the storage.
        timed_device: of time-matched trials; None where there are none.
    """

    def __init__(
        self,
        *,
        name: str,
        resources: dict[str, float],
        workers: int,
        may_grow: bool,
        storage: str,
        folder: Path,
        content: Mapping[str, str],
        keeps: bool = False,
        timed_device: TimedDevice | None = None,
    ) -> None:
        self._storage, self._folder = StudyStorage(storage), folder
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        remote: Any = ray.remote
        self.board: Any = (
            remote(TrialLedger)
            .options(name=f"ledger-{name}", num_cpus=0, max_concurrency=1000, scheduling_strategy=here)
            .remote(timed_device, held_gpu)
        )
        self.settings = EngineSettings(
            ledger=f"ledger-{name}",
            namespace=ray.get_runtime_context().namespace,
            storage=storage,
            expected=expected_at(self._storage, resources, content),
            resources=resources,
            workers=workers,
            may_grow=may_grow,
            keeps=keeps,
        )

    def trainable(self) -> Any:
        """What Tune runs, on the head: a sliver of what only the head has, and no CPU."""
        trainable = tune.with_parameters(train_trial, settings=self.settings)
        return tune.with_resources(trainable, tune.PlacementGroupFactory([{HEAD: 1e-4}]))

    def offer(self, job: Job) -> None:
        """Takes a job in; one that an earlier driver's worker has finished is not run again."""
        ray.get(self.board.offer.remote(job))
        for name in self._storage.names(f"trials/{job.job_id}"):
            if name.endswith("/outcome.json"):
                content = self._storage.read(name)
                assert content is not None
                outcome = OUTCOMES.validate_json(content)
                ray.get(self.board.adopt.remote(job.job_id, name.split("/")[-2], outcome))

    def collect(self, job_id: str) -> Collected | None:
        """Takes an ended job's outcome, and its tables into the study's folder; None when it has none.

        Raises:
            OSError: the tables cannot be brought here.
        """
        taken = ray.get(self.board.collect.remote(job_id))
        if taken is None:
            return None
        collected, token = taken
        prefix = f"{attempt_folder(job_id, token)}/tables/"
        for name in self._storage.names(prefix.rstrip("/")):
            self._storage.download(name, self._folder / name.removeprefix(prefix))
        if self.settings.keeps and collected.outcome.status == "completed":
            self._storage.write(counted_adapter(job_id), token.encode())
        return collected  # type: ignore[no-any-return]  # as the ledger made it

    def close(self) -> None:
        """Ends the ledger; workers that are still there end with their trials' drivers."""
        ray.kill(self.board)
