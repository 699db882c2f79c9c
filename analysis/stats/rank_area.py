"""The area under a score over the ranks of one adapter (AURAC, Modoranu et al., 2026)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from analysis.stats.arrays import Floats


def rank_weights(ranks: Sequence[int]) -> Floats:
    """What each rank counts, summing to 1: trapezoids over log2 of the rank, as shares of its range.

    The paper's code logs the area over the rank itself as well; over its logarithm all sizes count alike.

    Args:
        ranks: ascending, at least one.
    """
    if len(ranks) == 1:
        return np.ones(1)
    places = np.log2(np.asarray(ranks, dtype=float))
    halves = np.diff(places) / 2
    weights = np.zeros(len(ranks))
    weights[:-1] += halves
    weights[1:] += halves
    shares: Floats = weights / weights.sum()
    return shares
