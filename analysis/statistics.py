"""Paired differences with bootstrap intervals. Pure functions on arrays; every draw comes from an explicit generator.

Trials share evaluation examples across seeds, so the design is crossed: a replicate draws seeds and, independently, examples (paper H.2
asks for paired bootstrap intervals). With one seed there is nothing to say about seeds, and the interval covers examples only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from analysis.load import Floats

REPLICATES = 2000
LEVEL = 0.95

Verdict = Literal["better", "worse", "inconclusive"]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean with its interval. `over` says what the interval covers: seeds and examples, or examples alone."""

    mean: float
    low: float
    high: float
    seeds: int
    items: int

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
    """Weights of `REPLICATES` bootstrap replicates: `seeds` (replicates, S) and `items` (replicates, E), rows sum to 1."""

    seeds: Floats
    items: Floats

    @classmethod
    def draw(cls, seeds: int, items: int, weights: Floats | None = None, *, replicates: int = REPLICATES, seed: int = 0) -> Resampling:
        """Draws with replacement; items count by `weights` (items,) where given."""
        generator = np.random.default_rng(seed)
        by_seed = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=replicates) / seeds
        counts = generator.multinomial(items, np.full(items, 1 / items), size=replicates).astype(float)
        if weights is not None:
            counts *= weights
        return cls(seeds=by_seed, items=counts / counts.sum(axis=1, keepdims=True))

    def means(self, matrix: Floats) -> Floats:
        """Replicated weighted means (replicates,) of a (S, E) matrix."""
        return np.asarray(np.einsum("bs,se,be->b", self.seeds, matrix, self.items, optimize=True), dtype=float)


def estimate(matrix: Floats, weights: Floats | None = None, *, seed: int = 0) -> Estimate:
    """Mean of a (seeds, items) matrix, items counted by `weights`, with its percentile interval."""
    seeds, items = matrix.shape
    draws = Resampling.draw(seeds, items, weights, seed=seed).means(matrix)
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    mean = float(np.average(matrix.mean(axis=0), weights=weights))
    return Estimate(mean=mean, low=float(low), high=float(high), seeds=seeds, items=items)
