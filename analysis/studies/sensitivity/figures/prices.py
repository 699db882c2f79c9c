"""What a setting's result costs: retention against footprint, and quality against hours (F2)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.evidence.point_summary import PointSummary, measured_regimes
from analysis.page.bars import shown_counts
from analysis.page.dot_names import name_dots
from analysis.page.style import COLOURS, MARKERS, new_figure
from analysis.studies.sensitivity.one_at_a_time import default_point, short_name
from grit.config.sections import Regime
from grit.training.measurements import QUANTITIES

SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True, kw_only=True)
class PriceDot:
    """One setting: a price, and what it buys; means over seeds, with standard deviations."""

    name: str
    price: float
    value: float
    price_spread: float
    value_spread: float
    is_control: bool
    is_default: bool


@dataclass(frozen=True, kw_only=True)
class PricePanel:
    """One regime."""

    regime: Regime
    price_label: str
    value_label: str
    counts: str
    dots: tuple[PriceDot, ...]


def retention_by_footprint(points: Sequence[PointSummary]) -> tuple[PricePanel, ...] | None:
    """None without a usable trial."""
    axes = ("effective parameters (% of full)", QUANTITIES["retention"].axis)
    return _panels(points, "footprint", 100.0, "retention", axes)


def quality_by_hours(points: Sequence[PointSummary]) -> tuple[PricePanel, ...] | None:
    """Hours of one worker in training (seconds, where none trained for a tenth of one); evaluation left out.

    None without a usable trial.
    """
    longest = max((p.mean("train_seconds") for p in points if p.records), default=0.0)
    short = longest < SECONDS_PER_HOUR / 10
    unit, scale = ("seconds", 1.0) if short else ("hours", 1 / SECONDS_PER_HOUR)
    return _panels(points, "train_seconds", scale, "quality", (f"{unit} of training", None))


def _panels(
    points: Sequence[PointSummary], price: str, scale: float, value: str, labels: tuple[str, str | None]
) -> tuple[PricePanel, ...] | None:
    panels = []
    for regime in measured_regimes(points):
        members = [p for p in points if p.regime == regime and p.records]
        default = default_point(points, regime)
        dots = []
        for p in members:
            dots.append(
                PriceDot(
                    name=short_name(p, default),
                    price=scale * p.mean(price),
                    value=p.mean(value),
                    price_spread=scale * (p.spread(price) or 0.0),
                    value_spread=p.spread(value) or 0.0,
                    is_control=p.is_control,
                    is_default=p is default,
                )
            )
        panels.append(
            PricePanel(
                regime=regime,
                price_label=labels[0],
                value_label=labels[1] or members[0].quality_label,
                counts=shown_counts(members),
                dots=tuple(dots),
            )
        )
    return tuple(panels) or None


def draw_prices(panels: tuple[PricePanel, ...]) -> Figure:
    """The control as a cross, the default filled; bars are one standard deviation over seeds."""
    figure, axes = new_figure(len(panels), width=3.9, height=3.1)
    for axis, panel in zip(axes, panels, strict=True):
        _draw_panel(axis, panel)
    figure.suptitle(
        "black cross: first-order control; filled: default; bars: standard deviation over seeds", fontsize=8
    )
    return figure


def _draw_panel(axis: Axes, panel: PricePanel) -> None:
    alike = defaultdict(list)  # drawn at once: hundreds of settings would take seconds one by one
    for dot in panel.dots:
        alike[dot.is_control, dot.is_control or dot.is_default].append(dot)
    for (is_control, stands_out), dots in alike.items():
        kind = "control" if is_control else panel.regime
        axis.errorbar(
            [dot.price for dot in dots],
            [dot.value for dot in dots],
            xerr=[dot.price_spread for dot in dots],
            yerr=[dot.value_spread for dot in dots],
            linestyle="none",
            marker=MARKERS[kind],
            color=COLOURS[kind],
            markersize=8 if stands_out else 5,
            markerfacecolor=COLOURS[kind] if stands_out else "white",
            elinewidth=0.7,
            capsize=2,
            alpha=0.85,
        )
    places = ([dot.price for dot in panel.dots], [dot.value for dot in panel.dots])
    name_dots(axis, [dot.name for dot in panel.dots], *places)
    axis.set_xlabel(panel.price_label)
    axis.set_ylabel(panel.value_label)
    axis.set_title(f"{panel.regime}-matched, {len(panel.dots)} settings, {panel.counts}")
