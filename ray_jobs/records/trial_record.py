"""The record of one trial: the border between running and analysing. Needs neither Ray nor torch.

A trial is its plan, its whole resolved configuration, its measurements, its place and its times. Times are
Unix seconds where they say when, and seconds where they say how long.
"""

from __future__ import annotations

import math
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from grit.config.registry import Method
from grit.config.run_config import RunConfig
from grit.config.sections import Regime
from grit.io.versions import SCHEMA_VERSION
from grit.training.measurements import OBJECTIVES, Measurements
from ray_jobs.records.faults import FaultKind
from ray_jobs.records.trial_status import STATUSES, TrialStatus

#: Trials and trunks are named by hashes, which are safe as names of files.
ID_PATTERN = r"^[A-Za-z0-9_-]{1,64}$"


class _RecordPart(BaseModel):
    """What all parts of a record share."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TrialPlan(_RecordPart):
    """Which setting, in which regime, with which seed; and who asked for it.

    Attributes:
        point_id: the same for all seeds and budgets of a setting.
        design: the design that asked first; `also_designs` those that asked for the same trial.
        overrides: what the setting changes against the study's base configuration.
    """

    point_id: str = Field(pattern=ID_PATTERN)
    design: str
    also_designs: tuple[str, ...] = ()
    regime: Regime
    seed: int
    overrides: dict[str, Any] = {}

    @property
    def designs(self) -> tuple[str, ...]:
        """All of them."""
        return (self.design, *self.also_designs)


class Attempt(_RecordPart):
    """One delivery of a trial to a worker.

    Attributes:
        worker: the slot that took it, or the node and process.
        began_at: when, in seconds since the epoch.
        lost_at: when its worker was found to have died in it; None for the attempt that said how it ended.
        fault: the kind of what ended it early. error: what that was, in one line.
        admission: what its worker was found to be before it got the trial (`Admission.row()`); None where
            workers are not examined.
    """

    worker: str
    began_at: float
    lost_at: float | None = None
    fault: FaultKind | None = None
    error: str | None = None
    admission: dict[str, Any] | None = None


class TrialPlace(_RecordPart):
    """Where a trial ran, and what it began with.

    Attributes:
        attempts: how many there were. (A record of version 1 has the number alone.)
        deliveries: each of them, in order.
        reused_from: the study in the same store that ran it.
        forked_from: the trunk whose first `forked_at_step` steps it shares with other trials.
    """

    worker: str | None = None
    attempts: int = 0
    deliveries: tuple[Attempt, ...] = ()
    reused_from: str | None = None
    forked_from: str | None = None
    forked_at_step: int | None = None


class TrialTimes(_RecordPart):
    """When a trial ran, and what of it was not its own.

    Attributes:
        setup_seconds: between a worker's taking the trial and its first step (evaluation of the untuned model
            included, the first time).
        fork_seconds, fork_eval_seconds: training and evaluation that its trunk did.
    """

    queued_at: float | None = None
    started_at: float | None = None
    ended_at: float | None = None
    setup_seconds: float | None = None
    fork_seconds: float | None = None
    fork_eval_seconds: float | None = None


class TrialRecord(_RecordPart):
    """One planned trial and, once it has run, its outcome.

    Attributes:
        error: why it did not complete, in one line.
        damage: what of its files could not be read by whom holds this record; never written.
    """

    schema_version: int = SCHEMA_VERSION
    trial_id: str = Field(pattern=ID_PATTERN)
    plan: TrialPlan
    config: RunConfig
    status: TrialStatus = "planned"
    error: str | None = None
    measured: Measurements = Measurements()
    place: TrialPlace = TrialPlace()
    times: TrialTimes = TrialTimes()
    damage: str | None = Field(default=None, exclude=True)

    @property
    def method(self) -> Method:
        """Of the run."""
        return self.config.method

    @property
    def tau(self) -> float | None:
        """None for a method that has no such knob; the same holds for T and lambda."""
        return self.config.grit.tau if self.config.uses_grit else None

    @property
    def T(self) -> int | None:
        """None as well where reprojection is off (`tau` then tells the two apart)."""
        return self.config.grit.T if self.config.uses_grit else None

    @property
    def lambda_(self) -> float | None:
        """The damping."""
        return self.config.grit.lambda_ if self.config.uses_grit else None

    @property
    def device(self) -> str | None:
        """The model of the processor or GPU that it ended on; None where workers were not examined."""
        admission = self.place.deliveries[-1].admission if self.place.deliveries else None
        return None if admission is None else admission.get("name")

    @property
    def ended(self) -> bool:
        """Whether there is nothing left to run."""
        return STATUSES[self.status].ended

    @property
    def usable(self) -> bool:
        """Whether its objectives may enter statistics.

        It spent its budget, and all of them are finite and readable.
        """
        values = [getattr(self.measured, name) for name in OBJECTIVES]
        finite = all(value is not None and math.isfinite(value) for value in values)
        return self.status == "completed" and finite and self.damage is None

    def changed(self, **values: Any) -> TrialRecord:
        """This record with some of its fields, or of its plan, place and times, replaced."""
        update: dict[str, Any] = {}
        for part in ("plan", "place", "times"):
            held = getattr(self, part)
            inside = {name: values.pop(name) for name in list(values) if name in type(held).model_fields}
            if inside:
                update[part] = held.model_copy(update=inside)
        return self.model_copy(update={**update, **values})

    def to_json(self) -> str:
        """One line of strict JSON; a number that is not finite becomes null."""
        return self.model_dump_json()
