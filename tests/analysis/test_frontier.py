"""A frontier against points placed by hand.

And how often its interval calls a difference where there is none.
"""

import numpy as np
import pytest

from analysis.stats.estimates import estimate
from analysis.stats.frontier_gap import Gap, SettingValues, gap_values, gaps_of, segment_at
from analysis.stats.pooled_noise import Contrast


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


def _gaps(points, frontier):
    untuned = np.zeros(60)
    return gaps_of({name: gap_values(point, frontier, untuned) for name, point in points.items()})


@pytest.mark.parametrize("count", [1, 2, 6])
@pytest.mark.parametrize("of_frontier, of_points", [(0.1, 0.1), (0.1, 0.02), (0.02, 0.1)])
def test_points_on_the_frontier_are_seldom_told_from_it(count, of_frontier, of_points):
    """5% of intervals, whether there is one point or many, and whoever the seeds' noise is of."""
    called = 0
    studies = 600 // count
    for number in range(studies):
        generator = np.random.default_rng(number)
        frontier = [_side(*at, generator, spread=of_frontier) for at in ((0.3, 0.5), (0.6, 1.0))]
        points = {str(k): _side(0.45, 0.75, generator, spread=of_points) for k in range(count)}
        called += sum(gap.chord.p_value <= 0.05 for gap in _gaps(points, frontier).values())
    assert called <= 0.068 * studies * count  # 5%, and twice its deviation


def test_one_point_that_strays_widens_no_other_gap():
    calm, wild, told = [], [], 0
    for number in range(60):
        generator = np.random.default_rng(number)
        frontier = [_side(0.3, 0.5, generator, spread=0.01), _side(0.6, 1.0, generator, spread=0.01)]
        points = {str(k): _side(0.45, 0.75, generator, spread=0.01) for k in range(5)}
        alone = _gaps(points, frontier)["0"].chord
        points["stray"] = _side(0.45, 0.75, generator, spread=2.0)
        gaps = _gaps(points, frontier)
        told += gaps["stray"].chord.p_value <= 0.05
        calm.append(alone.error)
        wild.append(gaps["0"].chord.error)
    assert np.median(wild) < 1.5 * np.median(calm)
    assert told <= 9


def test_many_points_are_told_with_shorter_intervals_than_each_alone():
    together, alone = [], []
    for number in range(40):
        generator = np.random.default_rng(number)
        frontier = [_side(0.3, 0.5, generator, spread=0.02), _side(0.6, 1.0, generator, spread=0.02)]
        points = {str(k): _side(0.45, 0.75, generator) for k in range(8)}
        chord = _gaps(points, frontier)["0"].chord
        together.append(chord.high - chord.low)
        own = estimate(gap_values(points["0"], frontier, np.zeros(60)).chord)
        alone.append(own.high - own.low)
    assert np.median(together) < 0.75 * np.median(alone)


def test_above_asks_for_more_than_the_chord():
    generator = np.random.default_rng(0)
    frontier = [_side(0.3, 0.5, generator, spread=0), _side(0.9, 1.0, generator, spread=0)]

    def gap(quality, forgetting):
        return _gaps({"it": _side(quality, forgetting, generator, spread=0)}, frontier)["it"]

    between = gap(0.8, 0.7)
    assert between.chord.mean == pytest.approx(0.8 - 0.54, abs=0.1)
    assert between.verdict(0.001) == "above the chord, within the gap of LoRA's grid"
    assert gap(1.4, 0.7).verdict(0.001) == "above LoRA's frontier"
    assert gap(0.3, 0.9).verdict(0.001) == "below LoRA's frontier"
    beyond = gap(0.5, 3.0)
    assert beyond.harsher is None
    assert beyond.verdict(0.001) == "below LoRA's frontier"
    assert between.verdict(0.2) == "inconclusive"
    better = Contrast(mean=0.2, error=0.05, freedom=20, seed_variance=0.0, item_variance=0.0, seeds=3)
    assert Gap(chord=better, harsher=None).verdict(0.01) == "better than LoRA anywhere, and harsher"
