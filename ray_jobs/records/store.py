"""The study's folder, owned by one process: its configuration, one record per trial, its trunks.

Every file is written whole or not at all; `trials.jsonl` is appended to, and compacted when the folder is
opened.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path

from grit.config.extensions import VARIABLE as EXTENSIONS
from grit.errors import ConfigError
from grit.io.files import PRIVATE
from grit.io.provenance import PACKAGES
from ray_jobs.records.kept_adapters import copy_adapter
from ray_jobs.records.study_file import STUDY_FILE, Call, StudyFile, read_study
from ray_jobs.records.trial_record import TrialRecord
from ray_jobs.records.trial_tables import copy_tables
from ray_jobs.records.trials_file import TRIALS_FILE, append_trials, read_trials_and_damage, write_trials
from ray_jobs.records.trunk_record import TrunkOutcome, TrunkRecord, read_trunks, write_trunks

#: Whose versions a study notes.
STUDY_PACKAGES = (*PACKAGES, "ray", "optuna", "mlflow")
LOCK_FILE = ".lock"


class StudyStore:
    """Owns one output folder.

    Args:
        folder: created when it does not exist.
        fingerprint: identity of the study; a folder that holds another study is refused.
        resume: the folder must hold this study. Without it a folder that does is continued all the same, and
            a new one is begun.
        differences: by what the study of such a folder is another, in words.

    Attributes:
        records: by trial id, as they stand.
        study_id: names this folder's study among others with the same settings.

    Raises:
        ConfigError: the folder belongs to another study, holds none and `resume` is on, or cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        fingerprint: str,
        *,
        resume: bool,
        differences: Callable[[StudyFile], str] | None = None,
    ) -> None:
        self.folder = folder
        self.records: dict[str, TrialRecord] = {}
        self._earlier: StudyFile | None = None
        if folder.exists() and not folder.is_dir():
            raise ConfigError("output", str(folder), "is a file; choose a folder")
        if (folder / STUDY_FILE).exists():
            self._earlier = self._found(fingerprint, differences)
        elif folder.exists() and any(folder.iterdir()):
            raise ConfigError(
                "output", str(folder), "is not empty and holds no study; choose an empty folder"
            )
        elif resume:
            raise ConfigError("output", str(folder), "holds no study to resume")
        self.study_id = uuid.uuid4().hex if self._earlier is None else self._earlier.study_id

    def _found(self, fingerprint: str, differences: Callable[[StudyFile], str] | None) -> StudyFile:
        """The study that the folder holds, if it is this one; reads its records."""
        earlier = read_study(self.folder)
        if earlier.fingerprint != fingerprint:
            made = " ".join(earlier.made_by.command_line)
            if earlier.last_call.extensions:
                made += f"; {EXTENSIONS}={','.join(earlier.last_call.extensions)}, whose sources count too"
            named = f" ({differences(earlier)})" if differences is not None else ""
            raise ConfigError(
                "output",
                str(self.folder),
                f"holds another study{named}: continue it with the options it was made with: {made}; or "
                "choose an empty folder",
            )
        if (self.folder / TRIALS_FILE).exists():
            records, _ = read_trials_and_damage(self.folder)
            self.records = {record.trial_id: record for record in records}
        return earlier

    @property
    def continues(self) -> bool:
        """Whether an earlier call has begun this study."""
        return self._earlier is not None

    def open(self, made: StudyFile) -> None:
        """Creates the folder and writes `study.json`; call it once the plan stands.

        Args:
            made: the study with this call alone. What an earlier call wrote stays; the call is added to its
                calls, so that every record can be traced to the code that made it.

        Raises:
            ConfigError: the folder cannot be written.
        """
        study = made
        if self._earlier is not None:
            study = self._earlier.model_copy(update={"calls": (*self._earlier.calls, *made.calls)})
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=PRIVATE)
            self._lock()
            study.write(self.folder)
            self.compact()
        except OSError as error:
            raise ConfigError("output", str(self.folder), f"cannot be written: {error.strerror}") from error

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

        Its tables and its adapter are copied, and the record says where it comes from.
        """
        copy_tables(source, self.folder, record.trial_id)
        copy_adapter(source, self.folder, record.trial_id)
        return record.changed(reused_from=record.place.reused_from or source.name)

    def add_trunks(self, trunks: Iterable[TrunkRecord]) -> None:
        """`trunks.jsonl`: the trunks that have run in all calls, one line each."""
        write_trunks(self.folder, trunks)

    def trunk(self, trunk_id: str) -> TrunkOutcome | None:
        """What an earlier call knew of a trunk, or None."""
        outcomes = (trunk.outcome for trunk in read_trunks(self.folder) if trunk.trunk_id == trunk_id)
        return next(outcomes, None)

    def withdraw(self) -> None:
        """Takes a study that was refused before its first trial off the disk again.

        Unless an earlier call made it or a trial has ended.
        """
        if self._earlier is None and not any(record.ended for record in self.records.values()):
            shutil.rmtree(self.folder)

    def close_call(self, seconds: float, expected: int) -> None:
        """Notes how long this call took, in wall seconds, and the trials that it would have in the end."""
        study = read_study(self.folder)
        last: Call = study.last_call.model_copy(update={"seconds": round(seconds, 3), "expected": expected})
        study.model_copy(update={"calls": (*study.calls[:-1], last)}).write(self.folder)

    def put(self, record: TrialRecord) -> None:
        """Takes a new or changed record; a trial that has ended is on disk when this returns."""
        self.records[record.trial_id] = record
        if record.ended:
            append_trials(self.folder, [record])

    def compact(self) -> None:
        """Writes all records, one line each."""
        write_trials(self.folder, self.records.values())
