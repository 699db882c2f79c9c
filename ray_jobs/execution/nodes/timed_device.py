"""One kind of device for all time-matched trials of a study: a second of another buys other steps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ray_jobs.records.trial_record import TrialRecord


class TimedDevice:
    """The device that a study's time budgets are for: the first that asks, where none was measured.

    Args:
        name: its model, where it is known.
    """

    def __init__(self, name: str | None = None) -> None:
        self._name = name

    def refusal(self, names: Sequence[str]) -> str | None:
        """Why workers on these devices get no time-matched trial of this study; None where they do."""
        wanted = self._name or names[0]
        others = sorted(set(names) - {wanted})
        if others:
            return f"it is a {' and a '.join(others)}, and time budgets of this study are for a {wanted}"
        self._name = wanted
        return None


def device_of(records: Iterable[TrialRecord]) -> str | None:
    """That of the time-matched trials that have ended already; None where it is not on record."""
    timed = (record for record in records if record.ended and record.plan.regime == "time")
    return next((record.device for record in timed if record.device is not None), None)
