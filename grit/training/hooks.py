"""Who watches a run on its way, and what they are told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

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
        phase: told what begins, in a few words: scoring the untuned model, training, evaluation.
        should_stop: asked between steps.
        should_save: asked between steps: whether a checkpoint is wanted now, whatever the cadence. Every
            worker of a run asks, and all must hear the same.
        saved: told of every checkpoint, on every worker, with the run's folder.
        evaluated: told of every evaluation before the last; True ends the run.
    """

    progress: Progress | None = None
    phase: Callable[[str], None] = lambda name: None
    should_stop: Callable[[], bool] | None = None
    should_save: Callable[[], bool] | None = None
    saved: Callable[[Path], None] | None = None
    evaluated: Callable[[Interim], bool] | None = None
