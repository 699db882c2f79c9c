"""What a worker leaves of a job, on its way to the record. Plain data, without torch."""

from __future__ import annotations

from dataclasses import dataclass

from grit.training.measurements import Measurements
from ray_jobs.records.trial_record import Attempt, TrialRecord
from ray_jobs.records.trunk_record import TrunkOutcome

#: A trial's status, or `trunk` for a trunk that is ready, `unwritten` for a trial whose tables found no room
#: on the disk.
JobStatus = str


class TrialFailedError(RuntimeError):
    """A trial's worker raised; the record holds the reason."""


@dataclass(frozen=True, kw_only=True)
class Fork:
    """The trunk that a trial went on from: its step, and what had been spent on it."""

    trunk_id: str
    step: int
    train_seconds: float
    eval_seconds: float


@dataclass(frozen=True, kw_only=True)
class JobOutcome:
    """What a worker says of a job that it has ended.

    Attributes:
        error: why it did not complete, in one line. traceback: the whole of it, where it raised.
        measured: of a trial. trunk: of a trunk.
        setup_seconds: between the delivery and the end of the first step, without that step.
    """

    status: JobStatus
    error: str | None = None
    traceback: str | None = None
    measured: Measurements | None = None
    trunk: TrunkOutcome | None = None
    setup_seconds: float | None = None
    fork: Fork | None = None


@dataclass(frozen=True, kw_only=True)
class Collected:
    """An outcome with what the board knows of it: who had the job, how often it was delivered, and when."""

    outcome: JobOutcome
    worker: str | None = None
    deliveries: tuple[Attempt, ...] = ()
    queued_at: float | None = None
    ended_at: float | None = None

    @property
    def attempts(self) -> int:
        """How often it was delivered."""
        return len(self.deliveries)

    @property
    def started_at(self) -> float | None:
        """When it was first delivered."""
        return self.deliveries[0].began_at if self.deliveries else None


def filled(record: TrialRecord, collected: Collected) -> TrialRecord:
    """The planned record with the outcome of its run."""
    outcome, fork = collected.outcome, collected.outcome.fork
    assert outcome.status not in ("trunk", "unwritten")
    return record.changed(
        status=outcome.status,
        error=outcome.error,
        measured=outcome.measured or Measurements(),
        worker=collected.worker,
        attempts=collected.attempts,
        deliveries=collected.deliveries,
        queued_at=collected.queued_at,
        started_at=collected.started_at,
        ended_at=collected.ended_at,
        setup_seconds=outcome.setup_seconds,
        forked_from=None if fork is None else fork.trunk_id,
        forked_at_step=None if fork is None else fork.step,
        fork_seconds=None if fork is None else fork.train_seconds,
        fork_eval_seconds=None if fork is None else fork.eval_seconds,
    )
