"""Files that are written whole or not at all: a reader, or a crash, sees the old one or the new one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def write_atomically(path: Path, text: str) -> None:
    """Replaces `path` by `text` in one step."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with partial.open("w", encoding="utf8") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    partial.replace(path)


def write_table(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Writes rows as Parquet; a key that a row lacks is null there.

    Raises:
        OSError: there is no room; nothing is left behind.
    """
    chosen = list(rows)
    columns = dict.fromkeys(key for row in chosen for key in row)
    partial = path.with_suffix(".partial")
    try:
        pq.write_table(pa.table({name: [row.get(name) for row in chosen] for name in columns}), partial, compression="zstd")
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
    partial.replace(path)
