"""What Tune runs for each trial of the warm engine, in a process of its own: little is imported here."""

from __future__ import annotations

from typing import Any

import ray
from ray import tune

from ray_jobs.execution.outcome import TrialFailedError


def tune_trial(config: dict[str, Any], *, board: str, namespace: str) -> None:
    """Waits for the outcome of the job that the searcher has put on the board, and reports its status."""
    actor: Any = ray.get_actor(board, namespace=namespace)
    status: Any = ray.get(actor.wait.remote(config["job_id"]))
    tune.report({"status": status, "done": True})
    if status == "failed":
        raise TrialFailedError(f"trial {config['job_id']} failed; see its record in trials.jsonl")
