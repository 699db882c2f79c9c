"""Quality against forgetting over learning rates and scaled updates: every method beside LoRA and GRIT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

from analysis.evidence.load import StudyData
from analysis.evidence.point_summary import PointSummary
from analysis.page.style import COLOURS, new_figure
from analysis.stats.arrays import Floats
from analysis.stats.frontier_area import FrontierSetting, attained
from analysis.studies.baselines.areas import frontier_settings, untuned_quality
from analysis.studies.baselines.tables import REFERENCE
from analysis.studies.baselines.tuning import TunedMethod, path_of, setting_values
from grit.config.registry import Method
from grit.training.measurements import QUANTITIES

#: Drawn beside every other method: colour, line and marker.
LANDMARKS: dict[Method, tuple[str, str, str]] = {
    "lora": (COLOURS["neutral"], "--", "s"),
    "grit": (COLOURS["step"], ":", "^"),
}
#: How the panel's own method is drawn.
OWN: dict[str, object] = {"color": COLOURS["time"], "linestyle": "-", "marker": "o"}
#: Forgetting up to which the axis is linear, and its ticks, in nats per token.
LINEAR_BELOW, TICKS = 0.1, (0.0, 0.1, 1.0, 10.0)
#: Panels in a row, and places of forgetting at which attainment is drawn.
COLUMNS, PLACES = 6, 60


@dataclass(frozen=True, kw_only=True)
class FrontierCurve:
    """One method.

    Attributes:
        title: its name.
        forgetting, quality: means over seeds, one per learning rate (k,); quality of the odd examples.
        forgetting_spread, quality_spread: their standard deviations (k,).
        paths: of each learning rate that was scored with its update scaled down, forgetting and quality from
            the untuned model to the setting itself.
        places: forgetting (p,) at which attainment is given.
        reached_by_all, reached_by_one: the quality that every seed reaches there, and the best seed (p,).
    """

    title: str
    forgetting: Floats
    quality: Floats
    forgetting_spread: Floats
    quality_spread: Floats
    paths: tuple[tuple[Floats, Floats], ...]
    places: Floats
    reached_by_all: Floats
    reached_by_one: Floats


@dataclass(frozen=True, kw_only=True)
class Frontiers:
    """One curve per method; the least seeds that a mean is over."""

    regime: str
    curves: dict[Method, FrontierCurve]
    seeds: int


def frontiers(data: StudyData, tuned: Mapping[Method, TunedMethod], regime: str) -> Frontiers | None:
    """None without the reference and another."""
    if REFERENCE not in tuned or len(tuned) < 2:
        return None
    curves = {method: _curve(data, tuning) for method, tuning in tuned.items()}
    seeds = min(len(p.seeds) for tuning in tuned.values() for p in tuning.settings)
    return Frontiers(regime=regime, curves=curves, seeds=seeds)


def _curve(data: StudyData, tuned: TunedMethod) -> FrontierCurve:
    untuned = float(untuned_quality(data, tuned).values.mean())
    settings = frontier_settings(data, tuned)
    places = np.linspace(0.0, max(setting.values.by_seed.max() for setting in settings), PLACES)
    reached = _reached(settings, untuned, places)
    ends = [setting_values(data, point) for point in tuned.settings]
    paths = [_path(data, point, untuned) for point in tuned.settings]
    return FrontierCurve(
        title=tuned.title,
        forgetting=np.array([values.by_seed.mean() for values in ends]),
        quality=np.array([values.quality.mean() for values in ends]),
        forgetting_spread=np.array([_spread(values.by_seed) for values in ends]),
        quality_spread=np.array([_spread(values.quality.mean(axis=1)) for values in ends]),
        paths=tuple(path for path in paths if path is not None),
        places=places,
        reached_by_all=reached.min(axis=0),
        reached_by_one=reached.max(axis=0),
    )


def _reached(settings: Sequence[FrontierSetting], untuned: float, places: Floats) -> Floats:
    """Attainment of each seed, where all settings have the same seeds; else of their means alone."""
    seeds = {setting.values.quality.shape[0] for setting in settings}
    forgetting = [setting.values.by_seed for setting in settings]
    quality = [setting.values.quality.mean(axis=1) for setting in settings]
    if len(seeds) > 1:
        forgetting = [np.array([values.mean()]) for values in forgetting]
        quality = [np.array([values.mean()]) for values in quality]
    return attained(np.array(forgetting), np.array(quality), untuned, places)


def _path(data: StudyData, point: PointSummary, untuned: float) -> tuple[Floats, Floats] | None:
    scaled = path_of(data, point)
    if not scaled:
        return None
    forgetting = [float(step.values.by_seed.mean()) for step in scaled]
    quality = [float(step.values.quality.mean()) for step in scaled]
    end = setting_values(data, point)
    forgetting, quality = [*forgetting, float(end.by_seed.mean())], [*quality, float(end.quality.mean())]
    return np.array([0.0, *forgetting]), np.array([untuned, *quality])


def _spread(by_seed: Floats) -> float:
    return float(by_seed.std(ddof=1)) if len(by_seed) > 1 else 0.0


def draw_frontiers(frontiers: Frontiers) -> Figure:
    """One panel a method."""
    count = len(frontiers.curves)
    columns = min(COLUMNS, count)
    figure, axes = new_figure(columns, rows=-(-count // columns), width=1.9, height=1.9)
    for axis in axes[count:]:
        axis.set_visible(False)
    for axis, (method, curve) in zip(axes, frontiers.curves.items(), strict=False):
        for landmark, (colour, line, marker) in LANDMARKS.items():
            if landmark in frontiers.curves and landmark != method:
                style = {"color": colour, "linestyle": line, "marker": marker, "alpha": 0.7}
                _draw_curve(axis, frontiers.curves[landmark], style, bars=False)
        _draw_curve(axis, curve, OWN, bars=True)
        _draw_reach(axis, curve)
        axis.set_title(curve.title, fontsize=8)
        axis.tick_params(labelsize=6)
        if axis.get_xlim()[1] > 2 * LINEAR_BELOW:
            axis.set_xscale("symlog", linthresh=LINEAR_BELOW)
            axis.xaxis.set_major_locator(FixedLocator(TICKS))
            axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axis.xaxis.set_minor_locator(NullLocator())
    for axis in axes[::columns]:
        axis.set_ylabel(f"{QUANTITIES['quality'].axis} (test half)", fontsize=7)
    figure.supxlabel("forgetting (nats/token; where it is large, logarithmic above 0.1)", fontsize=8)
    _explain(figure, frontiers)
    means = f"one point per learning rate, means over n = {frontiers.seeds} seeds; bars: standard deviation"
    reach = "thin: the update scaled down; shaded: reached by all seeds to reached by one"
    figure.suptitle(f"{frontiers.regime}-matched, {means}\n{reach}", fontsize=8)
    return figure


def _explain(figure: Figure, frontiers: Frontiers) -> None:
    """One legend for all panels."""
    handles = [Line2D([], [], label="the panel's method", markersize=3, **OWN)]  # type: ignore[arg-type]
    for landmark, (colour, line, marker) in LANDMARKS.items():
        if landmark in frontiers.curves:
            title = frontiers.curves[landmark].title
            style = {"color": colour, "linestyle": line, "marker": marker}
            handles.append(Line2D([], [], label=title, markersize=3, **style))  # type: ignore[arg-type]
    figure.legend(handles=handles, loc="outside upper right", ncols=len(handles), frameon=False, fontsize=7)


def _draw_curve(axis: Axes, curve: FrontierCurve, style: dict[str, object], *, bars: bool) -> None:
    look: dict[str, object] = {"markersize": 3, "linewidth": 1.0, "elinewidth": 0.6, **style}
    errors: dict[str, object] = {}
    if bars:
        errors = {"xerr": curve.forgetting_spread, "yerr": curve.quality_spread}
    axis.errorbar(curve.forgetting, curve.quality, label=curve.title, **errors, **look)  # type: ignore[arg-type]


def _draw_reach(axis: Axes, curve: FrontierCurve) -> None:
    """The paths that end in its points, and how far seeds agree on what can be reached."""
    for forgetting, quality in curve.paths:
        axis.plot(forgetting, quality, color=COLOURS["time"], linewidth=0.5, alpha=0.6, zorder=1)
    axis.fill_between(
        curve.places,
        curve.reached_by_all,
        curve.reached_by_one,
        color=COLOURS["time"],
        alpha=0.15,
        linewidth=0,
        step="post",
    )
