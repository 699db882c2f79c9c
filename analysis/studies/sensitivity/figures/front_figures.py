"""Quality against forgetting for every setting, and F1: quality against footprint over tau."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure

from analysis.evidence.fronts import front
from analysis.evidence.point_summary import PointSummary, control_of, measured_regimes
from analysis.page.bars import shown_counts
from analysis.page.dot_names import name_dots
from analysis.page.style import COLOURS, MARKERS, SEQUENTIAL, new_figure
from analysis.studies.sensitivity.figures.knobs import keep_to_shares
from analysis.studies.sensitivity.one_at_a_time import default_point, short_name, sweep_of
from grit.config.sections import Regime
from grit.tasks.metrics import is_share
from grit.training.measurements import QUANTITIES


@dataclass(frozen=True, kw_only=True)
class FrontDot:
    """One setting's means, and whether it is on the four-objective front."""

    name: str
    forgetting: float
    quality: float
    footprint: float
    is_control: bool
    on_front: bool


@dataclass(frozen=True, kw_only=True)
class FrontPanel:
    """One regime."""

    regime: Regime
    metric: str
    counts: str
    dots: tuple[FrontDot, ...]


def front_panels(points: Sequence[PointSummary]) -> tuple[FrontPanel, ...] | None:
    """None without a usable trial."""
    panels = []
    for regime in measured_regimes(points):
        members = [p for p in points if p.regime == regime and p.records]
        on_front, center = {p.point_id for p in front(members)}, default_point(points, regime)
        dots = []
        for p in members:
            dots.append(
                FrontDot(
                    name=short_name(p, center),
                    forgetting=p.mean("forgetting"),
                    quality=p.mean("quality"),
                    footprint=p.mean("footprint"),
                    is_control=p.is_control,
                    on_front=p.point_id in on_front,
                )
            )
        panel = FrontPanel(
            regime=regime, metric=members[0].quality_label, counts=shown_counts(members), dots=tuple(dots)
        )
        panels.append(panel)
    return tuple(panels) or None


def draw_front(panels: tuple[FrontPanel, ...]) -> Figure:
    """The front is filled; size is footprint."""
    figure, axes = new_figure(len(panels), width=3.9, height=3.2)
    for axis, panel in zip(axes, panels, strict=True):
        for dot in panel.dots:
            kind = "control" if dot.is_control else panel.regime
            colour = COLOURS[kind]
            axis.scatter(
                dot.forgetting,
                dot.quality,
                s=20 + 60 * dot.footprint,
                marker=MARKERS[kind],
                facecolors=colour if dot.on_front else "none",
                edgecolors=colour,
                alpha=0.8,
            )
        places = ([dot.forgetting for dot in panel.dots], [dot.quality for dot in panel.dots])
        name_dots(axis, [dot.name for dot in panel.dots], *places)
        axis.set_xlabel(QUANTITIES["forgetting"].axis)
        axis.set_ylabel(panel.metric)
        axis.set_title(f"{panel.regime}-matched, {len(panel.dots)} settings, {panel.counts}")
    note = "filled: on the four-objective front; black cross: first-order control; size: footprint"
    figure.suptitle(note, fontsize=8)
    return figure


@dataclass(frozen=True, kw_only=True)
class CapacityDot:
    """One tau: means and standard deviations over seeds; footprint in percent."""

    tau: float
    footprint: float
    footprint_spread: float
    quality: float
    quality_spread: float
    retention: float
    rank_changes: float


@dataclass(frozen=True, kw_only=True)
class CapacityPanel:
    """One regime; the control by its method and quality."""

    regime: Regime
    metric: str
    metric_is_share: bool
    counts: str
    dots: tuple[CapacityDot, ...]
    control: tuple[str, float] | None


def capacity_panels(points: Sequence[PointSummary]) -> tuple[CapacityPanel, ...] | None:
    """None where no regime has two usable settings of tau."""
    panels = []
    for regime in measured_regimes(points):
        sweep = [p for p in sweep_of(points, "tau", regime) if p.records and p.tau is not None]
        if len(sweep) > 1:
            panels.append(_capacity_panel(points, sweep, regime))
    return tuple(panels) or None


def _capacity_panel(
    points: Sequence[PointSummary], sweep: Sequence[PointSummary], regime: Regime
) -> CapacityPanel:
    control = control_of(points, regime)
    dots = []
    for p in sweep:
        dots.append(
            CapacityDot(
                tau=p.tau or 0.0,
                footprint=100 * p.mean("footprint"),
                footprint_spread=100 * (p.spread("footprint") or 0.0),
                quality=p.mean("quality"),
                quality_spread=p.spread("quality") or 0.0,
                retention=p.mean("retention"),
                rank_changes=p.mean("rank_events"),
            )
        )
    return CapacityPanel(
        regime=regime,
        metric=sweep[0].quality_label,
        metric_is_share=is_share(sweep[0].quality_metric),
        counts=shown_counts(sweep),
        dots=tuple(dots),
        control=None if control is None else (control.method, control.mean("quality")),
    )


def draw_capacity(panels: tuple[CapacityPanel, ...]) -> Figure:
    """Retention as colour, rank changes beside each point."""
    figure, axes = new_figure(len(panels), width=3.9, height=3.2)
    retention = [dot.retention for panel in panels for dot in panel.dots]
    limits = (min(retention), max(retention))
    drawn = [_draw_capacity(axis, panel, limits) for axis, panel in zip(axes, panels, strict=True)]
    figure.colorbar(drawn[-1], ax=axes, label=QUANTITIES["retention"].axis)
    return figure


def _draw_capacity(axis: Axes, panel: CapacityPanel, limits: tuple[float, float]) -> PathCollection:
    x = np.array([dot.footprint for dot in panel.dots])
    y = np.array([dot.quality for dot in panel.dots])
    across = [dot.footprint_spread for dot in panel.dots]
    along = [dot.quality_spread for dot in panel.dots]
    axis.errorbar(x, y, xerr=across, yerr=along, fmt="none", ecolor=COLOURS["neutral"], capsize=2)
    drawn = axis.scatter(
        x,
        y,
        c=[dot.retention for dot in panel.dots],
        cmap=SEQUENTIAL,
        vmin=limits[0],
        vmax=limits[1],
        s=55,
        edgecolors="black",
        linewidths=0.6,
        zorder=3,
        marker=MARKERS[panel.regime],
    )
    for dot in panel.dots:
        axis.annotate(
            f"τ = {dot.tau:g} ({dot.rank_changes:.0f})",
            (dot.footprint, dot.quality),
            textcoords="offset points",
            xytext=(0, 8),
            ha="center",
            fontsize=7,
            bbox={"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.5},
        )
    if panel.control is not None:
        method, quality = panel.control
        label = f"{method}, 100% of parameters"
        axis.axhline(quality, color=COLOURS["control"], linestyle=":", linewidth=1, label=label)
        axis.legend(frameon=False, loc="lower left")
    axis.margins(x=0.3, y=0.25)
    axis.set_xlabel("effective parameters (% of full)")
    axis.set_ylabel(panel.metric)
    axis.set_title(f"{panel.regime}-matched, {panel.counts}\nbars: spread over seeds; (rank changes)")
    if panel.metric_is_share:
        keep_to_shares(axis)
    return drawn
