"""Files that are written whole or not at all: a reader, or a crash, sees the old one or the new one."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from grit.errors import ConfigError

#: A row of a table: values by the names of its columns.
Row = dict[str, Any]


def read_object(path: Path, name: str) -> dict[str, Any]:
    """A JSON object that a run or a study left in its folder; `name` is what a person calls that folder.

    Raises:
        ConfigError: it is missing or malformed.
    """
    try:
        value = json.loads(path.read_bytes().decode("utf8"))
    except FileNotFoundError as error:
        there = path.parent.is_dir()
        raise ConfigError(
            name, str(path.parent), f"holds no {path.name}" if there else "is no folder"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(name, str(path.parent), f"holds no readable {path.name}: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(name, str(path.parent), f"holds no readable {path.name}: it is no JSON object")
    return value


#: Mode of a new run's or study's folder: what it holds is its user's alone, until the user says otherwise.
PRIVATE = 0o700


def own_folder(folder: Path, name: str) -> Path:
    """A folder of that name inside `folder`, made if need be; never one that a link leads out to.

    Raises:
        ConfigError: something else has that name.
    """
    inside = folder / name
    if inside.is_symlink() or (inside.exists() and not inside.is_dir()):
        raise ConfigError("output", str(inside), "is no folder of its own (a link or a file): move it away")
    inside.mkdir(exist_ok=True)
    return inside


@contextlib.contextmanager
def held_alone(path: Path) -> Iterator[None]:
    """Waits until no other process is within such a block; the file is made if need be, and stays."""
    with path.open("w", encoding="utf8") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replaces `path` by text (as UTF-8) or bytes in one step."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with partial.open("wb") as handle:
        handle.write(content.encode("utf8") if isinstance(content, str) else content)
        handle.flush()
        os.fsync(handle.fileno())
    partial.replace(path)


def read_table(path: Path) -> list[Row]:
    """The rows of a Parquet table."""
    rows: list[Row] = pq.read_table(path).to_pylist()
    return rows


def write_table(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Writes rows as Parquet; a key that a row lacks is null there.

    Raises:
        OSError: there is no room; nothing is left behind.
    """
    listed = list(rows)
    columns: dict[str, list[Any]] = {}
    for name in dict.fromkeys(key for row in listed for key in row):
        columns[name] = [row.get(name) for row in listed]
    partial = path.with_suffix(".partial")
    try:
        pq.write_table(pa.table(columns), partial, compression="zstd")
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
    partial.replace(path)
