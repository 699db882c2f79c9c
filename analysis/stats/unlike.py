"""Contrasts of settings that need not be alike: methods of different kinds, of which one may be erratic.

The model of the noise (analysis/stats/pooled_noise.py) takes what a seed does for what it does to all
settings, up to noise. One method that collapses with some seeds breaks that for everybody. Whose values stray
from the others' over seeds far more than is usual is compared on its own, with the variance of its own
difference; the rest share one model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from scipy.stats import f

from analysis.stats.arrays import Floats
from analysis.stats.pooled_noise import Contrast, NoiseModel, SettingScores

#: A setting is erratic where its variance over seeds, against the median setting's, is as improbable as this.
ERRATIC = 1e-3
#: Degrees of freedom of a mean for each seed but one: of a setting alone, and of several together. (Means of
#: three seeds then missed in 2.9 to 5.1% of simulations, whatever share of the noise was common to all.)
MOST_FREEDOM = {False: 2, True: 4}
#: Rounds of taking medians off rows and columns.
_ROUNDS = 10


def erratic(scores: Mapping[str, SettingScores], weights: Floats) -> list[str]:
    """Names of settings that stray over seeds from what others do, far more than the median setting does.

    All need the same seeds; with one seed, or of fewer than four settings, none can be told.
    """
    means = np.array([one.values @ weights for one in scores.values()])
    settings, seeds = means.shape
    if settings < 4 or seeds < 2:
        return []
    residual = _without_medians(means)
    variances = (residual**2).sum(axis=1) / (seeds - 1)
    usual = float(np.median(variances))
    if usual == 0:
        return []
    # The ratio is not quite F-distributed: of normal fields without an erratic setting 0.1 to 0.5% of the
    # settings were flagged in simulations, which leaves the coverage of the rest at 94 to 95%.
    most = float(f.isf(ERRATIC, seeds - 1, (settings - 1) * (seeds - 1)))
    lowest = float(f.isf(0.5, seeds - 1, (settings - 1) * (seeds - 1)))
    return [name for name, value in zip(scores, variances, strict=True) if value > usual * most / lowest]


def unlike_contrasts(
    pairs: Sequence[tuple[str, str]],
    scores: Mapping[str, SettingScores],
    weights: Floats,
    bounds: tuple[float, float],
) -> list[Contrast]:
    """The first of each pair less the second: of the model of all that are alike, or of those two alone."""
    apart, alike = _parted(scores, weights)
    together = NoiseModel(scores=alike, weights=weights, bounds=bounds)
    contrasts = []
    for name, reference in pairs:
        model = together
        if not apart.isdisjoint((name, reference)):
            pair = {each: scores[each] for each in (name, reference)}
            model = NoiseModel(scores=pair, weights=weights, bounds=bounds)
        contrasts.append(model.difference(name, reference))
    return contrasts


def unlike_means(scores: Mapping[str, SettingScores], weights: Floats) -> dict[str, Contrast]:
    """Every setting's mean: of the model of all that are alike, or of that one alone.

    A mean holds the seeds' own effect, of which there are no more values for there being more settings. Where
    it comes out near zero, Satterthwaite's freedom knows nothing of that, and is held at `MOST_FREEDOM`.
    """
    apart, alike = _parted(scores, weights)
    together = NoiseModel(scores=alike, weights=weights)
    means = {}
    for name, one in scores.items():
        model = NoiseModel(scores={name: one}, weights=weights) if name in apart else together
        mean = model.mean(name)
        most = MOST_FREEDOM[len(model.names) > 1] * (len(one.seeds) - 1)
        means[name] = replace(mean, freedom=min(mean.freedom, most)) if most else mean
    return means


def _parted(
    scores: Mapping[str, SettingScores], weights: Floats
) -> tuple[set[str], dict[str, SettingScores]]:
    """Names of the erratic ones, and the scores of the others."""
    seeds = {one.seeds for one in scores.values()}
    apart = set(erratic(scores, weights)) if len(seeds) == 1 else set()
    return apart, {name: one for name, one in scores.items() if name not in apart} or dict(scores)


def _without_medians(means: Floats) -> Floats:
    """Tukey's median polish: what is left of (settings, seeds) beyond setting and seed."""
    residual = means.copy()
    for _ in range(_ROUNDS):
        residual = residual - np.median(residual, axis=1, keepdims=True)
        residual = residual - np.median(residual, axis=0, keepdims=True)
    return residual
