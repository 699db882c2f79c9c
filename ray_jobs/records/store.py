"""The study's folder: its configuration, one record per trial, and the tables of each.

Every file is written whole or not at all.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import uuid
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from grit.errors import ConfigError
from grit.io.files import write_atomically, write_table
from grit.io.provenance import PACKAGES
from grit.training.result import TABLES
from ray_jobs.records.trial_record import (
    STUDY_FILE,
    TRIALS_FILE,
    TRUNK_OUTCOME,
    TRUNKS_FILE,
    TrialRecord,
    read_study,
    read_trials,
    read_trunks,
    write_trials,
)

#: Whose versions a study notes.
STUDY_PACKAGES = (*PACKAGES, "ray", "optuna", "mlflow")
LOCK_FILE = ".lock"


class StudyStore:
    """Owns one output folder.

    Args:
        folder: created when it does not exist.
        fingerprint: identity of the study; a folder that holds another study is refused.
        resume: whether a folder that holds this study may be continued.

    Raises:
        ConfigError: the folder belongs to another study, holds this one and `resume` is off, or cannot be
            written.
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
                raise ConfigError(
                    "output",
                    str(folder),
                    f"holds another study: resume it with the options it was made with ({made}), or choose "
                    "an empty folder",
                )
            if not resume:
                raise ConfigError(
                    "output",
                    str(folder),
                    "holds this study already; add --resume to continue it, or choose another folder",
                )
            if (folder / TRIALS_FILE).exists():
                self.records = {record.trial_id: record for record in read_trials(folder)}
        elif folder.exists() and any(folder.iterdir()):
            raise ConfigError(
                "output", str(folder), "is not empty and holds no study; choose an empty folder"
            )
        elif resume:
            raise ConfigError("output", str(folder), "holds no study to resume")
        #: Names this folder's study among others with the same settings.
        self.study_id: str = self._earlier.get("study_id") or uuid.uuid4().hex

    def open(self, description: dict[str, Any], call: dict[str, Any]) -> None:
        """Creates the folder and writes `study.json`; call it once the plan stands.

        `description` is what all calls of the study share, and stays as the first call wrote it; `call`
        (time, commit, versions, machine, command line) is added to the list of calls, so that every record
        can be traced to the code that made it.

        Raises:
            ConfigError: the folder cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock()
            shared = self._earlier or {
                "study_id": self.study_id,
                "fingerprint": self._fingerprint,
                **description,
                **call,
                "calls": [],
            }
            shared["calls"].append(call)
            write_atomically(self.folder / STUDY_FILE, json.dumps(shared, indent=2, ensure_ascii=False))
        except OSError as error:
            raise ConfigError("output", str(self.folder), f"cannot be written: {error.strerror}") from error

    @property
    def checkpoints(self) -> Path:
        """Where trials and trunks leave what they would go on from, each in a folder of its name."""
        return self.folder / "checkpoints"

    def _lock(self) -> None:
        """Holds the folder until `release` is called, or nobody holds this store any more.

        Raises:
            ConfigError: another process runs a study in it.
        """
        held = os.open(self.folder / LOCK_FILE, os.O_CREAT | os.O_RDWR)
        self.release = weakref.finalize(self, os.close, held)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            raise ConfigError(
                "output",
                str(self.folder),
                "is being written by another run of this study: wait for it, or end it first",
            ) from None

    def adopt(self, source: Path, record: TrialRecord) -> TrialRecord:
        """Takes over a trial that the study in `source` has run.

        Its rows are copied, and the record says where it comes from.
        """
        for kind in TABLES:
            rows = source / kind / f"{record.trial_id}.parquet"
            if rows.exists():
                (self.folder / kind).mkdir(exist_ok=True)
                partial = self.folder / kind / f"{record.trial_id}.partial"
                shutil.copyfile(rows, partial)
                partial.replace(self.folder / kind / rows.name)
        return replace(record, reused_from=record.reused_from or source.name)

    def write_trunks(self, trunks: Iterable[dict[str, Any]]) -> None:
        """`trunks.jsonl`: the shared beginnings that have run in all calls, one line each."""
        known = {trunk["trunk_id"]: trunk for trunk in [*read_trunks(self.folder), *trunks]}
        write_atomically(
            self.folder / TRUNKS_FILE, "".join(json.dumps(trunk) + "\n" for trunk in known.values())
        )

    def trunk(self, trunk_id: str) -> dict[str, Any] | None:
        """What an earlier call knew of a trunk whose checkpoint still exists, or None."""
        if not (self.checkpoints / trunk_id / "run.pt").exists():
            return None
        known = (trunk for trunk in read_trunks(self.folder) if trunk["trunk_id"] == trunk_id)
        return next(({key: trunk[key] for key in TRUNK_OUTCOME} for trunk in known), None)

    def forget_checkpoints(self, job_id: str) -> None:
        """Removes what a trial or trunk that has ended would have gone on from."""
        shutil.rmtree(self.checkpoints / job_id, ignore_errors=True)

    def withdraw(self) -> None:
        """Takes a study that was refused before its first trial off the disk again.

        Unless an earlier call made it or a trial has ended.
        """
        if not self._earlier and not any(record.ended for record in self.records.values()):
            shutil.rmtree(self.folder)

    def close_call(self, seconds: float) -> None:
        """Notes how long this call took, in wall seconds."""
        known = read_study(self.folder)
        known["calls"][-1]["seconds"] = round(seconds, 3)
        write_atomically(self.folder / STUDY_FILE, json.dumps(known, indent=2, ensure_ascii=False))

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
        """`<kind>/<trial_id>.parquet`, one of a result's tables; none for a table without rows."""
        if not rows:
            return
        (self.folder / kind).mkdir(exist_ok=True)
        write_table(self.folder / kind / f"{trial_id}.parquet", rows)
