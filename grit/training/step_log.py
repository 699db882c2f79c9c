"""The table `telemetry`: one row per optimizer step."""

from __future__ import annotations

from grit.geometry.handle import GritHandle
from grit.runtime.clock import StepClock
from grit.runtime.sections import SECTIONS
from grit.training.measurements import Row

#: Steps between reads of the clock: on a GPU a read waits for the device.
READ_EVERY = 50


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
        self.rows.append(
            {
                "step": step,
                "train_seconds": train_seconds,
                "loss": loss,
                "learning_rate": learning_rate,
                "grad_norm": grad_norm,
                "tokens": tokens,
                "effective_parameters": None if handle is None else handle.effective_parameters(),
                "mean_rank": None if ranks is None else sum(ranks) / len(ranks),
            }
        )
        if len(self.rows) - self._filled >= READ_EVERY:
            self.flush()

    def flush(self) -> None:
        """Fills in the component times of the rows so far."""
        for spent in self._clock.read():
            row = self.rows[self._filled]
            row.update({f"ms_{name}": spent[name] for name in SECTIONS})
            row["ms_step"] = sum(spent.values())
            self._filled += 1

    def restore(self, rows: list[Row]) -> None:
        """Takes over the rows of a checkpoint, all of them filled."""
        self.rows = list(rows)
        self._filled = len(rows)
