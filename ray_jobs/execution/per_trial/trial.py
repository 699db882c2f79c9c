"""What Tune runs for one trial: a Ray Train run, tried again as the kind of its faults allows."""

from __future__ import annotations

import time
from typing import Any

import ray
from ray import tune
from ray.train.v2.api.config import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.train.v2.api.exceptions import TrainingFailedError

from ray_jobs.execution.cluster import room_on_nodes
from ray_jobs.execution.outcome import TrialFailedError
from ray_jobs.execution.per_trial.blame import Place
from ray_jobs.execution.per_trial.ledger import Retry
from ray_jobs.execution.per_trial.stored_files import train_run
from ray_jobs.execution.per_trial.termination import HeedTermination
from ray_jobs.execution.per_trial.train_job import EngineSettings, describe_failure, train_job

#: How often Ray may wait in vain for a worker group to start, two minutes each: nodes boot slowly, or none is
#: free.
MAX_STARTS = 300
NODE_LABEL = "ray.io/node-id"
#: Within which a node that has gone is no longer among those that are alive.
NODE_DEATH_SECONDS = 10.0


def train_trial(config: dict[str, Any], *, settings: EngineSettings) -> None:
    """Runs Ray Train until the job has an outcome, and reports its status.

    Raises:
        TrialFailedError: it has failed for good; the record holds the reason.
    """
    ledger, job_id = settings.ledger_actor(), config["job_id"]
    while (closing := ray.get(ledger.closing.remote(job_id))) is None:
        aside, failed_on, short_of_a_gpu = ray.get(ledger.avoided.remote(job_id))
        on_nodes = room_on_nodes(settings.resources, short_of_a_gpu)
        left = sum(count for node, count in on_nodes.items() if node not in aside)
        if (aside or short_of_a_gpu) and left < settings.workers and not settings.may_grow:
            ray.get(ledger.no_node.remote(job_id))
            continue
        ray.get(ledger.opening.remote(job_id))
        error, whole = _fit(job_id, settings, avoided(on_nodes, aside, failed_on, settings.workers))
        gone = a_node_is_gone(ray.get(ledger.places.remote(job_id)))
        verdict: Retry = ray.get(ledger.ended_early.remote(job_id, error, whole, node_is_gone=gone))
        if verdict.again:
            time.sleep(verdict.wait_seconds)
    status, _ = closing
    tune.report({"status": status, "done": True})
    if status == "failed":
        raise TrialFailedError(f"trial {job_id} failed; see its record in trials.jsonl")


def a_node_is_gone(places: list[Place]) -> bool:
    """Whether a node of workers that ended without a word has gone with them, which shows after seconds."""
    if not places:
        return False
    deadline = time.monotonic() + NODE_DEATH_SECONDS
    while time.monotonic() < deadline:
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        if any(place.node_id not in alive for place in places):
            return True
        time.sleep(0.5)
    return False


def avoided(on_nodes: dict[str, int], aside: set[str], failed_on: set[str], workers: int) -> list[str]:
    """Nodes that a trial is not placed on: where the others have no room, it goes where it has failed before.

    A node that was put aside gets none: where more may come, the trial waits for them.
    """
    others = sum(count for node, count in on_nodes.items() if node not in {*aside, *failed_on})
    return sorted({*aside, *(failed_on if others >= workers else ())})


def _fit(job_id: str, settings: EngineSettings, avoided: list[str]) -> tuple[str, str]:
    """One Ray Train run, which goes on from the checkpoint of an earlier one; what ended it, if it failed.

    Ray itself starts it again after a preemption, without end, and waits for nodes that boot.
    """
    trainer = trainer_class(settings.workers)(
        train_job,
        train_loop_config={"job_id": job_id, "settings": settings},
        scaling_config=ScalingConfig(
            num_workers=settings.workers,
            use_gpu="GPU" in settings.resources,
            resources_per_worker=settings.resources,
            label_selector={NODE_LABEL: f"!in({','.join(avoided)})"} if avoided else None,
        ),
        run_config=RunConfig(
            name=train_run(job_id),
            storage_path=settings.storage,
            failure_config=FailureConfig(
                max_failures=0, controller_failure_limit=MAX_STARTS, max_preemption_failures=-1
            ),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
            callbacks=[HeedTermination()],  # type: ignore[list-item]  # Ray takes its own kind as well
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        return describe_failure(error)
    return "its worker ended without an outcome", ""


def trainer_class(workers: int) -> Any:
    """One worker needs no process group: a broken GPU is then found by admission, not by NCCL."""
    if workers == 1:
        return DataParallelTrainer
    from ray.train.torch import TorchTrainer

    return TorchTrainer
