"""Spending seeds where they decide: how a study may grow. Data only."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

#: Seeds that every setting begins with, and those of the default and the control, which all contrasts share.
FIRST_SEEDS, SHARED_SEEDS = 2, 3
#: Seeds that a setting can have at most, where none are named.
MOST_SEEDS = 8


class SequentialDesign(BaseModel):
    """A study that begins with few seeds and adds trials until its settings are decided.

    A study's `seeds` are then those that a setting can have at most, in the order in which it gets them.

    Attributes:
        first_seeds: of every setting.
        shared_seeds: of the default and the control.
        max_trials: of the whole study, those that ran before a resumption among them; None: no limit.
        max_hours: wall hours of one call, counted from its first trial.
        max_gpu_hours: training hours of all trials times the GPUs of one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    first_seeds: Annotated[int, Field(ge=1)] = FIRST_SEEDS
    shared_seeds: Annotated[int, Field(ge=1)] = SHARED_SEEDS
    max_trials: Annotated[int, Field(ge=1)] | None = None
    max_hours: Annotated[float, Field(gt=0)] | None = None
    max_gpu_hours: Annotated[float, Field(gt=0)] | None = None

    def identity(self) -> tuple[int, int]:
        """What makes a study another one: a resumption may have other limits."""
        return self.first_seeds, self.shared_seeds
