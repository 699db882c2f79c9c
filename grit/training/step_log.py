"""The table `telemetry`: one row per optimizer step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from grit.geometry.handle import GritHandle
from grit.io.files import Row
from grit.runtime.clock import StepClock
from grit.runtime.step_sections import SECTIONS

#: Steps between reads of the clock: on a GPU a read waits for the device.
READ_EVERY = 50


@dataclass(frozen=True, kw_only=True)
class StepRow:
    """One optimizer step, counted from 1; what GRIT alone has is None for other methods.

    Attributes:
        train_seconds: since the run began, this step included.
        loss: mean over the step's labelled tokens, nats per token.
        tokens: since the run began.
    """

    step: int
    train_seconds: float
    loss: float
    learning_rate: float
    grad_norm: float
    tokens: int
    effective_parameters: int | None
    mean_rank: float | None

    def row(self) -> Row:
        """As the table has it, before its component times are known."""
        return asdict(self)


def component_times(spent: Mapping[str, float]) -> Row:
    """The columns of a step's component times (ms), and their sum."""
    times = {f"ms_{name}": spent[name] for name in SECTIONS}
    return {**times, "ms_step": sum(spent.values())}


class StepLog:
    """Rows of telemetry. Component times (ms) are filled in when the clock is read."""

    def __init__(self, clock: StepClock) -> None:
        self.rows: list[Row] = []
        self._clock, self._filled = clock, 0

    def add(
        self,
        step: int,
        train_seconds: float,
        *,
        loss: float,
        learning_rate: float,
        grad_norm: float,
        tokens: int,
        handle: GritHandle | None,
    ) -> None:
        """Adds the row of optimizer step `step` (from 1)."""
        ranks = None if handle is None else list(handle.ranks().values())
        row = StepRow(
            step=step,
            train_seconds=train_seconds,
            loss=loss,
            learning_rate=learning_rate,
            grad_norm=grad_norm,
            tokens=tokens,
            effective_parameters=None if handle is None else handle.effective_parameters(),
            mean_rank=None if ranks is None else sum(ranks) / len(ranks),
        )
        self.rows.append(row.row())
        if len(self.rows) - self._filled >= READ_EVERY:
            self.flush()

    def flush(self) -> None:
        """Fills in the component times of the rows so far."""
        for spent in self._clock.read():
            self.rows[self._filled].update(component_times(spent))
            self._filled += 1

    def restore(self, rows: list[Row]) -> None:
        """Takes over the rows of a checkpoint, all of them filled."""
        self.rows = list(rows)
        self._filled = len(rows)
