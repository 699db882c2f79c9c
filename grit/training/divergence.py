"""The rule by which a run is called diverged."""

from __future__ import annotations

import math
from collections import deque

#: Dropped steps in a row after which a run has diverged.
MAX_CONSECUTIVE_SKIPS = 3
#: A run has diverged when its mean loss over a window exceeds the mean over its first window by this factor.
LOSS_FACTOR = 2.0
WINDOW = 8


class DivergenceRule:
    """Diverged.

    Three steps in a row with non-finite gradients or loss, or a mean training loss over 8 steps above twice
    that of the first 8.
    """

    def __init__(self) -> None:
        self._first: list[float] = []
        self._recent: deque[float] = deque(maxlen=WINDOW)
        self._bad = 0

    def update(self, loss: float, *, skipped: bool) -> str | None:
        """Takes one step's loss in nats per token; returns the reason once the run has diverged."""
        if skipped or not math.isfinite(loss):
            self._bad += 1
            return (
                f"{self._bad} steps in a row with non-finite loss or gradients"
                if self._bad >= MAX_CONSECUTIVE_SKIPS
                else None
            )
        self._bad = 0
        if len(self._first) < WINDOW:
            self._first.append(loss)
            return None
        self._recent.append(loss)
        before, now = sum(self._first) / WINDOW, sum(self._recent) / WINDOW
        if len(self._recent) == WINDOW and now > LOSS_FACTOR * before:
            limit = f"{LOSS_FACTOR:g} times its first {WINDOW} steps' {before:.3g}"
            return f"training loss {now:.3g} over {WINDOW} steps is above {limit}"
        return None

    def state_dict(self) -> dict[str, list[float] | int]:
        """For a checkpoint."""
        return {"first": list(self._first), "recent": list(self._recent), "bad": self._bad}

    def load_state_dict(self, state: dict[str, list[float] | int]) -> None:
        """Restores `state_dict()`."""
        first, recent, bad = state["first"], state["recent"], state["bad"]
        assert isinstance(first, list) and isinstance(recent, list) and isinstance(bad, int)
        self._first, self._recent, self._bad = list(first), deque(recent, maxlen=WINDOW), bad
