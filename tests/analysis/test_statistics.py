import numpy as np
import pytest

from analysis.stats.estimates import Resampling, estimate, holm, standard_error


def test_mean_is_weighted_and_interval_holds_it():
    matrix, weights = np.array([[1.0, 2.0, 3.0], [3.0, 4.0, 5.0]]), np.array([1.0, 1.0, 2.0])
    found = estimate(matrix, weights)
    assert found.mean == pytest.approx((2 + 3 + 2 * 4) / 4)
    assert found.low <= found.mean <= found.high
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
    assert (
        Resampling.draw(3, 10, replicates=50).seeds
        == Resampling.draw(3, 99, np.arange(1.0, 100.0), replicates=50).seeds
    ).all()


def test_constant_differences_have_no_width_and_a_verdict():
    found = estimate(np.full((2, 20), 0.3))
    assert found.low == pytest.approx(0.3)
    assert found.high == pytest.approx(0.3)
    assert found.verdict() == "better"
    assert found.verdict(higher_is_better=False) == "worse"
    assert estimate(np.random.default_rng(0).normal(size=(2, 50))).verdict() == "inconclusive"


@pytest.mark.parametrize("seeds, items", [(3, 200), (5, 50)])
@pytest.mark.parametrize("by_seed", [0.02, 0.05, 0.1])
def test_intervals_cover_the_truth(seeds, items, by_seed):
    """Paired differences of 0.01 with effects of seeds, examples and both, as large as real ones.

    93% to 97% of the intervals hold it.

    Satterthwaite's degrees of freedom are an approximation, and 1,200 rounds have a standard error of 0.6%.
    """
    generator, hits, rounds = np.random.default_rng(7), 0, 1200
    for number in range(rounds):
        matrix = (
            0.01
            + generator.normal(0, by_seed, (seeds, 1))
            + generator.normal(0, 0.3, (1, items))
            + generator.normal(0, 0.3, (seeds, items))
        )
        found = estimate(matrix, seed=number, replicates=200)
        hits += found.low <= 0.01 <= found.high
    assert 0.93 <= hits / rounds <= 0.97


def test_coverage_over_examples_of_one_seed():
    generator = np.random.default_rng(3)
    hits = 0
    for _ in range(600):
        found = estimate(generator.normal(size=(1, 100)), replicates=200)
        hits += found.low <= 0 <= found.high
    assert 0.93 <= hits / 600 <= 0.97


def test_standard_errors_have_closed_forms():
    """Only seeds differ, only items differ, weights that leave one half out."""
    rows = np.array([1.0, 2.0, 4.0])
    error, freedom = standard_error(np.tile(rows[:, None], (1, 50)))
    assert error == pytest.approx(rows.std(ddof=1) / 3**0.5)
    assert freedom == pytest.approx(2)
    columns = np.arange(40.0)
    error, freedom = standard_error(np.tile(columns, (3, 1)))
    assert error == pytest.approx(columns.std(ddof=1) / 40**0.5)
    assert freedom == pytest.approx(39)
    weighted = standard_error(np.tile(columns, (3, 1)), np.repeat([1.0, 0.0], 20))
    assert weighted[0] == pytest.approx(columns[:20].std(ddof=1) / 20**0.5)
    assert weighted[1] == pytest.approx(19)
    assert standard_error(np.full((2, 5), 3.0))[0] < 1e-12
    assert standard_error(np.zeros((2, 5))) == (0.0, float("inf"))


def test_p_values_are_students_on_one_seed():
    from scipy.stats import ttest_1samp

    values = np.random.default_rng(5).normal(0.2, 1, 60)
    assert estimate(values[None]).p_value == pytest.approx(ttest_1samp(values, 0).pvalue)
    assert estimate(np.zeros((2, 5))).p_value == 1
    assert estimate(np.full((2, 5), 0.1)).p_value < 1e-12


def test_holm_is_the_textbook_procedure():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
    assert holm([0.2]) == [0.2]
