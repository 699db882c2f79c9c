"""Rows from the user's files: JSON Lines, CSV or Parquet, with a clear word on what cannot be used."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from pathlib import Path

from grit.errors import ConfigError, reason
from grit.io.files import Row
from grit.tasks.base import Example
from grit.tasks.catalog import Declaration, LeftOutError
from grit.tasks.text import normalize

Numbered = tuple[int, Row]


def read_rows(path: str, fields: tuple[str, ...], name: str) -> list[Numbered]:
    """The rows of a file with their numbers (lines of text files, rows of Parquet, from 1).

    `.csv` has a header, `.parquet` is Parquet, anything else is JSON Lines.

    Raises:
        ConfigError: missing or unreadable file, a row that lacks a field (with its number), or no rows at
            all.
    """
    try:
        rows = list(_READERS.get(Path(path).suffix.lower(), _json_lines)(path, name))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(name, path, f"cannot be read: {reason(error)}") from error
    for number, row in rows:
        missing = [key for key in fields if row.get(key) is None]
        if missing:
            raise ConfigError(
                name, path, f"line {number} lacks the field {missing[0]!r}; needed are {', '.join(fields)}"
            )
    if not rows:
        raise ConfigError(name, path, "is empty; it must hold at least one example")
    return rows


def _json_lines(path: str, name: str) -> Iterable[Numbered]:
    for number, line in enumerate(Path(path).read_text(encoding="utf-8-sig").split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ConfigError(name, path, f"line {number} is not JSON: {error.msg}") from error
        yield number, row if isinstance(row, dict) else {}


def _csv(path: str, name: str) -> Iterable[Numbered]:
    with Path(path).open(encoding="utf-8-sig", newline="") as handle:
        reader = csv.DictReader(handle, strict=True)
        for row in reader:
            if None in row:
                raise ConfigError(name, path, f"line {reader.line_num} has more fields than the header")
            yield reader.line_num, row


def _parquet(path: str, name: str) -> Iterable[Numbered]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return list(enumerate(pq.read_table(path).to_pylist(), 1))
    except pa.ArrowInvalid as error:
        raise ConfigError(name, path, f"cannot be read: {reason(error)}") from error


_READERS = {".csv": _csv, ".parquet": _parquet}


def to_examples(
    kind: Declaration, rows: Iterable[Numbered], *, source: str, path: str
) -> tuple[tuple[Example, ...], int]:
    """Rows as examples, named by `source` and their number.

    And how many were left out, as the task does with some (an empty answer, for one).

    Raises:
        ConfigError: a row cannot be used.
    """
    examples, left_out = [], 0
    for number, row in rows:
        texts = {key: normalize(value) for key, value in row.items() if isinstance(value, str)}
        clean = {**row, **texts}
        try:
            prompt, answer = kind.prompt(clean), kind.answer(clean)
        except LeftOutError:
            left_out += 1
            continue
        except ValueError as error:
            raise ConfigError(source, path, f"line {number}: {error}") from error
        if not prompt.strip():
            raise ConfigError(source, path, f"line {number}: the prompt is empty")
        examples.append(
            Example(example_id=f"{source}-{number}", prompt=prompt, answer=answer, labels=kind.labels)
        )
    return tuple(examples), left_out
