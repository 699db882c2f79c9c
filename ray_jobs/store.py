"""The study's folder: its configuration, one record per trial, telemetry and predictions. Every file is written whole or not at all."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import uuid
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from grit.errors import ConfigError
from ray_jobs.records import STUDY_FILE, TRIALS_FILE, TrialRecord, read_study, read_trials, write_atomically, write_trials

PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "ray", "optuna", "mlflow")


class StudyStore:
    """Owns one output folder.

    Args:
        folder: created when it does not exist.
        fingerprint: identity of the study; a folder that holds another study is refused.
        resume: whether a folder that holds this study may be continued.

    Raises:
        ConfigError: the folder belongs to another study, holds this one and `resume` is off, or cannot be written.
    """

    def __init__(self, folder: Path, fingerprint: str, *, resume: bool) -> None:
        self.folder, self._fingerprint = folder, fingerprint
        self.records: dict[str, TrialRecord] = {}
        self._earlier: dict[str, Any] = {}
        if folder.exists() and not folder.is_dir():
            raise ConfigError("output", str(folder), "is a file; choose a folder")
        if (folder / STUDY_FILE).exists():
            self._earlier = read_study(folder)
            if self._earlier.get("fingerprint") != fingerprint:
                made = " ".join(self._earlier.get("command_line", []))
                raise ConfigError("output", str(folder),
                                  f"holds another study: resume it with the options it was made with ({made}), or choose an empty folder")
            if not resume:
                raise ConfigError("output", str(folder), "holds this study already; add --resume to continue it, or choose another folder")
            if (folder / TRIALS_FILE).exists():
                self.records = {record.trial_id: record for record in read_trials(folder)}
        elif folder.exists() and any(folder.iterdir()):
            raise ConfigError("output", str(folder), "is not empty and holds no study; choose an empty folder")
        elif resume:
            raise ConfigError("output", str(folder), "holds no study to resume")
        #: Names this folder's study among others with the same settings.
        self.study_id: str = self._earlier.get("study_id") or uuid.uuid4().hex

    def open(self, description: dict[str, Any], call: dict[str, Any]) -> None:
        """Creates the folder and writes `study.json`; call it once the plan stands.

        `description` is what all calls of the study share, and stays as the first call wrote it; `call` (time, commit, versions, machine,
        command line) is added to the list of calls, so that every record can be traced to the code that made it.

        Raises:
            ConfigError: the folder cannot be written.
        """
        try:
            for name in ("telemetry", "predictions"):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
            shared = self._earlier or {"study_id": self.study_id, "fingerprint": self._fingerprint, **description, **call, "calls": []}
            shared["calls"].append(call)
            write_atomically(self.folder / STUDY_FILE, json.dumps(shared, indent=2, ensure_ascii=False))
        except OSError as error:
            raise ConfigError("output", str(self.folder), f"cannot be written: {error.strerror}") from error

    def withdraw(self) -> None:
        """Takes a study that was refused before its first trial off the disk again, unless an earlier call made it or a trial has ended."""
        if not self._earlier and not any(record.ended for record in self.records.values()):
            shutil.rmtree(self.folder)

    def read_rows(self, kind: str, trial_id: str) -> list[dict[str, Any]]:
        """What `write_rows` wrote; nothing for a trial that left nothing."""
        path = self.folder / kind / f"{trial_id}.parquet"
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist() if path.exists() else []
        return rows

    def put(self, record: TrialRecord) -> None:
        """Takes a new or changed record; a trial that has ended is on disk when this returns."""
        self.records[record.trial_id] = record
        if record.ended:
            self.flush()

    def flush(self) -> None:
        """Writes all records."""
        write_trials(self.folder, self.records.values())

    def write_rows(self, kind: str, trial_id: str, rows: Sequence[dict[str, Any]]) -> None:
        """`telemetry/<trial_id>.parquet` or `predictions/<trial_id>.parquet`."""
        path = self.folder / kind / f"{trial_id}.parquet"
        partial = path.with_suffix(".partial")
        pq.write_table(pa.Table.from_pylist(list(rows)), partial, compression="zstd")
        partial.replace(path)


def provenance(root: Path) -> dict[str, Any]:
    """Versions, git commit (None outside a checkout), hardware and command line of this process."""
    def git(*args: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(root), *args], capture_output=True, text=True, check=True, timeout=10)
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    status = git("status", "--porcelain")
    return {
        "python": platform.python_version(), "platform": platform.platform(), "cpu_count": os.cpu_count(),
        "versions": {name: metadata.version(name) for name in PACKAGES},
        "git_commit": git("rev-parse", "HEAD"), "git_dirty": None if status is None else bool(status), "command_line": sys.argv}
