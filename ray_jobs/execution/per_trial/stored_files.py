"""Where the files of jobs lie in the storage of Ray's own engine, and how they are removed."""

from __future__ import annotations

from grit.runtime.checkpoint_files import CHECKPOINT_FILE
from ray_jobs.execution.per_trial.storage import StudyStorage


def attempt_folder(job_id: str, token: str) -> str:
    """Where an attempt leaves its tables and its outcome: no two attempts share a file."""
    return f"trials/{job_id}/{token}"


def trunk_file(trunk_id: str) -> str:
    """Where a trunk's checkpoint lies."""
    return f"shared/trunks/{trunk_id}/{CHECKPOINT_FILE}"


def train_run(job_id: str) -> str:
    """The name of a job's Ray Train run, and of its folder."""
    return f"train-{job_id}"


class StoredFiles:
    """What jobs leave for each other in a storage."""

    def __init__(self, storage: str) -> None:
        self._storage = StudyStorage(storage)

    def has_trunk(self, trunk_id: str) -> bool:
        """Whether a trunk's checkpoint is there."""
        return self._storage.exists(trunk_file(trunk_id))

    def forget(self, job_id: str) -> None:
        """Removes what a trial that is on record, or a trunk that is spent, has left."""
        for folder in (f"trials/{job_id}", train_run(job_id), trunk_file(job_id).rpartition("/")[0]):
            self._storage.forget(folder)
