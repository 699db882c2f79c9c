import numpy as np
import pytest

from analysis.statistics import Resampling, estimate


def test_mean_is_weighted_and_interval_holds_it():
    matrix, weights = np.array([[1.0, 2.0, 3.0], [3.0, 4.0, 5.0]]), np.array([1.0, 1.0, 2.0])
    found = estimate(matrix, weights)
    assert found.mean == pytest.approx((2 + 3 + 2 * 4) / 4) and found.low <= found.mean <= found.high
    assert (found.seeds, found.items, found.over) == (2, 3, "seeds and examples")
    assert estimate(matrix[:1]).over == "examples of one seed"


def test_same_data_same_interval():
    matrix = np.random.default_rng(0).normal(size=(3, 50))
    assert estimate(matrix) == estimate(matrix)


def test_replicated_means_equal_the_plain_resample():
    matrix = np.random.default_rng(1).normal(size=(3, 7))
    draws = Resampling.draw(3, 7, replicates=5)
    for b in range(5):
        plain = sum(draws.seeds[b, s] * draws.items[b, e] * matrix[s, e] for s in range(3) for e in range(7))
        assert draws.means(matrix)[b] == pytest.approx(plain)


def test_seeds_are_drawn_alike_whatever_the_items():
    """The joint bootstrap of the front relies on it: one draw of seeds for examples and documents."""
    assert (Resampling.draw(3, 10, replicates=50).seeds == Resampling.draw(3, 99, np.arange(1.0, 100.0), replicates=50).seeds).all()


def test_constant_differences_have_no_width_and_a_verdict():
    found = estimate(np.full((2, 20), 0.3))
    assert found.low == pytest.approx(0.3) and found.high == pytest.approx(0.3)
    assert found.verdict() == "better" and found.verdict(higher_is_better=False) == "worse"
    assert estimate(np.random.default_rng(0).normal(size=(2, 50))).verdict() == "inconclusive"


def test_coverage_over_examples_is_near_nominal():
    """One seed: the interval is one over examples, and covers their population's mean about 95% of the time."""
    generator = np.random.default_rng(3)
    hits = 0
    for _ in range(300):
        found = estimate(generator.normal(size=(1, 100)))
        hits += found.low <= 0 <= found.high
    assert 0.90 <= hits / 300 <= 0.98
