"""How the learning rate goes over a run."""

from __future__ import annotations

import math


def learning_rate_factor(progress: float, warmup: float) -> float:
    """Linear warm-up over the first `warmup` of the budget (from a tenth of the rate), then cosine to zero.

    `progress` lies in [0, 1], on the budget's own clock.
    """
    if progress < warmup:
        return max(progress / warmup, 0.1)
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / max(1 - warmup, 1e-9)))
