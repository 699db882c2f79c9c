"""What a run leaves behind: how it ended, what was measured, and its tables. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from grit.audits.audit_specs import AUDITS
from grit.io.files import Row
from grit.io.tables import TableSpec
from grit.runtime.step_sections import SECTIONS
from grit.training.measurements import Measurements

RunStatus = Literal["completed", "diverged", "stopped"]


def _table(what: str, **columns: str) -> Any:
    """A field of `RunResult` that is a table: rows with the same columns, of which a study makes a file."""
    spec = TableSpec(what=what, columns=columns)
    return field(repr=False, default_factory=list, metadata={"table": spec})


#: Columns of the component times, in every table of steps.
_TIMES = {f"ms_{name}": "finite" for name in (*SECTIONS, "step")}


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """The outcome of one run.

    Attributes:
        reason: why it did not spend its budget; None where it did.
        audits: the tables of the audits that the run asked for, by name (grit/audits/audit_specs.py).
    """

    status: RunStatus
    reason: str | None
    measured: Measurements
    telemetry: list[Row] = _table(
        "an optimizer step: loss, clock, component times, ranks",
        step="count",
        train_seconds="finite",
        loss="number",
        mean_rank="number?",
        **_TIMES,
    )
    events: list[Row] = _table(
        "something that happened: a reprojection, a rank change, a raised damping, a value not finite",
        step="count",
        kind="word",
    )
    predictions: list[Row] = _table(
        "an evaluated example or a held-out document, with the untuned model's values beside",
        kind="word",
        example_id="word",
        score="number?",
        base_score="number?",
        loss="number?",
        base_loss="number?",
        tokens="count?",
    )
    geometry: list[Row] = _table(
        "an adapted module: ranks, spectra, alignment, size and sketch of the update",
        module="word",
        rank="count",
        effective_rank="finite",
        update_norm="finite",
        tail_mass="finite",
        sketch="vector",
        fisher_a="vector?",
        fisher_g="vector?",
    )
    spectra: list[Row] = _table(
        "an adapted module at a reprojection: rank kept, effective rank, energy kept, both factors' spectra",
        step="count",
        module="word",
        rank="count",
        effective_rank="finite",
        participation_ratio="finite",
        kept_energy="finite",
        fisher_a="vector",
        fisher_g="vector",
    )
    stages: list[Row] = _table(
        "an example of a task learned so far, or a document, after a stage of a sequence of tasks",
        after="count",
        learned="count?",
        task="word?",
        kind="word",
        value="number?",
        base_value="number?",
        tokens="count",
    )
    interleaved: list[Row] = _table(
        "a step of one of the methods that took turns",
        method="word",
        tokens="count",
        reprojected="count",
        **_TIMES,
    )

    audits: dict[str, list[Row]] = field(repr=False, default_factory=dict)

    def tables(self) -> dict[str, list[Row]]:
        """The tables that have rows, by name."""
        own = {name: getattr(self, name) for name in _OWN_TABLES}
        return {name: rows for name, rows in {**own, **self.audits}.items() if rows}


_OWN_TABLES: dict[str, TableSpec] = {
    item.name: item.metadata["table"] for item in fields(RunResult) if "table" in item.metadata
}
#: Every table of a result by its name; each becomes a file of its own.
TABLES: dict[str, TableSpec] = {**_OWN_TABLES, **{name: spec.table for name, spec in AUDITS.items()}}
