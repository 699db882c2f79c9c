"""Between Ray Tune and the scheduler: one Tune trial is one training run, executed by a warm slot."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.search import Searcher

from ray_jobs.schedule.scheduler import StudyScheduler


class TrialFailedError(RuntimeError):
    """A trial's worker raised; the record holds the reason."""


def tune_trial(config: dict[str, Any], *, board: str, namespace: str) -> None:
    """What Tune runs: leaves the spec on the board, waits for the outcome, and reports its status."""
    actor: Any = ray.get_actor(board, namespace=namespace)
    outcome: Any = ray.get(actor.run.remote(config["job_id"], json.loads(config["job"])))
    tune.report({"status": outcome["status"], "done": True})
    if outcome["status"] == "failed":
        raise TrialFailedError(f"trial {config['job_id']} failed; see its record in trials.jsonl")


class StudySearcher(Searcher):
    """Feeds Tune from a `StudyScheduler`, and hands every outcome to `ended`.

    Tune keeps no truth of ours: what has run is in `trials.jsonl`, from which a resumed study starts again.

    Attributes:
        stopping: set to start nothing more and to let the study end.
    """

    def __init__(self, scheduler: StudyScheduler, ended: Callable[[str], None]) -> None:
        super().__init__()
        self._scheduler, self._ended, self.stopping = scheduler, ended, False
        self._trials: dict[str, str] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its searcher into its own snapshot, which nobody reads here.

        Leave the live parts out.
        """
        return {
            key: value
            for key, value in self.__dict__.items()
            if key not in ("_scheduler", "_ended", "_trials")
        }

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The next trial's id and configuration; None while it depends on running ones."""
        job = None if self.stopping else self._scheduler.next()
        if job is None:
            ended = self.stopping or self._scheduler.finished
            return Searcher.FINISHED if ended else None  # type: ignore[return-value]  # a string, by Tune's own contract
        self._trials[trial_id] = job.job_id
        work = {
            "config": job.config.to_dict(),
            "trunk_steps": job.trunk_steps,
            "fork_from": job.fork_from,
            "may_stop": job.may_stop,
        }
        return {"job_id": job.job_id, "job": json.dumps(work)}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tune is done with a trial, one way or another."""
        self._ended(self._trials.pop(trial_id))

    def save(self, checkpoint_path: str) -> None:
        """Tune asks for a snapshot; there is nothing to put in it."""
        Path(checkpoint_path).write_text("the state of a study is its trials.jsonl\n", encoding="utf8")

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: see `save`."""
