"""Methods that need not be alike: one that collapses with some seeds must not blur the others."""

import numpy as np

from analysis.stats.estimates import holm
from analysis.stats.pooled_noise import NoiseModel, SettingScores
from analysis.stats.unlike import erratic, unlike_contrasts

EXAMPLES, UNBOUNDED = 60, (-np.inf, np.inf)
WEIGHTS = np.full(EXAMPLES, 1 / EXAMPLES)


def _field(number, *, settings=12, seeds=3, collapsing=(), better=()):
    """All settings share the effects of seeds and examples; a collapsing one has thirty times the spread."""
    generator = np.random.default_rng(number)
    shared, by_example = 0.05 * generator.normal(size=(seeds, 1)), generator.normal(size=EXAMPLES)
    scores = {}
    for setting in range(settings):
        spread = 1.5 if setting in collapsing else 0.05
        values = shared + spread * generator.normal(size=(seeds, 1)) + 0.3 * by_example
        values = (
            values + 0.1 * generator.normal(size=EXAMPLES) + 0.2 * generator.normal(size=(seeds, EXAMPLES))
        )
        values += 0.3 if setting in better else 0.0
        scores[f"m{setting}"] = SettingScores(seeds=tuple(range(seeds)), values=values)
    return scores


def _contrasts(scores):
    pairs = [(name, "m0") for name in scores if name != "m0"]
    return unlike_contrasts(pairs, scores, WEIGHTS, UNBOUNDED)


def test_no_difference_is_seldom_told_whoever_collapses():
    for collapsing in ((), (7,)):
        told = covered = total = 0
        for number in range(150):
            contrasts = _contrasts(_field(number, collapsing=collapsing))
            told += min(holm([contrast.p_value for contrast in contrasts])) <= 0.05
            covered += sum(contrast.low <= 0 <= contrast.high for contrast in contrasts)
            total += len(contrasts)
        assert told <= 14  # 5% of 150 are 7.5
        assert covered >= 0.92 * total


def test_the_erratic_are_found_and_nobody_else():
    found = [erratic(_field(number, collapsing=(7,)), WEIGHTS) for number in range(100)]
    assert sum("m7" in names for names in found) >= 95
    assert sum(len(set(names) - {"m7"}) for names in found) <= 10


def test_a_collapsing_method_does_not_hide_a_better_one():
    """Compared with one model of all, whose noise the collapse blows up."""
    apart = together = 0
    for number in range(50):
        scores = _field(number, collapsing=(7,), better=(3,))
        apart += _contrasts(scores)[2].p_value < 0.01
        together += NoiseModel(scores=scores, weights=WEIGHTS).difference("m3", "m0").p_value < 0.01
    assert apart >= 45
    assert together <= 20


def test_one_noisy_switch_of_many_makes_fewer_false_verdicts_apart_than_in_one_model():
    """An ablation: 22 settings, one of which a seed moves thirty times as far. Nothing differs."""
    apart = together = 0
    for number in range(60):
        scores = _field(number, settings=22, collapsing=(7,))
        model = NoiseModel(scores=scores, weights=WEIGHTS)
        pooled = [model.difference(name, "m0") for name in scores if name != "m0"]
        apart += min(holm([contrast.p_value for contrast in _contrasts(scores)])) <= 0.05
        together += min(holm([contrast.p_value for contrast in pooled])) <= 0.05
    assert apart <= 6  # 5% of 60 are 3
    assert together >= 2 * max(apart, 3)


def test_few_settings_or_one_seed_leave_nothing_to_tell():
    assert erratic(_field(0, settings=3, collapsing=(1,)), WEIGHTS) == []
    assert erratic(_field(0, seeds=1, collapsing=(1,)), WEIGHTS) == []
    alone = {name: SettingScores(seeds=one.seeds, values=one.values * 0) for name, one in _field(0).items()}
    assert erratic(alone, WEIGHTS) == []
