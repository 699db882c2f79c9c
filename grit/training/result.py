"""What a run leaves behind: how it ended, what was measured, and its tables. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from grit.io.files import Row
from grit.runtime.step_sections import SECTIONS
from grit.training.measurements import Measurements

RunStatus = Literal["completed", "diverged", "stopped"]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    return _is_number(value) and math.isfinite(value)


#: What a cell may hold; `?` behind the word allows nothing as well.
CELLS: dict[str, Callable[[Any], bool]] = {
    "word": lambda value: isinstance(value, str),
    "count": lambda value: isinstance(value, int),
    "number": _is_number,
    "finite": _is_finite,
    "vector": lambda value: isinstance(value, list) and all(map(_is_finite, value)),
}


@dataclass(frozen=True, kw_only=True)
class TableSpec:
    """One of a result's tables.

    Attributes:
        what: a row is.
        columns: those that readers rely on, with what their cells hold; there may be more.
    """

    what: str
    columns: Mapping[str, str]

    def problem(self, columns: Mapping[str, Sequence[Any]]) -> str | None:
        """Why a table by columns is none of this kind; None where it is one."""
        for name, kind in self.columns.items():
            if name not in columns:
                return f"lacks the column {name!r}"
            holds = CELLS[kind.rstrip("?")]
            optional = kind.endswith("?")
            if not all((value is None and optional) or holds(value) for value in columns[name]):
                return f"holds something else than a {kind.rstrip('?')} in the column {name!r}"
        return None


def _table(what: str, **columns: str) -> Any:
    """A field of `RunResult` that is a table: rows with the same columns, of which a study makes a file."""
    spec = TableSpec(what=what, columns=columns)
    return field(repr=False, default_factory=list, metadata={"table": spec})


#: Columns of the component times, in every table of steps.
_TIMES = {f"ms_{name}": "finite" for name in (*SECTIONS, "step")}


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """The outcome of one run. Tables of audits are empty where the run does not ask for them.

    Attributes:
        reason: why it did not spend its budget; None where it did.
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
    stability: list[Row] = _table("how steady a factor or the updates are over time", kind="word")
    truncated: list[Row] = _table(
        "an example or document of the adapter truncated in one way",
        way="word",
        k="word",
        kind="word",
        value="finite",
        loss="finite?",
        parameters="count",
        bytes="count",
    )
    interleaved: list[Row] = _table(
        "a step of one of the methods that took turns",
        method="word",
        tokens="count",
        reprojected="count",
        **_TIMES,
    )

    def tables(self) -> dict[str, list[Row]]:
        """The tables that have rows, by name."""
        return {name: rows for name in TABLES if (rows := getattr(self, name))}


#: Every table of a result by its name; each becomes a file of its own.
TABLES: dict[str, TableSpec] = {
    item.name: item.metadata["table"] for item in fields(RunResult) if "table" in item.metadata
}
