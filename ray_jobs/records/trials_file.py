"""`trials.jsonl`: one line per change of a record, the last line of a trial counts.

Appended to, and compacted when a study opens.

An append is one write and one flush to disk: a crash leaves at most one cut line at the end, which is named
when it is read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from grit.errors import ConfigError
from grit.io.files import write_atomically
from grit.io.validation import refusal
from grit.io.versions import SCHEMA_VERSION, upgraded
from ray_jobs.records.migrate import trial_from_version_1
from ray_jobs.records.study_file import read_study
from ray_jobs.records.trial_record import TrialRecord

TRIALS_FILE = "trials.jsonl"
_CURRENT = f'{{"schema_version":{SCHEMA_VERSION},'


def write_trials(folder: Path, records: Iterable[TrialRecord]) -> None:
    """Writes the whole file, one line per record."""
    write_atomically(folder / TRIALS_FILE, "".join(record.to_json() + "\n" for record in records))


def append_trials(folder: Path, records: Iterable[TrialRecord]) -> None:
    """Adds records, which replace earlier ones of the same trials; they are on disk when this returns.

    Raises:
        OSError: there is no room; what part of a line was written is taken back.
    """
    data = "".join(record.to_json() + "\n" for record in records).encode()
    descriptor = os.open(folder / TRIALS_FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        before = os.fstat(descriptor).st_size
        try:
            written = os.write(descriptor, data)
            if written < len(data):
                raise OSError(28, "No space left on device", str(folder / TRIALS_FILE))
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, before)
            raise
    finally:
        os.close(descriptor)


def read_trials(folder: Path) -> list[TrialRecord]:
    """The records of a study, in the order in which its trials were first written.

    A last line that a crash has cut is left out (`read_trials_and_damage` says so).

    Raises:
        ConfigError: there is no such file, or a line of it is malformed (with its number).
    """
    return read_trials_and_damage(folder)[0]


def read_trials_and_damage(folder: Path) -> tuple[list[TrialRecord], list[str]]:
    """The records, and sentences on what could not be read.

    Raises:
        ConfigError: as `read_trials`.
    """
    path = folder / TRIALS_FILE
    try:
        text = path.read_bytes().decode("utf8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(
            "study folder", str(folder), f"holds no readable {TRIALS_FILE}: {reason}"
        ) from error
    # Not `splitlines`: a line separator inside a string is no end of a line.
    *lines, rest = text.split("\n")
    records: dict[str, TrialRecord] = {}
    damage = [f"{TRIALS_FILE} ends in a line that was cut while it was written"] if rest.strip() else []
    base = cache(lambda: read_study(folder).model_dump(mode="json"))
    for number, line in enumerate(lines, 1):
        if line.strip():
            record = _record(line, base, f"{path}, line {number}")
            records[record.trial_id] = record
    return list(records.values()), damage


def _record(line: str, study: Callable[[], dict[str, Any]], place: str) -> TrialRecord:
    """One line, whichever version wrote it."""
    try:
        if line.startswith(_CURRENT):
            return TrialRecord.model_validate_json(line)
        values = upgraded(
            json.loads(line),
            name="study folder",
            place=place,
            migrations={1: lambda old: trial_from_version_1(old, study())},
        )
        return TrialRecord.model_validate(values)
    except ValidationError as error:
        raise ConfigError("study folder", place, f"is no trial record: {refusal(error)}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            "study folder", place, f"is no trial record: {type(error).__name__}: {error}"
        ) from None
