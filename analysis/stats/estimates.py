"""Paired differences with bootstrap intervals.

Pure functions on arrays; every draw comes from an explicit generator.

Trials share evaluation examples across seeds, so the design is crossed: a replicate draws seeds and,
independently, examples (paper H.2
asks for paired bootstrap intervals). A percentile interval of three seeds is too narrow: it knows neither
that a variance estimated from few values is uncertain nor that resampling n values loses a factor (n - 1) /
n. So it is expanded about the mean (Hesterberg, 2015, "What teachers should know about the bootstrap",
section 4.1) until its width is that of Student's t with the standard error and the degrees of freedom
(Satterthwaite) of the crossed random-effects model; a simulation in the tests shows what it covers. With one
seed there is nothing to say about seeds, and the interval covers examples only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import t

from analysis.stats.arrays import Floats

REPLICATES = 2000
LEVEL = 0.95

Verdict = Literal["better", "worse", "inconclusive"]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A number with its 95% interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Estimate(Interval):
    """A mean with its 95% interval, and the two-sided p-value of zero.

    `over` says what they cover: seeds and examples, or examples alone.
    """

    seeds: int
    items: int
    p_value: float = 1.0

    @property
    def over(self) -> str:
        """What was resampled."""
        return "seeds and examples" if self.seeds > 1 else "examples of one seed"

    def verdict(self, *, higher_is_better: bool = True) -> Verdict:
        """For a difference: which way it goes, `inconclusive` when the interval holds zero."""
        if self.low <= 0 <= self.high:
            return "inconclusive"
        return "better" if (self.low > 0) == higher_is_better else "worse"


@dataclass(frozen=True, kw_only=True)
class Resampling:
    """Weights of `REPLICATES` bootstrap replicates.

    `seeds` (replicates, S) and `items` (replicates, E), rows sum to 1.
    """

    seeds: Floats
    items: Floats

    @classmethod
    def draw(
        cls,
        seeds: int,
        items: int,
        weights: Floats | None = None,
        *,
        replicates: int = REPLICATES,
        seed: int = 0,
    ) -> Resampling:
        """Draws with replacement; items count by `weights` (items,) where given."""
        generator = np.random.default_rng(seed)
        by_seed = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=replicates) / seeds
        counts = generator.multinomial(items, np.full(items, 1 / items), size=replicates).astype(float)
        if weights is not None:
            counts *= weights
        return cls(seeds=by_seed, items=counts / counts.sum(axis=1, keepdims=True))

    def means(self, matrix: Floats) -> Floats:
        """Replicated weighted means (replicates,) of a (S, E) matrix."""
        return np.asarray(
            np.einsum("bs,se,be->b", self.seeds, matrix, self.items, optimize=True), dtype=float
        )


def standard_error(matrix: Floats, weights: Floats | None = None) -> tuple[float, float]:
    """Standard error of the mean of a crossed (seeds, items) matrix.

    And its degrees of freedom (Satterthwaite's approximation).

    Seeds and items are both random; `weights` (items,) count items. With one seed, of the items alone.
    Infinite freedom where nothing varies.
    """
    seeds, items = matrix.shape
    share = np.full(items, 1 / items) if weights is None else weights / weights.sum()
    concentration = float((share**2).sum())
    rows, columns = matrix @ share, matrix.mean(axis=0)
    mean = float(rows.mean())
    by_item = float(share @ (columns - mean) ** 2) / (1 - concentration) * concentration if items > 1 else 0.0
    parts = [(by_item, 1 / concentration - 1)]
    if seeds > 1:
        rest = matrix - rows[:, None] - columns[None, :] + mean
        residual = float((rest**2 @ share).sum()) / ((seeds - 1) * (1 - concentration)) if items > 1 else 0.0
        # Means over items hold the interaction too, once more than they should; less than it they cannot vary
        # but by luck.
        by_seed = max(float(rows.var(ddof=1)), residual * concentration) / seeds
        parts += [
            (by_seed, seeds - 1.0),
            (-residual * concentration / seeds, (seeds - 1) * (1 / concentration - 1)),
        ]
    variance = sum(part for part, _ in parts)
    spread = sum(part**2 / freedom for part, freedom in parts if freedom > 0)
    return float(np.sqrt(variance)), float(variance**2 / spread) if spread > 0 else float("inf")


def estimate(
    matrix: Floats, weights: Floats | None = None, *, seed: int = 0, replicates: int = REPLICATES
) -> Estimate:
    """Mean of a (seeds, items) matrix, items counted by `weights`, with its expanded percentile interval."""
    seeds, items = matrix.shape
    draws = Resampling.draw(seeds, items, weights, seed=seed, replicates=replicates).means(matrix)
    mean = float(np.average(matrix.mean(axis=0), weights=weights))
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    error, freedom = standard_error(matrix, weights)
    factor = 2 * float(t.ppf((1 + LEVEL) / 2, freedom)) * error / float(high - low) if high > low else 1.0
    p_value = 2 * float(t.sf(abs(mean) / error, freedom)) if error > 0 else float(mean == 0)
    return Estimate(
        mean=mean,
        low=mean + factor * float(low - mean),
        high=mean + factor * float(high - mean),
        seeds=seeds,
        items=items,
        p_value=p_value,
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment, in the given order.

    The smallest times n, the next times n - 1, ..., never decreasing, at most 1.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted
