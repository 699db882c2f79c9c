"""Where the weights change: by layer, against the control, and in one plane; and where step time goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.evidence.load import StudyData
from analysis.evidence.point_summary import PointSummary
from analysis.page.bars import Bars, shown_seeds
from analysis.page.style import SHADES, STROKES, new_figure, plain_log_axis
from analysis.stats.arrays import Floats
from analysis.studies.sensitivity.figures.ranks import layer_grid
from analysis.studies.sensitivity.one_at_a_time import default_and_control, sweep_of
from grit.geometry.events import reprojections

#: What is shown of an update, with its label.
UPDATE_MEASURES = {
    "update_norm": "update norm |ΔW| (Frobenius)",
    "tail_mass": "entries of ΔW above 0.01 (share)",
}
#: What attributes forgetting to layers (grit/audits/exposure.py), with its label.
EXPOSURE_MEASURES = {
    "curvature_exposure": "curvature exposure E[(g·ΔWx)²] (nats²)",
    "slope": "slope E[g·ΔWx] (nats/token)",
}
#: Trials below which a plane of updates shows nothing.
MIN_SKETCHES = 4


@dataclass(frozen=True, kw_only=True)
class UpdateSizes:
    """Means (or sums) over the modules of a layer, of the default and the control.

    Attributes:
        measures: by the measure's label, by method: means over seeds, bars of one standard deviation.
    """

    title: str
    layers: tuple[str, ...]
    measures: dict[str, dict[str, Bars]]


def update_sizes(data: StudyData, points: Sequence[PointSummary]) -> UpdateSizes | None:
    """None where a trial has no table of its update."""
    return _by_layer(data, points, UPDATE_MEASURES, "mean")


def exposed_layers(data: StudyData, points: Sequence[PointSummary]) -> UpdateSizes | None:
    """Where the updates move what general text is sensitive to; None where that was not measured."""
    return _by_layer(data, points, EXPOSURE_MEASURES, "sum")


def _by_layer(
    data: StudyData, points: Sequence[PointSummary], names: Mapping[str, str], how: str
) -> UpdateSizes | None:
    pair = default_and_control(points)
    if pair is None:
        return None
    layers: tuple[str, ...] = ()
    measures: dict[str, dict[str, Bars]] = {}
    for name, label in names.items():
        measures[label] = {}
        for number, p in enumerate(pair):
            grids = [layer_grid(data.geometry(record), name) for record in p.records]
            whole = [grid for grid in grids if grid is not None]
            if not whole or len(whole) < len(grids):
                return None
            layers = whole[0].layers
            by_layer = np.array([_over_modules(grid.values, how) for grid in whole])
            measures[label][p.method] = _over_seeds(by_layer, 0.06 * number)
    means = f"{how} over modules, n = {shown_seeds(pair[0])}"
    title = f"{pair[0].regime}-matched, {means}; bars: standard deviation over seeds"
    return UpdateSizes(title=title, layers=layers, measures=measures)


def _over_modules(values: Floats, how: str) -> Floats:
    """Of (layers, kinds); a kind that a layer lacks is left out."""
    reduced: Floats = np.nanmean(values, axis=1) if how == "mean" else np.nansum(values, axis=1)
    return reduced


def _over_seeds(values: Floats, offset: float) -> Bars:
    """Of (seeds, layers)."""
    spread = values.std(axis=0, ddof=1) if len(values) > 1 else np.zeros(values.shape[1])
    places = np.arange(values.shape[1], dtype=np.float64) + offset
    return Bars(x=places, y=values.mean(axis=0), below=spread, above=spread)


def draw_update_sizes(sizes: UpdateSizes) -> Figure:
    """One panel for each measure."""
    figure, axes = new_figure(len(sizes.measures), width=3.5, height=2.8)
    for axis, (label, by_method) in zip(axes, sizes.measures.items(), strict=True):
        looks = zip(by_method.items(), SHADES, STROKES, "os", strict=False)
        for (method, bars), colour, line, marker in looks:
            bars.draw(axis, label=method, color=colour, linestyle=line, marker=marker)
        axis.set_xticks(range(len(sizes.layers)), sizes.layers)
        axis.set_xlabel("layer")
        axis.set_ylabel(label)
        if all((bars.y >= 0).all() for bars in by_method.values()):
            axis.set_ylim(bottom=0)
        axis.legend(frameon=False)
    figure.suptitle(sizes.title, fontsize=8)
    return figure


@dataclass(frozen=True, kw_only=True)
class PlaneGroup:
    """The trials of one setting: where they lie (trials, 2), and their seeds."""

    label: str
    is_control: bool
    places: Floats
    seeds: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class UpdatePlane:
    """Updates in the first two principal components; `shares` of the variance that these hold.

    `untuned` (2,) is where the backbone lies, whose update is zero.
    """

    regime: str
    groups: tuple[PlaneGroup, ...]
    untuned: Floats
    shares: tuple[float, float]


def update_plane(data: StudyData, points: Sequence[PointSummary]) -> UpdatePlane | None:
    """Of every trial of the tau sweep and the control.

    Made of random sketches (grit/audits/update_geometry.py), which keep distances within some percent.
    """
    pair = default_and_control(points)
    if pair is None:
        return None
    center, control = pair
    sketches: dict[str, dict[int, Floats]] = {}
    settings = [control, *(p for p in sweep_of(points, "tau", center.regime) if p.records)]
    for p in settings:
        sketches[p.point_id] = _sketches(data, p)
    vectors = [vector for by_seed in sketches.values() for vector in by_seed.values()]
    if len(vectors) < MIN_SKETCHES or len({len(vector) for vector in vectors}) > 1:
        return None
    matrix = np.stack(vectors)
    centre = matrix.mean(axis=0)
    left, singular, right = np.linalg.svd(matrix - centre, full_matrices=False)
    share = singular**2 / max(float((singular**2).sum()), np.finfo(float).tiny)
    places, groups, done = left[:, :2] * singular[:2], [], 0
    for p in settings:
        seeds = tuple(sketches[p.point_id])
        label = p.method if p.is_control else f"{p.method}, τ = {p.tau:g}"
        own = places[done : done + len(seeds)]
        groups.append(PlaneGroup(label=label, is_control=p.is_control, places=own, seeds=seeds))
        done += len(seeds)
    return UpdatePlane(
        regime=center.regime,
        groups=tuple(groups),
        untuned=-right[:2] @ centre,
        shares=(float(share[0]), float(share[1])),
    )


def _sketches(data: StudyData, point: PointSummary) -> dict[int, Floats]:
    """The whole update of each trial, by seed."""
    sketches = {}
    for record in point.records:
        parts = [row["sketch"] for row in data.geometry(record)]
        if parts:
            sketches[record.plan.seed] = np.concatenate(parts)
    return sketches


def draw_update_plane(plane: UpdatePlane) -> Figure:
    """With the untuned backbone, and near by; numbers are seeds."""
    figure, (whole, near) = new_figure(2, width=4.2, height=3.6)
    across, along = plane.untuned
    whole.scatter(across, along, color="black", marker="*", s=90, label="untuned (ΔW = 0)")
    for axis in (whole, near):
        _draw_groups(axis, plane, numbered=axis is near)
        axis.set_xlabel(f"component 1 ({plane.shares[0]:.0%} of the variance)")
        axis.set_ylabel(f"component 2 ({plane.shares[1]:.0%})")
    trials = sum(len(group.seeds) for group in plane.groups)
    whole.set_title(f"weight updates of {trials} trials, {plane.regime}-matched")
    near.set_title("the same, near by; numbers: seeds")
    whole.legend(frameon=False)
    return figure


def _draw_groups(axis: Axes, plane: UpdatePlane, *, numbered: bool) -> None:
    sweep = 0
    for group in plane.groups:
        colour, marker = ("black", "X")
        if not group.is_control:
            colour, marker = SHADES[sweep % len(SHADES)], "o^sDv<>"[sweep % 7]
            sweep += 1
        across, along = group.places[:, 0], group.places[:, 1]
        axis.scatter(across, along, color=colour, marker=marker, label=group.label, s=38)
        for seed, place in zip(group.seeds if numbered else (), group.places, strict=False):
            at = (float(place[0]), float(place[1]))
            axis.annotate(str(seed), at, textcoords="offset points", xytext=(4, 3), fontsize=6)


@dataclass(frozen=True, kw_only=True)
class StepTimes:
    """Milliseconds of each step after warm-up, sorted; by method, reprojection steps on their own."""

    title: str
    plain: dict[str, Floats]
    reprojecting: dict[str, Floats]


def step_times(data: StudyData, points: Sequence[PointSummary]) -> StepTimes | None:
    """Of the control and the default, all seeds together."""
    pair = default_and_control(points)
    if pair is None:
        return None
    center, control = pair
    plain: dict[str, Floats] = {}
    reprojecting: dict[str, Floats] = {}
    for p in (control, center):
        plain[p.method], reprojecting[p.method] = _times_of(data, p)
    title = f"{center.regime}-matched, {shown_seeds(center)}, after warm-up"
    return StepTimes(title=title, plain=plain, reprojecting=reprojecting)


def _times_of(data: StudyData, point: PointSummary) -> tuple[Floats, Floats]:
    """(other steps, reprojection steps), each sorted."""
    plain: list[float] = []
    reprojecting: list[float] = []
    for record in point.records:
        rows = data.telemetry(record)
        if not rows:
            continue
        special = {event.step for event in reprojections(data.events(record))}
        warm_up = min(5, len(rows["step"]) // 10)
        for step, took in list(zip(rows["step"], rows["ms_step"], strict=True))[warm_up:]:
            (reprojecting if step in special else plain).append(took)
    return np.sort(np.array(plain, dtype=float)), np.sort(np.array(reprojecting, dtype=float))


def draw_step_times(times: StepTimes) -> Figure:
    """Distributions."""
    figure, (axis,) = new_figure(1, width=4.6, height=3.0)
    for kinds, line, suffix in ((times.plain, "-", ""), (times.reprojecting, "--", ", reprojection steps")):
        for (method, values), colour in zip(kinds.items(), SHADES, strict=False):
            if len(values):
                heights = np.arange(1, len(values) + 1) / len(values)
                label = f"{method}{suffix} (n = {len(values)})"
                axis.step(values, heights, where="post", color=colour, linestyle=line, label=label)
    axis.set_xlabel("step time (ms)")
    axis.set_ylabel("share of steps at most this long")
    plain_log_axis(axis)
    axis.set_title(times.title)
    axis.legend(frameon=False, loc="lower right")
    return figure
