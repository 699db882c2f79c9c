"""The area between two frontiers of quality over forgetting: one number for all that a method can reach.

Pure functions on (seeds, items) matrices.

A frontier runs from the untuned model through the settings that no gentler one beats, straight between them
and flat beyond the last. Which settings are its corners, one half of the examples says; how high it lies, the
other. At the measured means of forgetting its area is a weighted sum of its corners' qualities, so that the
difference of two areas is a mean over seeds and examples like any other and gets the same interval
(analysis/stats/estimates.py); what is uncertain in forgetting enters to first order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.stats.arrays import Floats
from analysis.stats.frontier_gap import SettingValues

#: Of the numerical derivative of an area by a corner's forgetting, in nats per token.
_STEP = 1e-6


@dataclass(frozen=True, kw_only=True)
class FrontierSetting:
    """A setting that may be a corner: what chooses it, and what it is judged by.

    Attributes:
        chosen_by: its mean quality on examples that judge nothing.
        values: quality on the others, and forgetting.
    """

    chosen_by: float
    values: SettingValues


@dataclass(frozen=True, kw_only=True)
class UntunedQuality:
    """The model before training: its mean quality on the examples that choose, and (examples,) that judge."""

    chosen_by: float
    values: Floats


def corners(settings: Sequence[FrontierSetting], untuned: UntunedQuality) -> list[SettingValues]:
    """The settings that no gentler one beats, gentlest first."""
    ordered = sorted(settings, key=lambda setting: float(setting.values.by_seed.mean()))
    frontier: list[SettingValues] = []
    highest = untuned.chosen_by
    for setting in ordered:
        if setting.chosen_by > highest:
            frontier.append(setting.values)
            highest = setting.chosen_by
    return frontier


def last_corner(settings: Sequence[FrontierSetting], untuned: UntunedQuality) -> float | None:
    """Forgetting of a frontier's last corner; None of one that nowhere lies above the untuned model."""
    last = max((float(corner.by_seed.mean()) for corner in corners(settings, untuned)), default=0.0)
    return last if last > 0 else None


def area_under(forgetting: Floats, quality: Floats, last: float) -> float:
    """Of the curve through these points (k,), which are in order, from 0 to `last`; flat beyond its end."""
    inside = forgetting[(forgetting > 0) & (forgetting < last)]
    places = np.concatenate([[0.0], inside, [last]])
    return float(np.trapezoid(np.interp(places, forgetting, quality), places))


def attained(forgetting: Floats, quality: Floats, untuned: float, places: Floats) -> Floats:
    """The best quality that each seed has reached at no more than some forgetting, (seeds, places).

    The empirical attainment of each seed (Grunert da Fonseca et al., 2001): its lowest over seeds was reached
    by all, its highest by one.

    Args:
        forgetting: of settings and seeds, (settings, seeds).
        quality: likewise.
        untuned: quality of the untuned model, which forgets nothing.
        places: forgetting asked for, (places,).
    """
    within = forgetting[:, :, None] <= places
    reached = np.where(within, quality[:, :, None], -np.inf).max(axis=0)
    return np.asarray(np.maximum(reached, untuned), dtype=float)


def mean_height(settings: Sequence[FrontierSetting], untuned: UntunedQuality, last: float) -> Floats:
    """Of their frontier over forgetting from none to `last`, per seed and example (seeds, examples)."""
    frontier = corners(settings, untuned)
    by_seed = [np.zeros(1), *[corner.by_seed for corner in frontier]]
    # What forgets less than nothing lies at none; of corners at the same place the later is higher.
    places = np.maximum.accumulate(np.array([max(float(seeds.mean()), 0.0) for seeds in by_seed]))
    places = places + np.arange(len(places)) * 1e-12
    qualities = [untuned.values[None, :], *[corner.quality for corner in frontier]]
    means = np.array([quality.mean() for quality in qualities])
    area = area_under(places, means, last)
    total: Floats = np.zeros((1, len(untuned.values)))
    for number, (forgotten, quality) in enumerate(zip(by_seed, qualities, strict=True)):
        alone = np.eye(len(places))[number]
        moved = places + _STEP * alone
        slope = (area_under(moved, means, last) - area) / _STEP
        astray = slope * (forgotten - forgotten.mean())[:, None]
        total = total + area_under(places, alone, last) * quality + astray
    seeds = len(settings[0].values.quality)
    return np.broadcast_to(total / last, (seeds, total.shape[1]))
