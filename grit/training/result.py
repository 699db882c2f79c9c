"""What a run leaves behind: how it ended, what was measured, and its tables. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from grit.io.files import Row
from grit.training.measurements import Measurements

RunStatus = Literal["completed", "diverged", "stopped"]


def _table(what: str) -> Any:
    """A field of `RunResult` that is a table: rows with the same columns, of which a study makes a file."""
    return field(repr=False, default_factory=list, metadata={"table": what})


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """The outcome of one run. Tables of audits are empty where the run does not ask for them.

    Attributes:
        reason: why it did not spend its budget; None where it did.
    """

    status: RunStatus
    reason: str | None
    measured: Measurements
    telemetry: list[Row] = _table("one row per optimizer step: loss, clock, component times, ranks")
    events: list[Row] = _table(
        "what happened: reprojections, rank changes, damping ladders, non-finite values"
    )
    predictions: list[Row] = _table(
        "one row per evaluated example and per held-out document, with the untuned model's values beside"
    )
    geometry: list[Row] = _table(
        "one row per adapted module: ranks, spectra, alignment, size and sketch of the update"
    )
    stability: list[Row] = _table("how steady factors and updates are over time")
    truncated: list[Row] = _table("the adapter truncated in every way")
    interleaved: list[Row] = _table("step times of methods in turn")

    def tables(self) -> dict[str, list[Row]]:
        """The tables that have rows, by name."""
        return {name: rows for name in TABLES if (rows := getattr(self, name))}


#: What each table of a result holds, by its name; each becomes a file of its own.
TABLES: dict[str, str] = {
    item.name: item.metadata["table"] for item in fields(RunResult) if "table" in item.metadata
}
