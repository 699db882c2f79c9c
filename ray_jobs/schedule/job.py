"""What is handed to a worker."""

from __future__ import annotations

from dataclasses import dataclass

from grit.config.run_config import RunConfig


@dataclass(frozen=True, kw_only=True)
class Job:
    """One thing for a worker to do: a trial, or a trunk that trials go on from.

    Attributes:
        job_id: the trial's id, or the trunk's.
        trunk_steps: None for a trial; the steps a trunk trains.
        fork_from: id of the trunk whose checkpoint it starts from, or None.
        may_stop: whether it may stop early when it is dominated; None where no trial of the study may, and
            standings need not be told.
    """

    job_id: str
    config: RunConfig
    trunk_steps: int | None = None
    fork_from: str | None = None
    may_stop: bool | None = None
