"""The tables of trials.

`<kind>/<trial_id>.parquet`, one folder per kind of table (grit/training/result.py).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from grit.io.files import Row, own_folder, write_table
from grit.training.result import TABLES


class TableError(ValueError):
    """A table that is there and cannot be read."""


def table_path(folder: Path, kind: str, trial_id: str) -> Path:
    """Where a trial's table lies."""
    return folder / kind / f"{trial_id}.parquet"


def write_rows(folder: Path, kind: str, trial_id: str, rows: Sequence[Row]) -> None:
    """Writes one of a trial's tables; none for a table without rows.

    Raises:
        OSError: there is no room; nothing is left behind.
    """
    if rows:
        own_folder(folder, kind)
        write_table(table_path(folder, kind, trial_id), rows)


def read_columns(folder: Path, kind: str, trial_id: str) -> dict[str, list[Any]]:
    """A trial's table by column; nothing for a trial that left nothing.

    Raises:
        TableError: it is there and cannot be read.
    """
    path = table_path(folder, kind, trial_id)
    if not path.exists():
        return {}
    try:
        columns: dict[str, list[Any]] = pq.read_table(path).to_pydict()
    except (pa.ArrowException, OSError, ValueError, UnicodeDecodeError) as error:
        raise TableError(f"{kind}/{path.name} cannot be read: {str(error).splitlines()[0]}") from error
    problem = TABLES[kind].problem(columns)
    if problem is not None:
        raise TableError(f"{kind}/{path.name} {problem}")
    return columns


def read_rows(folder: Path, kind: str, trial_id: str) -> list[Row]:
    """A trial's table by row; nothing for a trial that left nothing.

    Raises:
        TableError: it is there and cannot be read.
    """
    columns = read_columns(folder, kind, trial_id)
    if kind == "events" and not columns:
        return _events_of_version_1(folder, trial_id)
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _events_of_version_1(folder: Path, trial_id: str) -> list[Row]:
    """Version 0.1 kept events as text in a column of the telemetry.

    Raises:
        TableError: one is no event.
    """
    texts = read_columns(folder, "telemetry", trial_id).get("events", [])
    try:
        return [event for text in texts if text for event in json.loads(text)]
    except (ValueError, TypeError) as error:
        raise TableError(f"telemetry/{trial_id}.parquet holds events that cannot be read: {error}") from error


def copy_tables(source: Path, target: Path, trial_id: str) -> None:
    """Takes over all tables of a trial from another study's folder."""
    for kind in TABLES:
        rows = table_path(source, kind, trial_id)
        if rows.exists():
            partial = own_folder(target, kind) / f"{trial_id}.partial"
            shutil.copyfile(rows, partial)
            partial.replace(table_path(target, kind, trial_id))
