"""One row per optimizer step: loss, clock, components, ranks and events; and the peak of memory."""

from __future__ import annotations

import json

from grit.geometry.attach import Event, GritHandle
from grit.runtime.clock import SECTIONS, StepClock
from grit.training.result import Row

#: Steps between reads of the clock: on a GPU a read waits for the device.
READ_EVERY = 50


class StepLog:
    """Rows of telemetry. Component times (ms) are filled in when the clock is read."""

    def __init__(self, clock: StepClock) -> None:
        self.rows: list[Row] = []
        self._clock, self._filled, self._events_seen = clock, 0, 0

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
        """Adds the row of optimizer step `step` (from 1); events since the last row belong to it."""
        events = [] if handle is None else self._new_events(handle)
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
                "events": json.dumps(events) if events else None,
            }
        )
        if len(self.rows) - self._filled >= READ_EVERY:
            self.flush()

    def _new_events(self, handle: GritHandle) -> list[Event]:
        """What has happened since the last look."""
        events = handle.events[self._events_seen :]
        self._events_seen += len(events)
        return events

    def finish(self, handle: GritHandle) -> None:
        """Adds what happened after the last step to its row."""
        events = self._new_events(handle)
        if events and self.rows:
            earlier = json.loads(self.rows[-1]["events"] or "[]")
            self.rows[-1]["events"] = json.dumps([*earlier, *events])

    def flush(self) -> None:
        """Fills in the component times of the rows so far."""
        for spent in self._clock.read():
            row = self.rows[self._filled]
            row.update({f"ms_{name}": spent[name] for name in SECTIONS})
            row["ms_step"] = sum(spent.values())
            self._filled += 1

    def restore(self, rows: list[Row], handle: GritHandle | None) -> None:
        """Takes over the rows of a checkpoint, all of them filled."""
        self.rows = list(rows)
        self._filled = len(rows)
        self._events_seen = 0 if handle is None else len(handle.events)
