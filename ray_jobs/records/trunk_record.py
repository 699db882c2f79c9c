"""The record of one trunk: a beginning that several trials shared."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from grit.errors import ConfigError, reason
from grit.io.files import write_atomically
from grit.io.validation import refusal
from ray_jobs.records.trial_record import ID_PATTERN

TRUNKS_FILE = "trunks.jsonl"


class TrunkOutcome(BaseModel):
    """What a trunk took, counted from the very beginning.

    Optimizer steps, seconds of training and of evaluation.
    """

    model_config = ConfigDict(frozen=True)

    steps: int
    train_seconds: float
    eval_seconds: float


class TrunkRecord(BaseModel):
    """A trunk that has run: the one it went on from, if any, and the trials that go on from it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    trunk_id: str = Field(pattern=ID_PATTERN)
    parent: str | None
    members: tuple[str, ...]
    steps: int
    train_seconds: float
    eval_seconds: float

    @property
    def outcome(self) -> TrunkOutcome:
        """What it took."""
        return TrunkOutcome(
            steps=self.steps, train_seconds=self.train_seconds, eval_seconds=self.eval_seconds
        )


def read_trunks(folder: Path) -> list[TrunkRecord]:
    """The trunks that have run; none where nothing was shared.

    Raises:
        ConfigError: a line is malformed (with its number).
    """
    path = folder / TRUNKS_FILE
    if not path.exists():
        return []
    try:
        lines = path.read_text(encoding="utf8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("study folder", str(path), f"cannot be read: {reason(error)}") from error
    trunks = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            trunks.append(TrunkRecord.model_validate_json(line))
        except ValidationError as error:
            raise ConfigError("study folder", str(path), f"line {number}: {refusal(error)}") from None
    return trunks


def write_trunks(folder: Path, trunks: Iterable[TrunkRecord]) -> None:
    """Adds trunks to those that earlier calls wrote, one line each."""
    by_id = {trunk.trunk_id: trunk for trunk in [*read_trunks(folder), *trunks]}
    text = "".join(json.dumps(trunk.model_dump(mode="json")) + "\n" for trunk in by_id.values())
    write_atomically(folder / TRUNKS_FILE, text)
