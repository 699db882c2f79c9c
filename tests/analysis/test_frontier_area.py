"""The area between two frontiers against closed forms, a slow twin, and studies with known truth."""

import numpy as np
import pytest

from analysis.evidence.corrected import unlike_differences
from analysis.stats.estimates import estimate
from analysis.stats.frontier_area import (
    FrontierSetting,
    UntunedQuality,
    area_under,
    attained,
    corners,
    last_corner,
    mean_height,
)
from analysis.stats.frontier_gap import SettingValues
from analysis.stats.pooled_noise import SettingScores

EXAMPLES, DOCUMENTS = 60, 20


def _setting(quality, forgetting, *, generator=None, seeds=3, spread=0.1):
    """Even and odd examples have the same truth; seeds differ in both."""
    if generator is None:
        values, chosen_by = np.full((seeds, EXAMPLES), quality), quality
        forgotten = np.full((seeds, DOCUMENTS), forgetting)
    else:
        shift = spread * generator.normal(size=(seeds, 1))
        values = quality + shift + 0.3 * generator.normal(size=(seeds, EXAMPLES))
        chosen_by = float(quality + shift.mean() + 0.3 / np.sqrt(seeds * EXAMPLES) * generator.normal())
        moved = 0.05 * generator.normal(size=(seeds, 1))
        forgotten = forgetting + moved + 0.05 * generator.normal(size=(seeds, DOCUMENTS))
    return FrontierSetting(
        chosen_by=float(chosen_by),
        values=SettingValues(quality=values, forgetting=forgotten, weights=np.ones(DOCUMENTS)),
    )


def area_between(method, reference, untuned):
    """Of one method alone; pages do it for all at once, with one noise."""
    last = last_corner(reference, untuned)
    if last is None:
        return None
    return estimate(mean_height(method, untuned, last) - mean_height(reference, untuned, last))


UNTUNED = UntunedQuality(chosen_by=0.0, values=np.zeros(EXAMPLES))


def test_a_corner_is_what_no_gentler_setting_beats():
    settings = [_setting(0.9, 0.5), _setting(0.6, 0.1), _setting(0.5, 0.3), _setting(-0.1, 0.05)]
    assert [float(c.by_seed.mean()) for c in corners(settings, UNTUNED)] == pytest.approx([0.1, 0.5])


@pytest.mark.parametrize(
    "ours, expected",
    [
        ([(0.5, 1.0)], 0.0),
        ([(0.6, 1.0)], 0.05),  # a triangle: half of 0.1
        ([(0.5, 0.5)], 0.125),  # there at half the forgetting, flat beyond
        ([(0.5, 2.0)], -0.125),  # cut at LoRA's last corner, where it has reached a half of it
        ([(0.2, 0.2), (0.6, 1.0)], (0.5 * 0.2 * 0.2 + 0.8 * 0.4) - 0.25),
        ([(-0.5, 1.0)], -0.25),  # never better than the untuned model
    ],
)
def test_areas_are_those_of_the_polygons(ours, expected):
    reference = [_setting(0.5, 1.0)]
    area = area_between([_setting(*place) for place in ours], reference, UNTUNED)
    assert area.mean == pytest.approx(expected, abs=1e-6)


def test_nothing_to_compare_with_is_said():
    assert area_between([_setting(0.5, 1.0)], [_setting(-0.5, 1.0)], UNTUNED) is None


def test_what_seeds_forget_enters_as_if_each_seed_had_its_own_frontier():
    """To first order: against the area of every seed's own curve."""
    generator = np.random.default_rng(3)
    places, heights = (0.3, 0.6, 1.0), (0.3, 0.5, 0.6)
    ours = []
    for place, height in zip(places, heights, strict=True):
        setting = _setting(height, place)
        moved = setting.values.forgetting + 0.01 * generator.normal(size=(3, 1))
        values = SettingValues(quality=setting.values.quality, forgetting=moved, weights=np.ones(DOCUMENTS))
        ours.append(FrontierSetting(chosen_by=height, values=values))
    reference = [_setting(0.5, 0.9)]
    by_seed = np.array([setting.values.by_seed for setting in ours])
    twin = []
    for seed in range(3):
        curve = np.array([0.0, *by_seed[:, seed]])
        twin.append(area_under(curve, np.array([0.0, *heights]), 0.9) / 0.9 - 0.25)
    area = area_between(ours, reference, UNTUNED)
    assert area.mean == pytest.approx(np.mean(twin), abs=1e-3)
    assert area.high - area.low == pytest.approx(2 * 4.303 * np.std(twin, ddof=1) / np.sqrt(3), rel=0.1)


def test_equal_frontiers_are_seldom_told_apart_though_one_has_more_points():
    """More points to choose from make no method better: what is chosen is judged by other examples."""

    def truth(forgetting):
        return 0.6 * (1 - np.exp(-3 * forgetting))

    few, many = (0.25, 0.5, 1.0), (0.125, 0.25, 0.375, 0.5, 0.75, 1.0)
    areas = []
    for number in range(200):
        generator = np.random.default_rng(number)
        sides = [[_setting(truth(f), f, generator=generator) for f in places] for places in (few, few)]
        areas.append(area_between(*sides, UNTUNED))
    assert sum(area.verdict() != "inconclusive" for area in areas) <= 18  # 5% of 200 are 10
    richer = []
    for number in range(200):
        generator = np.random.default_rng(1000 + number)
        sides = [[_setting(truth(f), f, generator=generator) for f in places] for places in (many, few)]
        richer.append(area_between(*sides, UNTUNED).mean)
    exact = [_setting(truth(f), f) for f in many], [_setting(truth(f), f) for f in few]
    assert np.mean(richer) == pytest.approx(area_between(*exact, UNTUNED).mean, abs=0.03)


def test_a_frontier_that_lies_higher_is_found():
    found = 0
    for number in range(50):
        generator = np.random.default_rng(number)
        places = ((0.3, 0.25), (0.5, 0.6))
        higher = [_setting(q + 0.4, f, generator=generator, spread=0.05) for q, f in places]
        lower = [_setting(q, f, generator=generator, spread=0.05) for q, f in places]
        found += area_between(higher, lower, UNTUNED).verdict() == "better"
    assert found >= 45


def test_attainment_is_what_each_seed_has_reached():
    forgetting = np.array([[0.1, 0.3], [0.5, 0.4]])
    quality = np.array([[0.2, 0.4], [0.9, 0.1]])
    reached = attained(forgetting, quality, 0.0, np.array([0.0, 0.2, 0.35, 0.6]))
    np.testing.assert_allclose(reached, [[0.0, 0.2, 0.2, 0.9], [0.0, 0.0, 0.4, 0.4]])


def test_a_corner_that_forgets_about_nothing_counts_by_its_mean():
    """Whatever the signs of its seeds."""
    steady, wavering = _setting(0.5, 0.005), _setting(0.5, 0.005)
    wavering.values.forgetting[:] += np.array([[-0.02], [0.0], [0.02]])
    reference = [_setting(0.5, 1.0)]
    areas = [area_between([one], reference, UNTUNED).mean for one in (steady, wavering)]
    assert areas[0] == pytest.approx(areas[1], abs=1e-6)


def test_a_field_of_equal_frontiers_is_seldom_told_apart():
    """As the page does it: one noise for all, corrected for their number."""

    def truth(forgetting):
        return 0.6 * (1 - np.exp(-3 * forgetting))

    judged = 0
    for number in range(150):
        generator = np.random.default_rng(number)
        field = {}
        for method in range(8):
            settings = [_setting(truth(f), f, generator=generator) for f in (0.25, 0.5, 1.0)]
            field[f"m{method}"] = settings
        last = last_corner(field["m0"], UNTUNED)
        heights = {
            name: SettingScores(seeds=(1, 2, 3), values=mean_height(settings, UNTUNED, last))
            for name, settings in field.items()
        }
        differences = unlike_differences(
            "m0", heights, weights=np.full(EXAMPLES, 1 / EXAMPLES), tolerance=0.02
        )
        judged += any(one.word() in ("better", "worse") for one in differences.values())
    assert judged <= 14  # 5% of 150 are 7.5
