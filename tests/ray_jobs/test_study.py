from dataclasses import replace

import pytest
from builders import study

from grit.config.overrides import with_overrides
from grit.errors import ConfigError
from ray_jobs.design.plan import make_trial
from ray_jobs.design.points import Point, grid, one_at_a_time

CENTER = {"tau": 0.99, "T": 10, "lambda": 1e-3}


def test_one_at_a_time_moves_one_knob_and_has_its_center_once():
    points = one_at_a_time(CENTER, {"tau": (0.9, 0.99, 0.999), "T": (5, None), "lambda": (1e-4, 1e-1)})
    assert len(points) == 1 + 2 + 2 + 2
    assert all(sum(dict(p.overrides)[k] != CENTER[k] for k in CENTER) == 1 for p in points[1:])


def test_grid_is_every_combination():
    assert len({p.overrides for p in grid({"tau": (0.9, 0.99), "T": (5, 10, 20), "lambda": (1e-3,)})}) == 6


def test_a_setting_that_two_designs_ask_for_is_one_trial():
    made = study()
    crossed = (Point.of("grid", CENTER), Point.of("grid", {**CENTER, "tau": 0.95}))
    both = replace(made, points=(*made.points, *crossed))
    trials = both.trials
    assert len(trials) == len(made.trials) + 2 * 2
    shared = [t.record for t in trials if t.record.plan.also_designs]
    assert [(r.plan.design, r.plan.also_designs, r.tau) for r in shared] == [("oat", ("grid",), 0.99)] * 4
    assert len({t.trial_id for t in trials}) == len(trials)


def test_every_setting_is_measured_once_before_any_is_measured_twice():
    trials = study(seeds=(41, 42, 43)).trials
    seeds = [t.record.plan.seed for t in trials]
    assert seeds == sorted(seeds)
    first = [t.record.plan.point_id for t in trials if t.record.plan.seed == 41]
    assert len(set(first)) == len(first) / 2  # two regimes


def test_points_are_the_same_over_seeds_and_regimes():
    trials = study().trials
    ids = {(t.record.tau, t.record.T, t.record.lambda_, t.record.method): set() for t in trials}
    for t in trials:
        ids[t.record.tau, t.record.T, t.record.lambda_, t.record.method].add(t.record.plan.point_id)
    assert all(len(found) == 1 for found in ids.values())


def test_the_control_is_the_first_order_method_on_the_same_backbone():
    assert {t.config.method for t in study().trials if t.record.plan.design == "control"} == {"lora"}
    quantized = [t for t in study(method="qgrit").trials if t.record.plan.design == "control"]
    assert {t.config.method for t in quantized} == {"qlora"}
    assert quantized[0].record.tau is None


def test_seeds_share_data_order_and_regimes_share_seeds():
    trials = study().trials
    by_seed = {}
    for t in trials:
        by_seed.setdefault(t.record.plan.seed, set()).add(
            (t.config.seed, t.config.optimization.micro_batch, t.config.optimization.accumulation)
        )
    assert all(len(found) == 1 for found in by_seed.values())


def test_overrides_take_knobs_and_any_field_and_refuse_others():
    base = study().base
    changed = with_overrides(base, {"T": None, "preconditioner": "kfac", "learning_rate": 1e-2})
    assert (
        changed.grit.reprojection_freq,
        changed.grit.preconditioner,
        changed.optimization.learning_rate,
    ) == (None, "kfac", 1e-2)
    with pytest.raises(ConfigError, match="setting = 'Tau'"):
        with_overrides(base, {"Tau": 0.9})
    with pytest.raises(ConfigError, match="tau .*= 1.5"):
        with_overrides(base, {"tau": 1.5})


def test_trial_ids_are_stable():
    """An id that changes between versions would pay for every finished trial again.

    Change METHOD_VERSION knowingly.
    """
    made = study()
    assert (
        make_trial(made, made.points[0], 41, made.budgets[0]).trial_id
        == make_trial(study(), study().points[0], 41, study().budgets[0]).trial_id
    )
