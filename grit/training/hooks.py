"""Who watches a run on its way, and what they are told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

#: Called after every optimizer step with (step, share of the budget used, loss in nats per token, mean rank).
Progress = Callable[[int, float, float, float], None]


@dataclass(frozen=True, kw_only=True)
class Interim:
    """An evaluation on the way.

    Attributes:
        number: from 1. share: of the budget used.
        scores: quality per example. document_losses: per held-out document, in nats per token.
        footprint, overhead: so far.
    """

    number: int
    share: float
    scores: tuple[float, ...]
    document_losses: tuple[float, ...]
    footprint: float
    overhead: float


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """Who watches a run, and may end it cleanly (status `stopped`).

    Attributes:
        progress: told of every step.
        should_stop: asked between steps.
        evaluated: told of every evaluation before the last; True ends the run.
    """

    progress: Progress | None = None
    should_stop: Callable[[], bool] | None = None
    evaluated: Callable[[Interim], bool] | None = None
