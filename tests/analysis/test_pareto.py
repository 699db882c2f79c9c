import numpy as np
import pytest
from oracles import grid_hypervolume, slow_front

from analysis.stats.pareto import hypervolume, knee, non_dominated


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("dimensions", [1, 2, 3, 4])
def test_front_equals_its_slow_twin(seed, dimensions):
    generator = np.random.default_rng(seed)
    cost = generator.integers(0, 4, size=(30, dimensions)).astype(
        float
    )  # small integers: many ties and duplicates
    assert np.flatnonzero(non_dominated(cost)).tolist() == slow_front(cost.tolist())


def test_duplicates_of_a_front_point_are_all_on_the_front():
    assert non_dominated(np.array([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])).tolist() == [
        True,
        True,
        True,
        False,
    ]


def test_nan_is_never_on_the_front_and_dominates_nothing():
    assert non_dominated(np.array([[0.0, np.nan], [1.0, 1.0], [np.inf, 0.0]])).tolist() == [False, True, True]


def test_one_point_and_none():
    assert non_dominated(np.array([[3.0, 3.0]])).tolist() == [True]
    assert non_dominated(np.empty((0, 2))).tolist() == []


def test_hypervolume_closed_forms():
    reference = np.array([1.0, 1.0])
    assert hypervolume(np.array([[0.0, 0.0]]), reference) == 1.0
    assert hypervolume(np.array([[0.0, 0.5], [0.5, 0.0]]), reference) == pytest.approx(0.75)
    assert hypervolume(np.array([[0.2, 0.3, 0.4]]), np.ones(3)) == pytest.approx(0.8 * 0.7 * 0.6)
    assert hypervolume(np.array([[1.0, 0.0]]), reference) == 0.0  # on the reference: nothing between
    assert hypervolume(np.array([[-np.inf, 0.5], [2.0, 0.0]]), np.array([1.0, 1.0])) == np.inf
    assert hypervolume(np.array([[np.nan, 0.0]]), reference) == 0.0
    assert hypervolume(np.empty((0, 2)), reference) == 0.0


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("dimensions", [2, 3, 4])
def test_hypervolume_equals_the_grid_count(seed, dimensions):
    generator = np.random.default_rng(seed)
    cost = generator.integers(0, 6, size=(9, dimensions)) / 5 + (
        generator.random((9, dimensions)) if seed % 2 else 0
    )
    reference = np.full(dimensions, 1.1)
    assert hypervolume(cost, reference) == pytest.approx(grid_hypervolume(cost.tolist(), reference.tolist()))


def test_the_knee_of_known_fronts():
    corner = np.array([[0.0, 1.0], [0.1, 0.1], [1.0, 0.0], [0.9, 0.9]])
    assert knee(corner) == 1 and knee(corner * [1.0, 1000.0]) == 1  # units do not matter
    assert knee(np.array([[2.0, 5.0]])) == 0
    assert knee(np.empty((0, 3))) is None
    assert knee(np.array([[np.nan, 0.0]])) is None
    assert knee(np.array([[1.0, 3.0], [1.0, 3.0]])) == 0  # duplicates, and no range at all
