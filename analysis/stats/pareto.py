"""Dominance, fronts, hypervolume and the knee, on cost arrays: lower is better in every column."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from analysis.stats.arrays import Floats


def non_dominated(cost: Floats) -> NDArray[np.bool_]:
    """Mask (n,) of the rows of (n, d) that no other row dominates.

    A row with a NaN is never on the front and dominates nothing.
    """
    valid = np.asarray(~np.isnan(cost).any(axis=1), dtype=bool)
    dominated = (_dominates(cost) & valid[:, None]).any(axis=0)
    return np.asarray(valid & ~dominated, dtype=bool)


def _dominates(cost: Floats) -> NDArray[np.bool_]:
    """(n, n): whether row i of (n, d) dominates row j; one objective at a time, which keeps arrays small."""
    no_worse = np.ones((len(cost), len(cost)), dtype=bool)
    better = np.zeros_like(no_worse)
    for column in cost.T:
        no_worse &= column[:, None] <= column[None, :]
        better |= column[:, None] < column[None, :]
    return no_worse & better


def hypervolume(cost: Floats, reference: Floats) -> float:
    """Volume of the space between the front and `reference` (d,), exactly.

    By slicing along the last objective.

    Rows that do not reach below the reference in every objective add nothing.
    """
    inside = cost[(cost < reference).all(axis=1)]
    if len(inside) == 0:
        return 0.0
    if inside.shape[1] == 1:
        return float(reference[0] - inside.min())
    if inside.shape[1] == 2:
        return _area(inside, reference)
    order = np.argsort(inside[:, -1], kind="stable")
    inside = inside[order]
    edges = np.append(inside[:, -1], reference[-1])
    volume = 0.0
    for count in range(1, len(inside) + 1):
        depth = edges[count] - edges[count - 1]
        if depth > 0:
            slab = inside[:count, :-1]
            volume += depth * hypervolume(slab[non_dominated(slab)], reference[:-1])
    return float(volume)


def _area(inside: Floats, reference: Floats) -> float:
    """The same of two objectives: a staircase."""
    steps = inside[np.argsort(inside[:, 0], kind="stable")]
    widths = np.diff(np.append(steps[:, 0], reference[0]))
    heights = reference[1] - np.minimum.accumulate(steps[:, 1])
    broad = widths > 0
    return float((widths[broad] * heights[broad]).sum())


def knee(cost: Floats) -> int | None:
    """The front row of (n, d) that is nearest to the ideal point.

    Each objective scaled to the front's own range; None without a front.

    Objectives in which the whole front is equal do not count. Ties go to the first.
    """
    on_front = np.flatnonzero(non_dominated(cost))
    if len(on_front) == 0:
        return None
    members = cost[on_front]
    low, span = members.min(axis=0), np.ptp(members, axis=0)
    scaled = np.where(span > 0, (members - low) / np.where(span > 0, span, 1), 0.0)
    return int(on_front[int(np.argmin((scaled**2).sum(axis=1)))])
