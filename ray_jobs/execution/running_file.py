"""`running.json`: what a study's driver saw last, for whoever asks from outside (`python -m sweeps.status`).

It is there while a driver works. One that is still there and has not been written for a while says that the
driver was killed.
"""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from grit.io.files import write_atomically
from ray_jobs.records.describe import duration

RUNNING_FILE = "running.json"
#: Seconds between writings, and after how many without one the driver counts as gone.
WRITE_SECONDS, GONE_SECONDS = 2.0, 180.0


class RunningTrial(BaseModel):
    """A trial that trains, or a trunk that several share.

    Attributes:
        phase: what it does where it does not train.
        since: seconds since the epoch. left: seconds of training.
        place: host and process.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    trial_id: str
    method: str
    regime: str
    seed: int
    phase: str | None = None
    step: int | None = None
    share: float | None = None
    left: float | None = None
    loss: float | None = None
    mean_rank: float | None = None
    since: float | None = None
    place: str | None = None

    def standing(self) -> str:
        """Its phase, or step, share of the budget, what is left of it, loss and mean rank."""
        if self.loss is None or self.share is None:
            return self.phase or "starting"
        left = "" if self.left is None else f", {duration(self.left)} left"
        rank = "" if self.mean_rank is None else f", rank {self.mean_rank:.1f}"
        return f"step {self.step} ({self.share:.0%}{left}), loss {self.loss:.3f}{rank}"


class RunningFile(BaseModel):
    """What the driver saw.

    Attributes:
        written: seconds since the epoch.
        pid, host: the driver's.
        expected: trials, as far as they are planned.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    written: float
    pid: int
    host: str
    expected: int
    trials: tuple[RunningTrial, ...] = ()

    @property
    def is_fresh(self) -> bool:
        """Whether its driver is there still."""
        if self.host == platform.node():
            return _is_there(self.pid)
        return time.time() - self.written < GONE_SECONDS


class RunningWriter:
    """Writes the file now and then; what a full disk does not take is left out."""

    def __init__(self, folder: Path) -> None:
        self._path, self._latest = folder / RUNNING_FILE, 0.0

    def write(self, expected: int, running: Mapping[str, Mapping[str, Any]]) -> None:
        """What runs now, by job, unless that was written a moment ago."""
        now = time.time()
        if now - self._latest < WRITE_SECONDS:
            return
        self._latest = now
        trials = [RunningTrial(trial_id=job_id, **progress) for job_id, progress in running.items()]
        seen = RunningFile(
            written=now, pid=os.getpid(), host=platform.node(), expected=expected, trials=tuple(trials)
        )
        with contextlib.suppress(OSError):
            write_atomically(self._path, seen.model_dump_json(indent=2))

    def remove(self) -> None:
        """The driver ends."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is another user's
        return True
    return True


def read_running(folder: Path) -> RunningFile | None:
    """The file of a study's folder; None where there is none that can be read."""
    try:
        return RunningFile.model_validate_json((folder / RUNNING_FILE).read_bytes())
    except (OSError, ValidationError):
        return None
