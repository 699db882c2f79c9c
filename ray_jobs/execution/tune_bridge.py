"""Between Ray Tune and the scheduler: one Tune trial is one training run, whatever engine executes it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.tune.search import Searcher

from ray_jobs.schedule.job import Job
from ray_jobs.schedule.scheduler import StudyScheduler


class StudySearcher(Searcher):
    """Feeds Tune from a `StudyScheduler`.

    Jobs go to `offer`, Tune gets their ids, every outcome is told to `ended`.

    Tune keeps no truth of ours: what has run is in `trials.jsonl`, from which a resumed study starts again.

    Attributes:
        stopping: set to start nothing more and to let the study end.
    """

    def __init__(
        self, scheduler: StudyScheduler, offer: Callable[[Job], None], ended: Callable[[str], None]
    ) -> None:
        super().__init__()
        self._scheduler, self._offer, self._ended, self.stopping = scheduler, offer, ended, False
        self._jobs: dict[str, str] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its searcher into its own snapshot, which nobody reads here.

        The live parts stay out.
        """
        live = ("_scheduler", "_offer", "_ended", "_jobs")
        return {name: value for name, value in self.__dict__.items() if name not in live}

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The next job's id; None while it depends on running ones."""
        job = None if self.stopping else self._scheduler.next()
        if job is None:
            ended = self.stopping or self._scheduler.finished
            return Searcher.FINISHED if ended else None  # type: ignore[return-value]  # Tune's own contract
        self._offer(job)
        self._jobs[trial_id] = job.job_id
        return {"job_id": job.job_id}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tune is done with a trial, one way or another."""
        self._ended(self._jobs.pop(trial_id))

    def save(self, checkpoint_path: str) -> None:
        """Tune asks for a snapshot; there is nothing to put in it."""
        Path(checkpoint_path).write_text("the state of a study is its trials.jsonl\n", encoding="utf8")

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: see `save`."""
