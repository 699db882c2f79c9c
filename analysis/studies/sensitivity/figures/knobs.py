"""F1 to F3.

Quality, forgetting and cost over one knob, all else at the default, both regimes beside each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.evidence.load import StudyData
from analysis.evidence.point_summary import (
    PointSummary,
    control_of,
    forgetting_estimate,
    measured_regimes,
    quality_estimate,
)
from analysis.page.bars import Bars, shown_counts
from analysis.page.style import COLOURS, LINES, MARKERS, SHADES, new_figure
from analysis.stats.arrays import Floats
from analysis.studies.sensitivity.one_at_a_time import default_point, knob_value, sweep_of
from grit.config.declared_knobs import KNOBS
from grit.config.sections import Regime
from grit.tasks.metrics import is_share
from grit.training.measurements import QUANTITIES
from ray_jobs.records.trial_record import TrialRecord

#: How far the two regimes stand apart on the knob's axis, in settings.
OFFSET = 0.08
#: Sections of a step that are geometry's, with their labels.
GEOMETRY_PARTS = (("fisher", "statistics, inverses"), ("reprojection", "reprojection"), ("rank", "ranks"))


class CostPanel(Protocol):
    """The third panel of one regime."""

    def draw(self, axis: Axes, regime: Regime) -> None:
        """Onto its axis."""


@dataclass(frozen=True, kw_only=True)
class KnobSeries:
    """One regime's settings of a knob.

    Attributes:
        quality, forgetting: means with 95% intervals.
        quality_by_seed, forgetting_by_seed: each seed's value, setting by setting.
        control: the control's method, quality and forgetting.
        small_batches: the same dampings in small batches, where the study repeated them.
    """

    regime: Regime
    quality: Bars
    forgetting: Bars
    quality_by_seed: tuple[tuple[float, ...], ...]
    forgetting_by_seed: tuple[tuple[float, ...], ...]
    control: tuple[str, float, float] | None
    cost: CostPanel
    small_batches: Bars | None


@dataclass(frozen=True, kw_only=True)
class KnobCurves:
    """Everything that the figure of one knob shows; settings stand at 0, 1, ... on its axis."""

    knob: str
    values: tuple[str, ...]
    default_place: int
    metric: str
    metric_is_share: bool
    counts: str
    series: tuple[KnobSeries, ...]


def _measured(sweep: Sequence[PointSummary]) -> int:
    """How many of its settings were measured."""
    return sum(bool(point.records) for point in sweep)


def knob_curves(data: StudyData, points: Sequence[PointSummary], knob: str) -> KnobCurves | None:
    """None where no regime has two usable settings of the knob."""
    sweeps = {regime: sweep_of(points, knob, regime) for regime in measured_regimes(points)}
    sweeps = {regime: sweep for regime, sweep in sweeps.items() if _measured(sweep) > 1}
    if not sweeps:
        return None
    first = next(iter(sweeps.values()))
    center = default_point(points, first[0].regime)
    assert center is not None  # the sweep is around it
    measured = next(p for p in first if p.records)
    middle = (len(sweeps) - 1) / 2
    series = []
    for number, (regime, sweep) in enumerate(sweeps.items()):
        series.append(_series(data, points, sweep, knob, regime, OFFSET * (number - middle)))
    return KnobCurves(
        knob=knob,
        values=tuple(KNOBS[knob].shown(knob_value(p, knob)) for p in first),
        default_place=[p.point_id for p in first].index(center.point_id),
        metric=measured.quality_label,
        metric_is_share=is_share(measured.quality_metric),
        counts=shown_counts(first),
        series=tuple(series),
    )


def _series(
    data: StudyData,
    points: Sequence[PointSummary],
    sweep: Sequence[PointSummary],
    knob: str,
    regime: Regime,
    offset: float,
) -> KnobSeries:
    kept = [(place + offset, p) for place, p in enumerate(sweep) if p.records]
    x = [place for place, _ in kept]
    settings = [p for _, p in kept]
    control = control_of(points, regime)
    reference = None
    if control is not None:
        reference = (control.method, control.mean("quality"), control.mean("forgetting"))
    return KnobSeries(
        regime=regime,
        quality=Bars.of_intervals(x, [quality_estimate(data, p) for p in settings]),
        forgetting=Bars.of_intervals(x, [forgetting_estimate(data, p) for p in settings]),
        quality_by_seed=tuple(tuple(p.values("quality")) for p in settings),
        forgetting_by_seed=tuple(tuple(p.values("forgetting")) for p in settings),
        control=reference,
        cost=_COSTS.get(knob, _stability_cost)(x, settings, sweep, control),
        small_batches=_small_batches(points, sweep, regime) if knob == "lambda" else None,
    )


def _small_batches(
    points: Sequence[PointSummary], sweep: Sequence[PointSummary], regime: Regime
) -> Bars | None:
    dampings = [p.lambda_ for p in sweep]
    repeated = []
    for p in points:
        same = p.lambda_ in dampings and (p.tau, p.T) == (sweep[0].tau, sweep[0].T)
        if p.regime == regime and "small-batch" in p.designs and p.records and same:
            repeated.append(p)
    if not repeated:
        return None
    return Bars.of_spreads([dampings.index(p.lambda_) + 0.2 for p in repeated], repeated, "quality")


@dataclass(frozen=True, kw_only=True)
class FootprintCost:
    """Parameters that are kept, in percent of the full adapter."""

    footprint: Bars

    def draw(self, axis: Axes, regime: Regime) -> None:
        """Means with standard deviations."""
        self.footprint.draw(axis, color=COLOURS[regime], marker=MARKERS[regime], linestyle=LINES[regime])
        axis.set_ylabel("parameters (% of full)")
        axis.set_title("bars: standard deviation over seeds")


@dataclass(frozen=True, kw_only=True)
class OverheadCost:
    """Where geometry's share of a step goes, in percent, section by section."""

    x: Floats
    shares: dict[str, Floats]

    def draw(self, axis: Axes, regime: Regime) -> None:
        """Stacked bars."""
        labelled = axis.get_legend_handles_labels()[1]
        bottom = np.zeros(len(self.x))
        for (label, shares), colour in zip(self.shares.items(), SHADES, strict=False):
            axis.bar(
                self.x,
                shares,
                0.075,
                bottom=bottom,
                color=colour,
                alpha=1.0 if regime == "step" else 0.55,
                label=None if label in labelled else label,
            )
            bottom += shares
        axis.set_ylabel("geometry time (% of step)")
        axis.set_title("left: step-, right, paler: time-matched" if regime == "time" else "means over seeds")
        axis.legend(frameon=False, fontsize=7, loc="upper right")


@dataclass(frozen=True, kw_only=True)
class StabilityCost:
    """Spread of quality over seeds (NaN with one), and the share of trials that were lost.

    Setting by setting; `control` is the control's spread, NaN where it is not known.
    """

    x: Floats
    spread: Floats
    lost: Floats
    control: float

    def draw(self, axis: Axes, regime: Regime) -> None:
        """Two lines."""
        style: dict[str, Any] = {
            "color": COLOURS[regime],
            "marker": MARKERS[regime],
            "linestyle": LINES[regime],
        }
        axis.plot(self.x, self.spread, label=f"spread, {regime}-matched", **style)
        if not np.isnan(self.control):
            label = f"control's spread ({regime})"
            axis.axhline(self.control, color=COLOURS[regime], linestyle=":", linewidth=1, label=label)
        places = range(len(self.lost))
        label = f"share lost, {regime}-matched"
        axis.plot(places, self.lost, color=COLOURS["neutral"], marker="x", linestyle=":", label=label)
        axis.set_ylabel("spread of quality; share lost")
        axis.set_title("standard deviation over seeds")
        axis.legend(frameon=False, fontsize=7)


def _footprint_cost(
    x: Sequence[float],
    settings: Sequence[PointSummary],
    _sweep: Sequence[PointSummary],
    _control: PointSummary | None,
) -> FootprintCost:
    return FootprintCost(footprint=Bars.of_spreads(x, settings, "footprint", 100))


def _overhead_cost(
    x: Sequence[float],
    settings: Sequence[PointSummary],
    _sweep: Sequence[PointSummary],
    _control: PointSummary | None,
) -> OverheadCost:
    shares = {}
    for section, label in GEOMETRY_PARTS:
        means = [_mean_share(point, section) for point in settings]
        shares[label] = 100 * np.array(means)
    return OverheadCost(x=np.array(x, dtype=float), shares=shares)


def _mean_share(point: PointSummary, section: str) -> float:
    return fmean(section_share(record, section) for record in point.records)


def section_share(record: TrialRecord, section: str) -> float:
    """Share of a trial's mean step that one section takes; 0 where neither was measured."""
    took = (record.measured.components_ms or {}).get(section)
    step = (record.measured.step_time_ms or {}).get("mean")
    return took / step if took is not None and step else 0.0


def _stability_cost(
    x: Sequence[float],
    settings: Sequence[PointSummary],
    sweep: Sequence[PointSummary],
    control: PointSummary | None,
) -> StabilityCost:
    spreads = [p.spread("quality") for p in settings]
    lost = [p.lost / max(1, p.lost + len(p.records)) for p in sweep]
    usual = None if control is None else control.spread("quality")
    return StabilityCost(
        x=np.array(x, dtype=float),
        spread=np.array(spreads, dtype=float),
        lost=np.array(lost),
        control=float("nan") if usual is None else usual,
    )


CostOf = Callable[
    [Sequence[float], Sequence[PointSummary], Sequence[PointSummary], PointSummary | None], CostPanel
]
#: What each knob costs, of its places and settings, of the whole sweep and of the control; of any other knob
#: the spread.
_COSTS: dict[str, CostOf] = {"tau": _footprint_cost, "T": _overhead_cost, "lambda": _stability_cost}


def draw_knob(curves: KnobCurves) -> Figure:
    """Three panels."""
    figure, (quality, forgetting, cost) = new_figure(3)
    for series in curves.series:
        _draw_curve(quality, series.regime, series.quality, series.quality_by_seed)
        _draw_curve(forgetting, series.regime, series.forgetting, series.forgetting_by_seed)
        series.cost.draw(cost, series.regime)
        if series.small_batches is not None:
            label = f"small batches ({series.regime}; bars: spread)"
            series.small_batches.draw(
                quality, color=COLOURS["accent"], marker="^", linestyle="-.", label=label
            )
        if series.control is not None:
            method, own_quality, own_forgetting = series.control
            for axis, level in ((quality, own_quality), (forgetting, own_forgetting)):
                label = f"{method} ({series.regime})"
                axis.axhline(level, color=COLOURS[series.regime], linestyle=":", linewidth=1, label=label)
    for axis in (quality, forgetting, cost):
        axis.set_xticks(range(len(curves.values)), curves.values)
        axis.set_xlabel(KNOBS[curves.knob].axis)
        axis.axvline(curves.default_place, color=COLOURS["neutral"], linewidth=6, alpha=0.15, zorder=0)
    cost.set_ylim(bottom=0)
    if curves.metric_is_share:
        keep_to_shares(quality)
    quality.set_ylabel(curves.metric)
    forgetting.set_ylabel(QUANTITIES["forgetting"].axis)
    quality.set_title(f"{curves.counts}; bars: 95% bootstrap")
    forgetting.set_title("bars: 95% bootstrap; grey: default")
    handles, labels = quality.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return figure


def _draw_curve(axis: Axes, regime: Regime, bars: Bars, by_seed: Sequence[Sequence[float]]) -> None:
    """Means with their intervals; every seed as a faint dot."""
    style: dict[str, Any] = {"color": COLOURS[regime], "marker": MARKERS[regime], "linestyle": LINES[regime]}
    bars.draw(axis, label=f"{regime}-matched", **style)
    for place, values in zip(bars.x, by_seed, strict=True):
        dots = [float(place)] * len(values)
        axis.scatter(dots, values, s=10, color=COLOURS[regime], alpha=0.6, linewidths=0, zorder=3)


def keep_to_shares(axis: Axes) -> None:
    """Keeps a quality axis to what a share can be: few seeds make intervals that reach beyond it."""
    low, high = axis.get_ylim()
    axis.set_ylim(max(low, -0.03), min(high, 1.06))
