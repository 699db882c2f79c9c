"""Where the files of jobs lie in the storage of Ray's own engine, and how they are removed."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

from grit.runtime.checkpoint_files import CHECKPOINT_FILE
from ray_jobs.execution.nodes.storage import StudyStorage
from ray_jobs.records.kept_adapters import ADAPTERS, adapter_folder, forget_adapters, has_adapter


def attempt_folder(job_id: str, token: str) -> str:
    """Where an attempt leaves its tables and its outcome: no two attempts share a file."""
    return f"trials/{job_id}/{token}"


def trunk_file(trunk_id: str) -> str:
    """Where a trunk's checkpoint lies."""
    return f"shared/trunks/{trunk_id}/{CHECKPOINT_FILE}"


def stored_adapter(trial_id: str, token: str) -> str:
    """Where an attempt leaves its adapter, until the study's end decides who is kept."""
    return f"{ADAPTERS}/{trial_id}/{token}"


def counted_adapter(trial_id: str) -> str:
    """Where it is written which attempt's adapter counts."""
    return f"{ADAPTERS}/{trial_id}/counts"


def train_run(job_id: str) -> str:
    """The name of a job's Ray Train run, and of its folder."""
    return f"train-{job_id}"


class StoredFiles:
    """What jobs leave for each other in a storage."""

    def __init__(self, storage: str, folder: Path) -> None:
        self._storage, self._folder = StudyStorage(storage), folder

    def has_trunk(self, trunk_id: str) -> bool:
        """Whether a trunk's checkpoint is there."""
        return self._storage.exists(trunk_file(trunk_id))

    def forget(self, job_id: str) -> None:
        """Removes what a trial that is on record, or a trunk that is spent, has left."""
        for folder in (f"trials/{job_id}", train_run(job_id), trunk_file(job_id).rpartition("/")[0]):
            self._storage.forget(folder)

    def keep(self, trial_ids: Collection[str]) -> None:
        """Brings the adapters of these trials into the study's folder, and removes all others.

        Raises:
            OSError: one cannot be brought here; it stays in the storage.
        """
        for trial_id in trial_ids:
            if not has_adapter(self._folder, trial_id):
                self._bring(trial_id)
        forget_adapters(self._folder, but=trial_ids)
        self._storage.forget(ADAPTERS)

    def _bring(self, trial_id: str) -> None:
        """Whole or not at all; of several attempts the one whose outcome is on record."""
        token = self._storage.read(counted_adapter(trial_id))
        if token is None:
            return
        prefix = f"{stored_adapter(trial_id, token.decode())}/"
        partial = adapter_folder(self._folder, f".{trial_id}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        for name in self._storage.names(prefix.rstrip("/")):
            self._storage.download(name, partial / name.removeprefix(prefix))
        if partial.exists():
            shutil.rmtree(adapter_folder(self._folder, trial_id), ignore_errors=True)
            partial.replace(adapter_folder(self._folder, trial_id))
