"""Where a point stands against another method's frontier of quality over forgetting.

Pure functions on (seeds, items) matrices.

At the measured means a frontier's quality at some forgetting is a weighted sum of two of its points, so the
gap is a mean over seeds and examples like any other difference; what is uncertain in forgetting enters with
the frontier's slope.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.stats.arrays import Floats
from analysis.stats.pooled_noise import Contrast, SettingScores, verdict_of
from analysis.stats.unlike import unlike_means


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

    chord: Contrast
    harsher: Contrast | None

    def verdict(self, p_value: float) -> str:
        """`above` only where the next harsher point is beaten too.

        Between two points a frontier is known to lie above their chord, not where.

        Args:
            p_value: of the chord's gap, corrected for how many gaps are looked at.
        """
        chord = verdict_of(self.chord.mean, p_value)
        if chord == "inconclusive":
            return chord
        if chord == "worse":
            return "below LoRA's frontier"
        if self.harsher is None:
            return "better than LoRA anywhere, and harsher"
        if verdict_of(self.harsher.mean, self.harsher.p_value) == "better":
            return "above LoRA's frontier"
        return "above the chord, within the gap of LoRA's grid"


@dataclass(frozen=True, kw_only=True)
class GapValues:
    """What a point's `Gap` is the mean of: (seeds, examples) each."""

    chord: Floats
    harsher: Floats | None


def gap_values(point: SettingValues, frontier: Sequence[SettingValues], untuned: Floats) -> GapValues:
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
        return GapValues(chord=point.quality - quality(segment.gentle), harsher=None)
    there = (1 - segment.weight) * quality(segment.gentle) + segment.weight * quality(segment.harsh)
    astray = (
        point.by_seed
        - (1 - segment.weight) * forgetting(segment.gentle)
        - segment.weight * forgetting(segment.harsh)
    )
    return GapValues(
        chord=point.quality - there - segment.slope * astray[:, None],
        harsher=point.quality - quality(segment.harsh),
    )


def gaps_of(values: Mapping[str, GapValues]) -> dict[str, Gap]:
    """Gaps of points to one frontier, of the noise of all of them together but for erratic ones.

    What the frontier does with a seed is common to all gaps; what a point does with it is its own, and
    estimated from all of them (analysis/stats/unlike.py).
    """
    chords = _means({name: one.chord for name, one in values.items()})
    harsher = _means({name: one.harsher for name, one in values.items() if one.harsher is not None})
    return {name: Gap(chord=chord, harsher=harsher.get(name)) for name, chord in chords.items()}


def _means(matrices: Mapping[str, Floats]) -> dict[str, Contrast]:
    scores = {}
    for name, matrix in matrices.items():
        scores[name] = SettingScores(seeds=tuple(range(len(matrix))), values=matrix)
    if not scores:
        return {}
    examples = next(iter(matrices.values())).shape[1]
    return unlike_means(scores, np.full(examples, 1 / examples))
