"""Where a point stands against another method's frontier of quality over forgetting.

Pure functions on (seeds, items) matrices.

At the measured means a frontier's quality at some forgetting is a weighted sum of two of its points, so the
gap is a mean over seeds and examples like any other difference, and gets the same interval
(analysis/stats/estimates.py); what is uncertain in forgetting enters with the frontier's slope.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.stats.arrays import Floats
from analysis.stats.estimates import Estimate, estimate


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Where a frontier lies at some forgetting: between the points `gentle` and `harsh`.

    Both are indices. `gentle` None: the untuned model; `harsh` None: nothing harsher is better. `weight` is
    the harsh point's share, `slope` the quality per nat per token there.
    """

    gentle: int | None
    harsh: int | None
    weight: float
    slope: float


def segment_at(forgetting: Floats, quality: Floats, base: float, at: float) -> Segment:
    """The frontier of some points at a forgetting.

    Linear between those that nothing gentler beats, from the untuned model; flat beyond the last.

    Args:
        forgetting: of the points (k,), in any order.
        quality: of the same points.
        base: quality of the untuned model, which forgets nothing.
        at: the forgetting asked for; below 0 it counts as 0.
    """
    corners: list[tuple[float, float, int | None]] = [(0.0, base, None)]
    for index in np.argsort(forgetting):
        x, y = max(float(forgetting[index]), 0.0), float(quality[index])
        if y > corners[-1][1]:
            corners.append((x, y, int(index)))
    at = max(at, 0.0)
    for (x0, y0, gentle), (x1, y1, harsh) in zip(corners, corners[1:], strict=False):
        if x0 <= at < x1:
            return Segment(
                gentle=gentle, harsh=harsh, weight=(at - x0) / (x1 - x0), slope=(y1 - y0) / (x1 - x0)
            )
    return Segment(gentle=corners[-1][2], harsh=None, weight=0.0, slope=0.0)


@dataclass(frozen=True, kw_only=True)
class SettingValues:
    """One setting.

    Quality (seeds, examples), forgetting (seeds, documents) in nats per token with the documents' weights.
    """

    quality: Floats
    forgetting: Floats
    weights: Floats

    @property
    def by_seed(self) -> Floats:
        """Forgetting per seed, (seeds,)."""
        return np.asarray(np.average(self.forgetting, axis=1, weights=self.weights), dtype=float)


@dataclass(frozen=True, kw_only=True)
class Gap:
    """A point's quality minus the frontier's at its forgetting.

    And minus that of the frontier's next harsher point (None: there is none).
    """

    chord: Estimate
    harsher: Estimate | None

    def verdict(self, p_value: float) -> str:
        """`above` only where the next harsher point is beaten too.

        Between two points a frontier is known to lie above their chord, not where.

        Args:
            p_value: of the chord's gap, corrected for how many gaps are looked at.
        """
        if p_value > 0.05 or self.chord.verdict() == "inconclusive":
            return "inconclusive"
        if self.chord.verdict() == "worse":
            return "below LoRA's frontier"
        if self.harsher is None:
            return "better than LoRA anywhere, and harsher"
        return (
            "above LoRA's frontier"
            if self.harsher.verdict() == "better"
            else "above the chord, within the gap of LoRA's grid"
        )


def gap_to(point: SettingValues, frontier: Sequence[SettingValues], untuned: Floats) -> Gap:
    """All with the same seeds, examples and documents.

    `untuned` is the model's quality before training, (examples,).
    """
    base = np.broadcast_to(untuned, point.quality.shape)
    segment = segment_at(
        np.array([side.by_seed.mean() for side in frontier]),
        np.array([side.quality.mean() for side in frontier]),
        float(untuned.mean()),
        float(point.by_seed.mean()),
    )
    zero = np.zeros(len(point.quality))

    def quality(index: int | None) -> Floats:
        return np.asarray(base if index is None else frontier[index].quality, dtype=float)

    def forgetting(index: int | None) -> Floats:
        return zero if index is None else frontier[index].by_seed

    if segment.harsh is None:
        return Gap(chord=estimate(point.quality - quality(segment.gentle)), harsher=None)
    there = (1 - segment.weight) * quality(segment.gentle) + segment.weight * quality(segment.harsh)
    astray = (
        point.by_seed
        - (1 - segment.weight) * forgetting(segment.gentle)
        - segment.weight * forgetting(segment.harsh)
    )
    return Gap(
        chord=estimate(point.quality - there - segment.slope * astray[:, None]),
        harsher=estimate(point.quality - quality(segment.harsh)),
    )
