"""Windows, tails, ratios, fits and creep against numbers worked out by hand."""

import numpy as np
import pytest

from analysis.stats.step_times import amortized, creep, ratio_interval, scaling_fit, tail, window_of


def test_windows_share_out_the_steps():
    parts = window_of(50)
    assert [range(50)[parts[name]] for name in ("warm-up", "steady", "cooldown")] == [
        range(0, 5),
        range(5, 45),
        range(45, 50),
    ]
    assert [len(range(4)[part]) for part in window_of(4).values()] == [1, 2, 1]


def test_tails_are_nearest_ranks():
    found = tail(np.arange(1, 101))
    assert (found.n, found.mean, found.p50, found.p95, found.p99) == (100, 50.5, 50, 95, 99)
    assert tail([]).n == 0
    assert np.isnan(tail([]).mean)


def test_a_ratio_holds_under_common_disturbance():
    generator = np.random.default_rng(0)
    noise = np.repeat(generator.uniform(1, 3, 40), 5)  # the machine is slow in stretches, for both
    same = ratio_interval(1.1 * 50 * noise, 50 * noise)
    assert (same.mean, same.low, same.high) == (pytest.approx(1.1),) * 3
    ratio = ratio_interval(55 * noise * generator.uniform(0.9, 1.1, 200), 50 * noise)
    assert ratio.low < 1.1 < ratio.high
    assert ratio.high - ratio.low < 0.05


def test_a_known_scaling_is_found():
    ranks, layers = np.array([4.0, 8, 16, 32, 32, 32, 32]), np.array([28.0, 28, 28, 28, 4, 8, 16])
    fit = scaling_fit(ranks, layers, 0.02 * layers * ranks + 0.001 * layers * ranks**2 + 3.0)
    assert (fit.linear, fit.quadratic, fit.constant) == (
        pytest.approx(0.02),
        pytest.approx(0.001),
        pytest.approx(3.0),
    )
    assert np.abs(fit.residuals).max() < 1e-6
    assert fit.layers == pytest.approx(0, abs=1e-6)


def test_creep_is_told_from_none():
    found = creep([1.0 + 0.02 * i for i in range(8)])
    assert found.mean == pytest.approx(0.02)
    assert 0.019 < found.low < found.high < 0.021
    none = creep([1.03, 1.0, 1.05, 1.02, 1.04, 1.01, 1.0, 1.03])
    assert none.low < 0 < none.high


def test_amortized_cost_spreads_events_over_all_steps():
    rows = [
        {"ms_reprojection": 40.0 if i == 3 else 0.0, "ms_rank": 4.0 if i == 3 else 0.0} for i in range(10)
    ]
    assert amortized(rows, ("reprojection", "rank")) == pytest.approx(44 / 10)
