"""One kind of device for all time-matched trials of a study: a second of another buys other steps."""

from __future__ import annotations

from collections.abc import Iterable

from ray_jobs.records.trial_record import TrialRecord


class TimedDevice:
    """The device that a study's time budgets are for: the first that asks, where none was measured.

    Args:
        name: its model, where it is known.
    """

    def __init__(self, name: str | None = None) -> None:
        self._name = name

    def refusal(self, name: str) -> str | None:
        """Why a device gets no time-matched trial of this study; None where it does."""
        self._name = self._name or name
        if name == self._name:
            return None
        return f"it is a {name}, and time budgets of this study are for a {self._name}"


def device_of(records: Iterable[TrialRecord]) -> str | None:
    """That of the time-matched trials that have ended already; None where it is not on record."""
    timed = (record for record in records if record.ended and record.plan.regime == "time")
    return next((record.device for record in timed if record.device is not None), None)
