"""Figures are computed into objects, and these are asserted number by number."""

from dataclasses import replace

import numpy as np
import pytest
from builders import ended, planned, study, study_folder

from analysis.evidence.load import load_study
from analysis.evidence.point_summary import summarize_points
from analysis.page.dot_names import Box, place_names
from analysis.studies.sensitivity.figures import (
    crossings,
    front_figures,
    knobs,
    over_time,
    prices,
    ranks,
    update_maps,
    updates,
)
from ray_jobs.design.points import grid


def _outcome(record):
    """Quality rises with the seed; a low tau is small, a short T dear, a large lambda forgets."""
    changes = {"quality": 0.5 + 0.1 * (record.plan.seed - 41)}
    if record.tau == 0.9:
        changes["footprint"] = 0.4
    if record.T == 5:
        changes["overhead"] = 0.2
    if record.lambda_ == 0.1:
        changes["forgetting"] = 0.3
    return ended(record, **changes)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("measured")
    study_folder(folder, [_outcome(record) for record in planned(study())])
    data = load_study(folder)
    return data, summarize_points(data.records)


def test_a_knobs_curves(measured):
    data, points = measured
    curves = knobs.knob_curves(data, points, "lambda")
    assert curves.values == ("0.001", "0.1")
    assert curves.default_place == 0
    assert (curves.metric, curves.metric_is_share) == ("exact match", True)
    assert curves.counts == "n = 2 seeds a point"
    step, time = curves.series
    assert (step.regime, time.regime) == ("step", "time")
    assert step.quality.y == pytest.approx([0.55, 0.55])
    assert step.quality_by_seed == ((0.5, 0.6), (0.5, 0.6))
    assert step.forgetting.y == pytest.approx([0.1, 0.3])
    assert step.quality.x[0] == pytest.approx(-0.04)
    assert step.control == ("lora", pytest.approx(0.55), pytest.approx(0.1))
    assert step.cost.spread == pytest.approx([np.std([0.5, 0.6], ddof=1)] * 2)
    assert step.cost.lost == pytest.approx([0.0, 0.0])
    assert step.cost.control == pytest.approx(np.std([0.5, 0.6], ddof=1))


def test_the_update_over_time(measured):
    history = over_time.update_history(*measured)
    rows = measured[0].table("spectra", over_time.default_spectra(*measured)[0].records[0])
    first = [row["tail_mass"] for row in rows if row["step"] == history.steps[0]]
    mean, low, high = (part[0] for part in history.tail)
    assert (mean, low, high) == pytest.approx((np.mean(first), min(first), max(first)))
    assert low < high
    assert history.norm[0] == pytest.approx([0.5] * len(history.steps))


def test_what_tau_and_T_cost(measured):
    data, points = measured
    footprint = knobs.knob_curves(data, points, "tau").series[0].cost.footprint
    assert footprint.y == pytest.approx([40.0, 80.0])
    shares = knobs.knob_curves(data, points, "T").series[0].cost.shares
    assert set(shares) == {"statistics, inverses", "reprojection", "ranks"}


def test_the_front_and_the_capacity(measured):
    _, points = measured
    step, _ = front_figures.front_panels(points)
    control = next(dot for dot in step.dots if dot.is_control)
    assert {dot.name for dot in step.dots} >= {"LoRA", "default", "tau=0.9", "lambda=0.1"}
    assert (control.quality, control.footprint) == (pytest.approx(0.55), 1.0)
    dear = next(dot for dot in step.dots if dot.footprint == pytest.approx(0.8) and dot.forgetting > 0.2)
    assert not dear.on_front
    small, large = front_figures.capacity_panels(points)[0].dots
    assert (small.tau, small.footprint) == (0.9, pytest.approx(40.0))
    assert (large.tau, large.rank_changes) == (0.99, 2)


def test_a_crossing_needs_T_and_lambda_moved_together(measured, tmp_path):
    assert crossings.crossing_of(measured[1], "step") is None
    made = study(regimes=("step",))
    crossed = grid({"tau": (0.99,), "T": (5, 10), "lambda": (1e-3, 1e-1)})
    made = replace(made, points=(made.points[0], *crossed))
    study_folder(tmp_path, [_outcome(record) for record in planned(made)], regimes=("step",))
    points = summarize_points(load_study(tmp_path).records)
    crossing = crossings.crossing_of(points, "step")
    assert (crossing.cadences, crossing.dampings) == ((5, 10), (1e-3, 1e-1))
    assert crossing.panels["overhead (% of step)"] == pytest.approx(np.array([[20, 20], [5, 5]]))
    assert (1, 0) in crossing.framed
    assert (0, 1) not in crossing.framed


def test_parallel_lines_scale_each_column(measured):
    lines = crossings.parallel_lines(measured[1], "step")
    assert lines.ends["T (log; none: top)"] == (pytest.approx(5), pytest.approx(10))
    assert lines.ends["footprint (% of full)"] == (pytest.approx(40), pytest.approx(80))
    scaled = lines.scaled()
    assert scaled.min() == 0
    assert scaled.max() == 1
    assert len(lines.on_front) == 4


def test_ranks_over_training(measured):
    data, points = measured
    curves = ranks.rank_curves(data, points)
    assert [curve.tau for curve in curves.curves] == [0.9, 0.99]
    assert curves.curves[0].reprojections == (10, 20)
    assert curves.curves[0].mean_rank[-1] == pytest.approx(7.0)
    shape = ranks.rank_map(data, points)
    assert shape.kept.values.tolist() == [[8, 8], [8, 8]]
    assert shape.effective.values.tolist() == [[4, 4], [5, 5]]
    assert (shape.kept.layers, shape.kept.kinds) == (("0", "1"), ("q_proj", "v_proj"))
    spectra = ranks.spectra_of(data, points)
    assert spectra.activation == pytest.approx(np.tile([1.0, 0.5, 0.25], (4, 1)))


def test_updates_by_layer_and_in_a_plane(measured):
    data, points = measured
    sizes = updates.update_sizes(data, points)
    norms = sizes.measures["update norm |ΔW| (Frobenius)"]
    assert set(norms) == {"grit", "lora"}
    assert norms["grit"].y == pytest.approx([1.0, 2.0])
    plane = updates.update_plane(data, points)
    assert [group.is_control for group in plane.groups] == [True, False, False]
    assert all(group.seeds == (41, 42) for group in plane.groups)
    assert 0 < plane.shares[1] <= plane.shares[0] <= 1


def test_the_untuned_backbone_lies_where_its_zero_update_does(measured):
    data, points = measured
    plane = updates.update_plane(data, points)
    control = next(point for point in points if point.is_control)
    sketch = np.concatenate([row["sketch"] for row in data.geometry(control.records[0])])
    distance = np.linalg.norm(plane.groups[0].places[0] - plane.untuned)
    assert 0 < distance <= np.linalg.norm(sketch) + 1e-9


def test_the_geometry_over_time(measured):
    data, points = measured
    history = over_time.rank_history(data, points)
    assert history.steps == (10, 20)
    mean, low, high = history.measures["directions kept"]
    assert (mean.tolist(), low.tolist(), high.tolist()) == ([7.5, 6.5], [7, 6], [8, 7])
    assert history.measures["effective rank of Σ_a, exp(entropy)"][0].tolist() == [2.5, 2.5]
    modules = over_time.module_ranks(data, points)
    assert modules.modules == ("0 q_proj", "0 v_proj", "1 q_proj", "1 v_proj")
    assert modules.ranks.tolist() == [[8, 7], [8, 7], [7, 6], [7, 6]]
    energy = over_time.energy_curves(data, points)
    assert (energy.tau, list(energy.curves)) == (0.99, [10, 20])
    assert energy.curves[20] == pytest.approx([0.5, 0.75, 1.0])


def test_step_times_in_windows(measured):
    data, points = measured
    windows = over_time.step_windows(data, points)
    assert set(windows.mean) == {"grit", "lora"}
    assert windows.shares[0] == pytest.approx(1 / 16)
    assert all((windows.p99[name] >= windows.mean[name]).all() for name in windows.mean)


def test_what_results_cost(measured):
    _, points = measured
    step, _ = prices.retention_by_footprint(points)
    control = next(dot for dot in step.dots if dot.is_control)
    default = next(dot for dot in step.dots if dot.is_default)
    assert (control.price, default.price) == (100.0, pytest.approx(80.0))
    hours, _ = prices.quality_by_hours(points)
    assert [dot.price for dot in hours.dots] == [2.0] * len(hours.dots)
    assert hours.price_label == "seconds of training"


def test_where_updates_lie(measured):
    data, points = measured
    update = update_maps.update_map(data, points)
    assert list(update.grids) == ["lora", "grit"]
    assert update.grids["grit"].values.tolist() == [[1, 1], [2, 2]]
    energy = update_maps.update_energy(data, points)
    assert energy.shares == pytest.approx(np.tile([0.5, 0.3, 0.2], (4, 1)))


def test_step_times_set_reprojections_apart(measured):
    data, points = measured
    times = updates.step_times(data, points)
    assert len(times.plain["lora"]) == 2 * 18
    assert len(times.reprojecting["lora"]) == 0
    assert len(times.reprojecting["grit"]) == 2 * 2


def test_what_was_not_measured_is_not_drawn(tmp_path):
    study_folder(tmp_path, [record for record in planned(study())])
    data = load_study(tmp_path)
    points = summarize_points(data.records)
    assert front_figures.front_panels(points) is None
    assert knobs.knob_curves(data, points, "tau") is None
    assert ranks.rank_curves(data, points) is None
    assert updates.update_plane(data, points) is None
    assert over_time.rank_history(data, points) is None
    assert over_time.step_windows(data, points) is None
    assert prices.quality_by_hours(points) is None
    assert update_maps.update_map(data, points) is None


def test_names_stand_where_they_meet_nobody():
    """Right, else left, else above, else below; and a dot in the midst of others stays without."""
    panel = Box(0.0, 0.0, 200.0, 100.0)
    alone, at_the_edge = (50.0, 50.0), (195.0, 80.0)
    placed = {one.name: one for one in place_names(["one", "edge"], [alone, at_the_edge], panel)}
    assert placed["one"].side == "left"
    assert placed["one"].box.left > 50
    assert placed["edge"].side == "right"
    twice = place_names(["same", "other", "same"], [(20.0, 20.0), (80.0, 50.0), (140.0, 80.0)], panel)
    assert [one.number for one in twice] == [0, 1, 2]
    crowd = [(100.0 + 7 * dx, 50.0 + 7 * dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1)]
    names = [f"a longer name {number}" for number in range(len(crowd))]
    named = place_names(names, crowd, panel)
    assert 0 < len(named) < len(crowd)
    for number, one in enumerate(named):
        assert not any(one.box.overlaps(other.box) for other in named[number + 1 :])
        dots = [Box(x - 2.5, y - 2.5, x + 2.5, y + 2.5) for x, y in crowd if (x, y) != one.dot]
        assert not any(map(one.box.overlaps, dots))
