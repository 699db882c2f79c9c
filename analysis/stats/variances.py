"""Variances of many groups from few values each: pooled, or moderated towards what they have in common.

Smyth (2004), "Linear models and empirical Bayes methods for assessing differential expression", sections 3
and 6: the groups' variances are taken for draws from a scaled inverse chi-square distribution whose two
parameters are fitted to their logarithms. Each group's variance is then a weighted mean of its own estimate
and of the common one. The check of heterogeneity that chooses: where the estimates' logarithms spread no more
than one standard error beyond what chance alone would spread them, all groups share the pooled variance.
(Simulated with eight groups of two to five values, that covers better than moderating always, with equal
variances and with unequal ones.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import digamma, polygamma

from analysis.stats.arrays import Floats

#: An estimate below this share of the pooled variance counts as this share: its logarithm would decide alone.
FLOOR = 1e-4


@dataclass(frozen=True, kw_only=True)
class Moderated:
    """Variances of groups with what is known of them.

    Attributes:
        variances, freedom: (groups,) moderated variances and their degrees of freedom.
        prior_freedom: how many degrees of freedom the common variance counts for; infinite where all groups
            share one variance.
    """

    variances: Floats
    freedom: Floats
    prior_freedom: float

    @property
    def pooled(self) -> bool:
        """Whether all groups share one variance."""
        return math.isinf(self.prior_freedom)


def moderate(sums_of_squares: Floats, freedom: Floats) -> Moderated:
    """From each group's sum of squared deviations and its degrees of freedom, both (groups,).

    Groups without freedom get the common variance. Needs freedom in at least one group.
    """
    total = float(freedom.sum())
    pooled = float(sums_of_squares.sum()) / total
    free = freedom > 0.1
    own = np.divide(sums_of_squares, freedom, out=np.full(len(freedom), pooled), where=free)
    prior_freedom, prior = _fitted_prior(np.maximum(own[free], FLOOR * pooled), freedom[free])
    if pooled == 0 or math.isinf(prior_freedom):
        shared = np.full(len(freedom), pooled)
        return Moderated(variances=shared, freedom=np.full(len(freedom), total), prior_freedom=math.inf)
    strength = prior_freedom + freedom
    variances = (prior_freedom * prior + sums_of_squares) / strength
    return Moderated(variances=variances, freedom=np.minimum(strength, total), prior_freedom=prior_freedom)


def _fitted_prior(variances: Floats, freedom: Floats) -> tuple[float, float]:
    """Degrees of freedom and variance of the prior, from the mean and spread of the log-variances."""
    if len(variances) < 3 or not (variances > 0).all():
        return math.inf, float(variances.mean()) if len(variances) else 0.0
    half = freedom / 2
    logs = np.log(variances) - digamma(half) + np.log(half)
    chance, count = float(polygamma(1, half).mean()), len(logs)
    excess = float(logs.var(ddof=1)) - chance
    error = math.sqrt((float(polygamma(3, half).mean()) + 2 * chance**2 * count / (count - 1)) / count)
    if excess <= error:
        return math.inf, float((variances * freedom).sum() / freedom.sum())
    strength = 2 * _inverse_trigamma(excess)
    location = float(logs.mean()) + float(digamma(strength / 2)) - math.log(strength / 2)
    return strength, math.exp(location)


def _inverse_trigamma(value: float) -> float:
    """The x with trigamma(x) = value, by Newton's iteration on its reciprocal (Smyth, appendix)."""
    if value < 1e-6:
        return 1 / value
    x = 0.5 + 1 / value
    for _ in range(50):
        tri = float(polygamma(1, x))
        change = tri * (1 - tri / value) / float(polygamma(2, x))
        x += change
        if -change / x < 1e-8:
            break
    return x
