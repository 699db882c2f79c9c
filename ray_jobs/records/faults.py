"""Why an attempt at a trial ended early: each kind of fault declared once, with what it may cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FaultKind = Literal["infrastructure", "preemption", "node", "device", "configuration", "trial"]


@dataclass(frozen=True, kw_only=True)
class FaultSpec:
    """What a kind of fault means.

    Attributes:
        meaning: in one phrase.
        retries: how often a trial is tried again after faults of this kind; None for without end.
        backoff_seconds: before the first retry; doubled for each further one, up to `MAX_BACKOFF_SECONDS`.
        avoids_node: whether the trial is not tried on that node again, as long as there is another.
        blames_node: whether it counts against the node it happened on, for all trials.
    """

    meaning: str
    retries: int | None
    backoff_seconds: float = 0.0
    avoids_node: bool = False
    blames_node: bool = False


#: No retry waits longer than this.
MAX_BACKOFF_SECONDS = 300.0
#: Faults that a node may be blamed for before no trial goes there any more.
NODE_PATIENCE = 3

FAULTS: dict[FaultKind, FaultSpec] = {
    "infrastructure": FaultSpec(
        meaning="its worker died or hung, or could not be reached",
        retries=3,
        backoff_seconds=5.0,
        avoids_node=True,
        blames_node=True,
    ),
    "preemption": FaultSpec(meaning="its node was taken away, or its process told to end", retries=None),
    "node": FaultSpec(
        meaning="a node was not fit for it",
        retries=10,
        backoff_seconds=1.0,
        avoids_node=True,
        blames_node=True,
    ),
    "device": FaultSpec(
        meaning="a node's device is another than that of the study's time budgets",
        retries=10,
        backoff_seconds=1.0,
        avoids_node=True,
    ),
    "configuration": FaultSpec(meaning="it cannot run as it is", retries=0),
    "trial": FaultSpec(meaning="it raised", retries=0),
}


def backoff(kind: FaultKind, retry: int) -> float:
    """Seconds to wait before retry number `retry` (from 1) after faults of a kind."""
    return min(MAX_BACKOFF_SECONDS, FAULTS[kind].backoff_seconds * 2.0 ** (retry - 1))
