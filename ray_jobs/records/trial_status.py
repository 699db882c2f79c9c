"""The statuses of a trial, each declared once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator


@dataclass(frozen=True, kw_only=True)
class StatusSpec:
    """What a status means.

    Attributes:
        meaning: in one phrase.
        ended: there is nothing left to run.
        reusable: another study may take the outcome over.
        runs_again: a resumed study runs the trial again.
        mlflow: MLflow's word for a run that ended so.
    """

    meaning: str
    ended: bool = True
    reusable: bool = False
    runs_again: bool = False
    mlflow: str = "FAILED"


#: Every status there is, by name.
STATUSES: dict[str, StatusSpec] = {
    "completed": StatusSpec(meaning="its budget was spent", reusable=True, mlflow="FINISHED"),
    "diverged": StatusSpec(meaning="by the rule of grit/training/divergence.py", reusable=True),
    "failed": StatusSpec(
        meaning="it raised, or its worker died more often than it is retried", runs_again=True
    ),
    "stopped": StatusSpec(meaning="ended cleanly before its budget was spent", mlflow="KILLED"),
    "planned": StatusSpec(meaning="not run yet", ended=False, runs_again=True, mlflow="RUNNING"),
}


def _known(status: str) -> str:
    if status not in STATUSES:
        raise ValueError(f"must be one of {', '.join(STATUSES)}")
    return status


#: A name in `STATUSES`: a record with any other is refused.
TrialStatus = Annotated[str, AfterValidator(_known)]
