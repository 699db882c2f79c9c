"""The model of all settings' noise, against closed forms and simulated studies with a known truth."""

import itertools

import numpy as np
import pytest
from scipy.special import digamma

from analysis.stats.estimates import estimate, holm
from analysis.stats.pooled_noise import NoiseModel, SettingScores
from analysis.stats.variances import moderate

SETTINGS = 8


def _model(values, seeds=None, bounds=(-np.inf, np.inf)):
    """A model of named (seeds, examples) arrays."""
    items = next(iter(values.values())).shape[1]
    scores = {
        name: SettingScores(seeds=tuple(range(len(array))) if seeds is None else seeds[name], values=array)
        for name, array in values.items()
    }
    return NoiseModel(scores=scores, weights=np.full(items, 1 / items), bounds=bounds)


def _drawn(generator, *, seeds, items, spread=0.0, kind="normal", more=0):
    """One study in which no setting differs; deviations of seed x setting have this log-sd.

    The first two settings have `more` seeds.
    """
    by_seed = generator.normal(0, 0.02, (seeds + more, 1))
    by_item = generator.normal(0, 0.4, (1, items))
    values = {}
    for number in range(SETTINGS):
        count = seeds + (more if number < 2 else 0)
        own = generator.normal(size=(count, 1))
        if kind == "skewed":
            own = generator.exponential(size=(count, 1)) - 1
        if kind == "collapsing":
            own -= 10 * (generator.random((count, 1)) < 0.1)
        own *= 0.03 * np.exp(spread * generator.normal())
        interaction = generator.normal(0, 0.1, (1, items))
        rest = generator.normal(0, 0.3, (count, items))
        values[str(number)] = by_seed[:count] + by_item + own + interaction + rest
    return _model(values)


def _coverage(rounds, **study):
    """Shares of intervals that hold zero, and of studies with a false difference after correction."""
    generator = np.random.default_rng(11)
    hits, false = [], []
    for _ in range(rounds):
        model = _drawn(generator, **study)
        contrasts = [model.difference(str(number), "0") for number in range(1, SETTINGS)]
        hits += [contrast.low <= 0 <= contrast.high for contrast in contrasts]
        false.append(min(holm([contrast.p_value for contrast in contrasts])) < 0.05)
    return np.mean(hits), np.mean(false)


@pytest.mark.parametrize("seeds, items, more", [(3, 200, 0), (5, 50, 0), (2, 100, 2), (3, 100, 3)])
@pytest.mark.parametrize("spread, least", [(0.0, 0.93), (0.5, 0.92)])
def test_intervals_cover_the_truth(seeds, items, more, spread, least):
    """Equal deviations, and deviations with a log-sd of 0.5; also with unequal numbers of seeds."""
    covered, false = _coverage(250, seeds=seeds, items=items, spread=spread, more=more)
    assert least <= covered <= 0.97
    if spread == 0:
        assert false <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 250)


@pytest.mark.parametrize("kind", ["skewed", "collapsing"])
def test_what_odd_seeds_do_to_coverage(kind):
    """docs/reference/verdicts.md states it; three seeds of a contrast alone cover 84% and 66%."""
    covered, _ = _coverage(250, seeds=3, items=100, kind=kind)
    assert covered >= 0.9


def test_with_the_same_seeds_means_are_plain_and_differences_paired():
    generator = np.random.default_rng(0)
    values = {name: generator.normal(size=(3, 20)) for name in "abc"}
    model = _model(values)
    for name in "bc":
        paired = estimate(values[name] - values["a"])
        assert model.difference(name, "a").mean == pytest.approx(paired.mean)
        assert model.mean(name).mean == pytest.approx(values[name].mean())


def test_the_pooled_variance_is_that_of_the_additive_models_residuals():
    """A textbook two-way table without replication: (settings - 1) (seeds - 1) degrees of freedom."""
    means = np.array([[1.0, 2.0, 3.5], [2.0, 2.5, 4.0], [0.0, 1.5, 2.0]])
    model = _model({str(i): np.repeat(row[:, None], 4, axis=1) for i, row in enumerate(means)})
    rest = means - means.mean(axis=0) - means.mean(axis=1, keepdims=True) + means.mean()
    assert model.variances.pooled
    assert model.variances.variances[0] == pytest.approx((rest**2).sum() / 4)
    assert model.variances.freedom[0] == pytest.approx(4)
    contrast = model.difference("1", "0")
    assert contrast.error**2 == pytest.approx(2 * model.variances.variances[0] / 3)
    assert contrast.freedom == pytest.approx(4)


def test_pooling_narrows_what_one_contrast_alone_knows():
    generator = np.random.default_rng(4)
    pooled, alone = [], []
    for _ in range(30):
        values = {str(n): generator.normal(0, 0.1, (3, 1)) + np.zeros((3, 50)) for n in range(SETTINGS)}
        contrast, own = _model(values).difference("1", "0"), estimate(values["1"] - values["0"])
        pooled.append(contrast.high - contrast.low)
        alone.append(own.high - own.low)
    assert np.mean(pooled) < 0.6 * np.mean(alone)


def test_a_seed_that_only_one_setting_has_counts_by_what_it_says():
    """With a large effect of seeds, an extra seed of the reference says nothing; without one, it does."""
    generator = np.random.default_rng(5)
    errors = {}
    for effect in (0.0, 10.0):
        seed = effect * generator.normal(size=(6, 1))
        values = {}
        for number in range(SETTINGS):
            count = 6 if number == 0 else 2
            values[str(number)] = seed[:count] + generator.normal(0, 0.1, (count, 1)) + np.zeros((count, 5))
        model = _model(values)
        one = model.variances.variances[0]
        errors[effect] = model.difference("1", "0").seed_variance / one
    assert errors[10.0] == pytest.approx(1.0, rel=0.15)  # 1/2 + 1/2: the two common seeds
    assert errors[0.0] == pytest.approx(1 / 2 + 1 / 6, rel=0.15)


def test_intervals_stay_inside_the_metrics_range():
    values = {"a": np.array([[0.0] * 9, [1.0] * 9]), "b": np.array([[1.0] * 9, [0.0] * 9])}
    model = _model(values, bounds=(0.0, 1.0))
    contrast = model.difference("a", "b")
    assert (contrast.low, contrast.high) == (-1.0, 1.0)
    assert (model.mean("a").low, model.mean("a").high) == (0.0, 1.0)


def test_one_seed_says_nothing_of_seeds():
    model = _model({name: np.random.default_rng(3).normal(size=(1, 30)) for name in "ab"})
    assert not model.several_seeds
    assert model.difference("a", "b").seed_variance == 0


def test_equal_variances_are_pooled_and_unequal_ones_are_moderated():
    generator, freedom = np.random.default_rng(8), np.full(8, 2.0)
    equal = [moderate(generator.chisquare(2, 8), freedom).pooled for _ in range(200)]
    spread = np.array([1e-4, 1e-4, 1e-4, 1.0, 1.0, 1.0, 1e4, 1e4])
    unequal = [moderate(spread * generator.chisquare(2, 8), freedom).pooled for _ in range(200)]
    assert np.mean(equal) > 0.7
    assert np.mean(unequal) < 0.05


def test_moderation_recovers_its_own_prior():
    """Variances drawn from the model it assumes: 8 degrees of freedom, variance 2."""
    generator = np.random.default_rng(9)
    true = 2 * 8 / generator.chisquare(8, 4000)
    fitted = moderate(true * generator.chisquare(3, 4000), np.full(4000, 3.0))
    assert fitted.prior_freedom == pytest.approx(8, rel=0.2)
    strength = 8 + 3  # a chi-square's logarithm has a mean of its own
    error = np.log(fitted.variances / true).mean()
    assert error == pytest.approx(digamma(strength / 2) - np.log(strength / 2), abs=0.04)


@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_the_least_p_values_are_never_above_the_exact_ones(spread):
    """Settings that differ by much and by little, with equal and unequal variances."""
    generator = np.random.default_rng(5)
    for _ in range(5):
        drawn = _drawn(generator, seeds=3, items=40, spread=spread, more=1)
        shifted = {
            name: SettingScores(seeds=scores.seeds, values=scores.values + 0.05 * int(name) ** 2)
            for name, scores in drawn.scores.items()
        }
        model = NoiseModel(scores=shifted, weights=drawn.weights)
        least = model.least_p_above()
        for first, second in itertools.permutations(range(SETTINGS), 2):
            exact = model.difference(str(first), str(second)).p_above(0.0)
            assert least[first, second] <= exact * (1 + 1e-9)
        assert (least < 1e-3).any() and (least == 0.5).any()
