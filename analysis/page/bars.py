"""Points with error bars: computed as numbers, drawn the same way everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from analysis.evidence.point_summary import PointSummary
from analysis.stats.arrays import Floats
from analysis.stats.estimates import Interval


@dataclass(frozen=True, kw_only=True)
class Bars:
    """Values (n,) at places x (n,), and how far each bar reaches below and above (n,)."""

    x: Floats
    y: Floats
    below: Floats
    above: Floats

    @classmethod
    def of_intervals(cls, x: Sequence[float], intervals: Sequence[Interval]) -> Bars:
        """The bars are the intervals."""
        return cls(
            x=np.array(x, dtype=float),
            y=np.array([one.mean for one in intervals]),
            below=np.array([max(0.0, one.mean - one.low) for one in intervals]),
            above=np.array([max(0.0, one.high - one.mean) for one in intervals]),
        )

    @classmethod
    def of_spreads(
        cls, x: Sequence[float], points: Sequence[PointSummary], name: str, scale: float = 1.0
    ) -> Bars:
        """Means over seeds; the bars are one standard deviation, none with one seed."""
        spreads = scale * np.array([p.spread(name) or 0.0 for p in points])
        return cls(
            x=np.array(x, dtype=float),
            y=scale * np.array([p.mean(name) for p in points]),
            below=spreads,
            above=spreads,
        )

    def draw(self, axis: Axes, **style: Any) -> None:
        """Onto an axis."""
        axis.errorbar(self.x, self.y, yerr=np.stack([self.below, self.above]), capsize=2, **style)


def shown_counts(points: Sequence[PointSummary]) -> str:
    """How many seeds stand behind the points of a figure; empty without any."""
    counts = sorted({len(p.seeds) for p in points if p.records})
    if not counts:
        return ""
    span = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"n = {span} seed{'s' if counts[-1] > 1 else ''} a point"


def shown_seeds(point: PointSummary) -> str:
    """How many seeds a mean is over."""
    return f"{len(point.seeds)} seed{'s' if len(point.seeds) > 1 else ''}"
