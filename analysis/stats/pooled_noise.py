"""One model of the noise, fitted to all settings of a regime together.

    score(setting, seed, example) = mean(setting) + seed + seed x setting + example x setting + rest

Few seeds say little about one contrast: three seeds leave its variance two degrees of freedom (t = 4.30).
All settings are run with the same seeds, so the variance of seed x setting is estimated from all of them
(analysis/stats/variances.py): eight settings with three seeds leave fourteen. Means are fitted by generalized
least squares, so that settings with unequal numbers of seeds are compared fairly: a seed that only one of two
settings has counts for what it says beyond the seed's own effect. With the same seeds everywhere they are
plain means.

Examples are random too: what a contrast owes to them is estimated from its own values over many examples
(analysis/stats/estimates.py has the same crossed model for one contrast alone).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.stats import norm, t

from analysis.stats.arrays import Floats
from analysis.stats.estimates import LEVEL, Verdict
from analysis.stats.variances import Moderated, moderate


@dataclass(frozen=True, kw_only=True)
class SettingScores:
    """One setting's scores: `seeds` (S,) and `values` (S, E), examples in the same order for all settings."""

    seeds: tuple[int, ...]
    values: Floats


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """A difference of two means, or one mean, with its standard error.

    Attributes:
        error: standard error; its square is `seed_variance` + `item_variance`.
        freedom: Satterthwaite's degrees of freedom of `error`.
        seed_variance: the part that further seeds would lessen; `item_variance` the part that they would not.
        seeds: of the setting (of a difference: of the one that has fewer).
        range: what the difference can be at most, either way.
        over_seeds: whether the error knows of seeds at all: with one seed everywhere it is of examples alone.
    """

    mean: float
    error: float
    freedom: float
    seed_variance: float
    item_variance: float
    seeds: int
    range: tuple[float, float] = (-np.inf, np.inf)
    over_seeds: bool = True

    def margin(self, level: float) -> float:
        """How far the one-sided bound at an error rate of `level` lies from the mean."""
        return float(t.isf(level, self.freedom)) * self.error if self.error > 0 else 0.0

    def lower(self, level: float) -> float:
        """The one-sided lower bound."""
        return max(self.range[0], self.mean - self.margin(level))

    def upper(self, level: float) -> float:
        """The one-sided upper bound."""
        return min(self.range[1], self.mean + self.margin(level))

    @property
    def low(self) -> float:
        """Lower end of the two-sided 95% interval."""
        return self.lower((1 - LEVEL) / 2)

    @property
    def high(self) -> float:
        """Upper end of the two-sided 95% interval."""
        return self.upper((1 - LEVEL) / 2)

    def p_below(self, bound: float) -> float:
        """One-sided p-value of `mean >= bound`: small where it lies below."""
        return self._p(bound - self.mean)

    def p_above(self, bound: float) -> float:
        """One-sided p-value of `mean <= bound`: small where it lies above."""
        return self._p(self.mean - bound)

    def p_not_within(self, tolerance: float) -> float:
        """Of a difference of at least the tolerance, either way: the larger of two one-sided tests."""
        return max(self.p_above(-tolerance), self.p_below(tolerance))

    def _p(self, distance: float) -> float:
        if self.error > 0:
            return float(t.sf(distance / self.error, self.freedom))
        return 0.0 if distance > 0 else 1.0

    @property
    def p_value(self) -> float:
        """Two-sided, of zero."""
        return min(1.0, 2 * min(self.p_below(0), self.p_above(0)))

    def as_data(self) -> dict[str, float | int | None]:
        """For `recommendation.json`; degrees of freedom that are not finite are none."""
        finite = bool(np.isfinite(self.freedom))
        return {
            "mean": self.mean,
            "low": self.low,
            "high": self.high,
            "error": self.error,
            "freedom": self.freedom if finite else None,
            "seeds": self.seeds,
            "p_value": self.p_value,
        }


def verdict_of(gain: float, p_value: float) -> Verdict:
    """`better` or `worse` by the sign of a gain, where its corrected p-value says so."""
    if p_value > 1 - LEVEL or gain == 0:
        return "inconclusive"
    return "better" if gain > 0 else "worse"


@dataclass(frozen=True, kw_only=True)
class NoiseModel:
    """The fitted model.

    Attributes:
        scores: by the name of a setting.
        weights: of the examples, summing to 1.
        bounds: the range of a score, which intervals keep to.
    """

    scores: Mapping[str, SettingScores]
    weights: Floats
    bounds: tuple[float, float] = (-np.inf, np.inf)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The settings, in order."""
        return tuple(self.scores)

    @cached_property
    def _of_setting(self) -> Floats:
        """(cells, settings) of 0 and 1: a cell is a trial."""
        return _indicators(self._setting)

    @cached_property
    def _of_seed(self) -> Floats:
        """(cells, seeds) of 0 and 1."""
        return _indicators(self._seed)

    @cached_property
    def _setting(self) -> np.ndarray:
        """(cells,) the setting of every cell, that is of every trial."""
        return np.repeat(np.arange(len(self.names)), [len(self.scores[name].seeds) for name in self.names])

    @cached_property
    def _seed(self) -> np.ndarray:
        """(cells,) the seed of every cell, as a number from 0."""
        seeds = [seed for name in self.names for seed in self.scores[name].seeds]
        return np.unique(seeds, return_inverse=True)[1]

    @cached_property
    def _values(self) -> Floats:
        """(cells, examples)."""
        return np.concatenate([self.scores[name].values for name in self.names])

    @cached_property
    def _means(self) -> Floats:
        """(cells,) over examples."""
        return np.asarray(self._values @ self.weights)

    @cached_property
    def _rounding(self) -> float:
        """Below this a difference of means is rounding."""
        return 1e-12 * float(np.abs(self._means).max())

    @property
    def several_seeds(self) -> bool:
        """Whether anything can be said about seeds at all."""
        return float(self._additive[1].sum()) > 0.5

    @cached_property
    def _additive(self) -> tuple[Floats, Floats]:
        """Sums of squares and freedom of every setting, (settings,), about setting + seed."""
        of_setting = self._of_setting
        share = 1 / of_setting.sum(axis=0)[self._setting]
        # What seeds say beyond settings: few columns, so that hundreds of settings cost nothing.
        basis, scale, _ = np.linalg.svd(self._within_setting(self._of_seed), full_matrices=False)
        basis = basis[:, scale > 1e-9 * max(1.0, scale.max(initial=0.0))]
        residual = self._within_setting(self._means[:, None])[:, 0]
        residual -= basis @ (basis.T @ residual)
        residual[np.abs(residual) < self._rounding] = 0.0
        free = 1 - share - (basis**2).sum(axis=1)
        # What rounding leaves of a cell that the model fits exactly is no residual, and no freedom.
        free[free < 1e-9] = 0.0
        return of_setting.T @ residual**2, of_setting.T @ free

    def _within_setting(self, columns: Floats) -> Floats:
        """Columns (cells, n) less their means over each setting's cells."""
        counts = self._of_setting.sum(axis=0)
        means = self._of_setting.T @ columns / counts[:, None]
        return np.asarray(columns - means[self._setting])

    @cached_property
    def variances(self) -> Moderated:
        """Of seed x setting, for every setting; zero where no setting has two seeds."""
        squares, freedom = self._additive
        if freedom.sum() < 0.5:
            none = np.zeros(len(self.names))
            return Moderated(variances=none, freedom=none, prior_freedom=np.inf)
        return moderate(squares, freedom)

    @cached_property
    def seed_variance(self) -> float:
        """Of the seeds' own effect, which all settings share, by the method of moments; at least 0."""
        of_setting, of_seed = self._of_setting, self._of_seed
        counts = of_setting.sum(axis=0)
        centred = self._means - (of_setting @ (of_setting.T @ self._means / counts))
        own = of_setting @ self.variances.variances
        expected = float((own * (1 - 1 / (of_setting @ counts))).sum())
        shared = of_seed - of_setting @ (of_setting.T @ of_seed / counts[:, None])
        weight = float((shared**2).sum())
        return max(0.0, float(centred @ centred) - expected) / weight if weight > 1e-9 else 0.0

    @cached_property
    def _estimator(self) -> Floats:
        """(settings, cells): what every cell counts for in every setting's mean."""
        of_setting, of_seed = self._of_setting, self._of_seed
        own = of_setting @ self.variances.variances
        if not own.max() > 0:
            return np.asarray(of_setting.T / of_setting.sum(axis=0)[:, None])
        own = np.maximum(own, 1e-6 * own.max())
        covariance = np.diag(own) + self.seed_variance * of_seed @ of_seed.T
        weighted = np.linalg.solve(covariance, of_setting)
        return np.asarray(np.linalg.solve(of_setting.T @ weighted, weighted.T))

    def mean(self, name: str) -> Contrast:
        """One setting's mean."""
        return self._contrast(self._estimator[self.names.index(name)], self.bounds, [name])

    def difference(self, name: str, reference: str) -> Contrast:
        """The mean of `name` less that of `reference`."""
        own, other = (self._estimator[self.names.index(each)] for each in (name, reference))
        reach = self.bounds[1] - self.bounds[0]
        return self._contrast(own - other, (-reach, reach), [name, reference])

    def least_p_above(self) -> Floats:
        """(settings, settings): no p-value of `difference(i, j).p_above(0)` is smaller.

        That of a normal whose error is what seeds alone cause, for all pairs at once: with hundreds
        of settings few differences need a closer look.
        """
        own = np.sqrt(self._of_setting @ self.variances.variances)
        by_seed = np.sqrt(self.seed_variance) * (self._estimator @ self._of_seed)
        parts = np.concatenate([self._estimator * own, by_seed], axis=1)
        size = (parts**2).sum(axis=1)
        variance = size[:, None] + size[None, :] - 2 * parts @ parts.T
        rounding = 1e-9 * size.max()
        error = np.sqrt(np.maximum(variance - rounding, 0.0))
        means = self._estimator @ self._means
        gain = means[:, None] - means[None, :] + self._rounding
        with np.errstate(divide="ignore", invalid="ignore"):
            distance = np.where(error > 0, gain / error, np.where(gain > 0, np.inf, -np.inf))
        # That of a loss is at least a half, whatever the error.
        return np.asarray(np.minimum(norm.sf(distance), 0.5))

    def deviation(self, name: str) -> tuple[float, float]:
        """Standard deviation of seed x setting of a setting, and its degrees of freedom; 0 with one seed."""
        number = self.names.index(name)
        return float(np.sqrt(self.variances.variances[number])), float(self.variances.freedom[number])

    def _contrast(self, weights: Floats, span: tuple[float, float], names: Sequence[str]) -> Contrast:
        seed_part, freedom = self._seed_part(weights)
        item_part, items = self._item_part(weights)
        total, mean = seed_part + item_part, float(weights @ self._means)
        spread = seed_part**2 / freedom if freedom > 0 else 0.0
        spread += item_part**2 / (items - 1) if items > 1 else 0.0
        return Contrast(
            mean=mean if abs(mean) > self._rounding else 0.0,
            error=float(np.sqrt(total)),
            freedom=total**2 / spread if spread > 0 else np.inf,
            seed_variance=seed_part,
            item_variance=item_part,
            seeds=min(len(self.scores[name].seeds) for name in names),
            range=span,
            over_seeds=self.several_seeds,
        )

    def _seed_part(self, weights: Floats) -> tuple[float, float]:
        """Variance that seeds cause, and its degrees of freedom."""
        model = self.variances
        of_setting, of_seed = self._of_setting, self._of_seed
        parts = (of_setting.T @ weights**2) * model.variances
        by_seed = float(((of_seed.T @ weights) ** 2).sum()) * self.seed_variance
        total = float(parts.sum()) + by_seed
        if total == 0:
            return 0.0, 0.0
        groups = np.array([parts.sum()]) if model.pooled else parts
        freedom = model.freedom[:1] if model.pooled else model.freedom
        spread = float((groups**2 / np.maximum(freedom, 1e-9)).sum())
        if by_seed > 0:
            spread += by_seed**2 / max(1, of_seed.shape[1] - 1)
        return total, total**2 / spread

    def _item_part(self, weights: Floats) -> tuple[float, float]:
        """Variance that examples cause beyond what is in the seeds' part, and how many examples count.

        A mean over examples of one trial holds the rest term too, which is in the seeds' variance already:
        it is taken off once.
        """
        share = self.weights
        concentration = float((share**2).sum())
        if concentration >= 1:
            return 0.0, 1.0
        by_item = weights @ self._values
        by_item[np.abs(by_item) < self._rounding] = 0.0
        centred = by_item - float(by_item @ share)
        variance = float(share @ centred**2) / (1 - concentration) * concentration
        if self.several_seeds:
            variance -= float(weights**2 @ self._rest[self._setting]) * concentration
        return max(0.0, variance), 1 / concentration

    @cached_property
    def _rest(self) -> Floats:
        """(settings,) variance of one example in one trial beyond setting x example and trial."""
        sums, freedom = np.zeros(len(self.names)), np.zeros(len(self.names))
        concentration = float((self.weights**2).sum())
        for number, name in enumerate(self.names):
            values = self.scores[name].values
            if len(values) < 2:
                continue
            rest = values - values.mean(axis=0) - (values @ self.weights)[:, None]
            rest += float((values @ self.weights).mean())
            sums[number] = float((rest**2 @ self.weights).sum())
            freedom[number] = (len(values) - 1) * (1 - concentration)
        pooled = sums.sum() / freedom.sum() if freedom.sum() > 0 else 0.0
        own: Floats = np.divide(sums, freedom, out=np.full(len(sums), pooled), where=freedom > 0)
        return own


def _indicators(groups: np.ndarray) -> Floats:
    """(cells, groups) of 0 and 1."""
    member: Floats = (groups[:, None] == np.arange(groups.max() + 1)[None, :]).astype(float)
    return member
