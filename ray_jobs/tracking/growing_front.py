"""The front as a table that grows with the study: who was on it after how many trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from grit.training.measurements import OBJECTIVES
from ray_jobs.tracking.marks import SettingMarks

COLUMNS = ("trials", "setting", *OBJECTIVES, "n")


class GrowingFront:
    """One regime's table."""

    def __init__(self) -> None:
        self._rows: list[list[Any]] = []
        self._last: list[list[Any]] = []

    def add(self, trials: int, members: Sequence[SettingMarks], names: Mapping[str, str]) -> bool:
        """Adds the front after so many trials, unless it is what it was; returns whether it did.

        Args:
            trials: that have ended.
            members: settings on the front.
            names: of settings, by point_id.
        """
        front = []
        for setting in members:
            means = [setting.objectives[name].mean for name in OBJECTIVES]
            front.append([names.get(setting.point_id, setting.point_id), *means, setting.seeds])
        if front == self._last:
            return False
        self._last = front
        self._rows += [[trials, *row] for row in front]
        return True

    def table(self) -> dict[str, Any]:
        """As MLflow's tables are written."""
        return {"columns": list(COLUMNS), "data": self._rows}
