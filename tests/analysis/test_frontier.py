"""A frontier against points placed by hand.

And how often its interval calls a difference where there is none.
"""

import numpy as np
import pytest

from analysis.stats.estimates import Estimate
from analysis.stats.frontier_gap import Gap, SettingValues, gap_to, segment_at


def test_a_frontier_is_what_nothing_gentler_beats():
    x, y = np.array([0.5, 0.1, 0.3]), np.array([0.9, 0.6, 0.5])  # the middle point is beaten by a gentler one

    def at(forgetting):
        found = segment_at(x, y, 0.2, forgetting)
        low = 0.2 if found.gentle is None else y[found.gentle]
        return low if found.harsh is None else (1 - found.weight) * low + found.weight * y[found.harsh]

    assert [at(f) for f in (-1.0, 0.05, 0.1, 0.3, 0.4, 0.6)] == pytest.approx(
        [0.2, 0.4, 0.6, 0.75, 0.825, 0.9]
    )
    assert segment_at(x, y, 0.2, 0.3).slope == pytest.approx(0.75)
    assert segment_at(x, y, 0.2, 0.9).slope == 0


def _side(quality, forgetting, generator, seeds=3, spread=0.1):
    """Seeds differ in quality; examples and documents vary."""
    shift = spread * generator.normal(size=(seeds, 1))
    return SettingValues(
        quality=quality + shift + 0.3 * generator.normal(size=(seeds, 60)),
        forgetting=forgetting + 0.1 * generator.normal(size=(seeds, 20)),
        weights=np.ones(20),
    )


def test_a_point_on_the_frontier_is_seldom_told_from_it():
    called = 0
    for number in range(200):
        generator = np.random.default_rng(number)
        frontier = [_side(0.3, 0.5, generator), _side(0.6, 1.0, generator)]
        gap = gap_to(_side(0.45, 0.75, generator), frontier, np.zeros(60))
        called += gap.chord.verdict() != "inconclusive"
    assert called <= 20  # 5% of 200 are 10


def test_above_asks_for_more_than_the_chord():
    generator = np.random.default_rng(0)
    frontier = [_side(0.3, 0.5, generator, spread=0), _side(0.9, 1.0, generator, spread=0)]
    between = gap_to(_side(0.8, 0.7, generator, spread=0), frontier, np.zeros(60))
    assert between.chord.mean == pytest.approx(0.8 - 0.54, abs=0.1)
    assert between.verdict(0.001) == "above the chord, within the gap of LoRA's grid"
    assert (
        gap_to(_side(1.4, 0.7, generator, spread=0), frontier, np.zeros(60)).verdict(0.001)
        == "above LoRA's frontier"
    )
    assert (
        gap_to(_side(0.3, 0.9, generator, spread=0), frontier, np.zeros(60)).verdict(0.001)
        == "below LoRA's frontier"
    )
    beyond = gap_to(_side(0.5, 3.0, generator, spread=0), frontier, np.zeros(60))
    assert beyond.harsher is None
    assert beyond.verdict(0.001) == "below LoRA's frontier"
    assert between.verdict(0.2) == "inconclusive"
    better = Estimate(mean=0.2, low=0.1, high=0.3, seeds=3, items=60)
    assert Gap(chord=better, harsher=None).verdict(0.01) == "better than LoRA anywhere, and harsher"
