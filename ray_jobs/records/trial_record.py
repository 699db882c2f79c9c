"""The record of one trial: the border between running and analysing.

Reading and writing it needs neither Ray nor torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from grit.config.registry import Method
from grit.errors import ConfigError
from grit.io.files import finite, read_object, write_atomically

#: `planned`: not run yet. `completed`: its budget was spent. `stopped`: ended cleanly before. `diverged`: by
#: the rule of grit/training/divergence.py. `failed`: it raised, or its worker died more often than it is
#: retried.
Status = Literal["planned", "completed", "diverged", "failed", "stopped"]
ENDED: tuple[Status, ...] = ("completed", "diverged", "failed", "stopped")

TRIALS_FILE = "trials.jsonl"
STUDY_FILE = "study.json"
TRUNKS_FILE = "trunks.jsonl"
#: What a trunk leaves, beside its checkpoint: counted from the very beginning.
TRUNK_OUTCOME = ("steps", "train_seconds", "eval_seconds")


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """One planned trial and, once it has run, its outcome. Numbers that were not measured are None.

    `tau`, `T` and `lambda_` (key `lambda` in files) are None for a control, and `T` is None as well where
    reprojection is off (`overrides` then says so). `reused_from` names the study in the same store that ran
    it; `forked_from` the trunk whose first `forked_at_step` steps and `fork_seconds` training seconds it
    shares with other trials. `setup_seconds` pass between a worker's taking the trial and its first step
    (evaluation of the untuned model included, the first time). Units: seconds, milliseconds (`*_ms`), bytes,
    nats per token (`forgetting`, losses).
    """

    trial_id: str
    point_id: str
    design: str
    also_designs: list[str] = field(default_factory=list)
    regime: str
    seed: int
    method: Method
    task: str
    model: str
    tau: float | None
    T: int | None  # noqa: N815 - the paper's name
    lambda_: float | None
    overrides: dict[str, Any] = field(default_factory=dict)
    status: Status = "planned"
    error: str | None = None
    attempts: int = 0
    steps: int | None = None
    tokens: int | None = None
    unique_tokens: int | None = None
    backbone_parameters: int | None = None
    adapter_seconds: float | None = None
    memory_bytes: dict[str, int] | None = None
    exported_bytes: int | None = None
    train_seconds: float | None = None
    cpu_seconds: float | None = None
    disturbance: float | None = None
    eval_seconds: float | None = None
    quality_metric: str | None = None
    quality: float | None = None
    base_quality: float | None = None
    answer_loss: float | None = None
    base_answer_loss: float | None = None
    retention: float | None = None
    forgetting: float | None = None
    base_retention_loss: float | None = None
    overhead: float | None = None
    footprint: float | None = None
    effective_parameters: int | None = None
    adapter_parameters: int | None = None
    step_time_ms: dict[str, float] | None = None
    components_ms: dict[str, float] | None = None
    peak_memory_bytes: int | None = None
    final_ranks: list[int] | None = None
    modules: list[str] | None = None
    reprojections: int | None = None
    rank_events: int | None = None
    skipped_steps: int | None = None
    truncated_examples: int | None = None
    resumed_from_step: int | None = None
    reused_from: str | None = None
    forked_from: str | None = None
    forked_at_step: int | None = None
    fork_seconds: float | None = None
    fork_eval_seconds: float | None = None
    setup_seconds: float | None = None
    metrics: dict[str, dict[str, Any]] | None = None
    probes: dict[str, dict[str, Any]] | None = None
    curve: list[dict[str, Any]] | None = None
    worker: str | None = None
    queued_at: float | None = None
    started_at: float | None = None
    ended_at: float | None = None

    @property
    def ended(self) -> bool:
        """Whether there is nothing left to run."""
        return self.status in ENDED

    @property
    def usable(self) -> bool:
        """Whether its objectives may enter statistics: it spent its budget and all four are finite."""
        values = (self.quality, self.retention, self.overhead, self.footprint)
        return self.status == "completed" and all(
            value is not None and math.isfinite(value) for value in values
        )

    def to_json(self) -> str:
        """One line of strict JSON; a number that is not finite becomes null."""
        values = asdict(self)
        values["lambda"] = values.pop("lambda_")
        return json.dumps(finite(values), ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, line: str) -> TrialRecord:
        """The inverse of `to_json`."""
        values = json.loads(line)
        values["lambda_"] = values.pop("lambda")
        return cls(**values)


def write_trials(folder: Path, records: Iterable[TrialRecord]) -> None:
    """Writes `trials.jsonl`, one line per planned trial."""
    write_atomically(folder / TRIALS_FILE, "".join(record.to_json() + "\n" for record in records))


def read_trials(folder: Path) -> list[TrialRecord]:
    """The records of a study.

    Raises:
        ConfigError: there is no such file, or a line of it is malformed (with its number).
    """
    path = folder / TRIALS_FILE
    try:
        lines = path.read_text(encoding="utf8").splitlines()
    except OSError as error:
        raise ConfigError(
            "study folder", str(folder), f"holds no readable {TRIALS_FILE}: {error.strerror}"
        ) from error
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(TrialRecord.from_json(line))
        except (ValueError, TypeError, KeyError) as error:
            raise ConfigError(
                "study folder", str(path), f"line {number} is not a trial record: {error}"
            ) from error
    return records


def read_trunks(folder: Path) -> list[dict[str, Any]]:
    """The shared beginnings that have run: `trunk_id`, `parent`, `members` and what `TRUNK_OUTCOME` names.

    None where nothing was shared.
    """
    path = folder / TRUNKS_FILE
    return (
        [json.loads(line) for line in path.read_text(encoding="utf8").splitlines()] if path.exists() else []
    )


def read_study(folder: Path) -> dict[str, Any]:
    """`study.json`.

    Raises:
        ConfigError: it is missing or malformed.
    """
    return read_object(folder / STUDY_FILE, "study folder")
