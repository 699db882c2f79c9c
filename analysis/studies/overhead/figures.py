"""How step times are distributed, where they go, and quality over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.evidence.point_summary import PointSummary
from analysis.page.bars import Bars
from analysis.page.style import SHADES, STROKES, new_figure, plain_log_axis
from analysis.stats.arrays import Floats
from analysis.studies.overhead.method_costs import ComponentRow, component_rows
from analysis.studies.overhead.score import with_curves
from analysis.studies.overhead.session import Session
from grit.config.registry import METHODS
from grit.io.files import Row
from grit.runtime.step_sections import GEOMETRY_SECTIONS, SECTIONS


@dataclass(frozen=True, kw_only=True)
class TimeDistribution:
    """One method's steady steps: milliseconds in ascending order, and which of them reprojected."""

    title: str
    times: Floats
    reprojected: tuple[bool, ...]

    @property
    def shares(self) -> Floats:
        """Share of steps at most that long."""
        return np.arange(1, len(self.times) + 1) / len(self.times)


def time_distributions(session: Session) -> tuple[TimeDistribution, ...]:
    """Of every method."""
    distributions = []
    for method in session.runs:
        rows = sorted(session.steady(method), key=lambda row: float(row["ms_step"]))
        distributions.append(
            TimeDistribution(
                title=METHODS[method].title,
                times=np.array([row["ms_step"] for row in rows], dtype=float),
                reprojected=tuple(bool(row["reprojected"]) for row in rows),
            )
        )
    return tuple(distributions)


def draw_time_distributions(distributions: tuple[TimeDistribution, ...]) -> Figure:
    """Dots are steps that reprojected."""
    figure, (axis,) = new_figure(1, width=5.0, height=3.2)
    for number, one in enumerate(distributions):
        colour, line = SHADES[number % len(SHADES)], STROKES[number % len(STROKES)]
        label = f"{one.title} (n = {len(one.times)})"
        axis.step(one.times, one.shares, where="post", color=colour, linestyle=line, label=label)
        events = np.array(one.reprojected, dtype=bool)
        axis.scatter(one.times[events], one.shares[events], color=colour, s=16, zorder=3)
    plain_log_axis(axis)
    axis.set_xlabel("step time (ms)")
    axis.set_ylabel("share of steps at most this long")
    axis.set_title("steady steps; dots: steps that reprojected")
    axis.legend(frameon=False, fontsize=6, loc="lower right")
    return figure


@dataclass(frozen=True, kw_only=True)
class Breakdown:
    """Mean milliseconds by section: over all steady steps, and over those that reprojected."""

    mean: tuple[ComponentRow, ...]
    reprojecting: tuple[ComponentRow, ...]


def breakdown_of(session: Session) -> Breakdown:
    """The rows of the table of components."""
    rows = component_rows(session)
    return Breakdown(
        mean=tuple(row for row in rows if row.kind == "all"),
        reprojecting=tuple(row for row in rows if row.kind != "all"),
    )


def draw_breakdown(breakdown: Breakdown) -> Figure:
    """Stacked bars; GRIT's own sections are hatched."""
    figure, (left, right) = new_figure(2, width=3.6, height=3.2)
    _stack(left, breakdown.mean, "mean step")
    _stack(right, breakdown.reprojecting, "reprojection steps")
    left.set_ylabel("time per step (ms)")
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncol=7, frameon=False, fontsize=7)
    figure.suptitle("steady steps, methods in turn in one process; hatched: GRIT's own", fontsize=8)
    return figure


def _stack(axis: Axes, rows: Sequence[ComponentRow], title: str) -> None:
    bottom = np.zeros(len(rows))
    for number, section in enumerate(SECTIONS):
        heights = np.array([row.sections[section] for row in rows])
        axis.bar(
            range(len(rows)),
            heights,
            bottom=bottom,
            color=SHADES[number % len(SHADES)],
            label=section,
            width=0.7,
            hatch="///" if section in GEOMETRY_SECTIONS else None,
            edgecolor="white",
            linewidth=0.3,
        )
        bottom += heights
    axis.set_xticks(range(len(rows)), [f"{row.title}\nn={row.count}" for row in rows], fontsize=6)
    axis.set_title(title)


@dataclass(frozen=True, kw_only=True)
class ScorePanel:
    """Quality over training seconds (time-matched) or over steps (step-matched).

    Means, one standard deviation.
    """

    regime: str
    metric: str
    seeds: int
    curves: dict[str, Bars]


def score_panels(points: Sequence[PointSummary]) -> tuple[ScorePanel, ...] | None:
    """None without a curve."""
    panels = []
    for regime in ("time", "step"):
        members = [p for p in with_curves(points) if p.regime == regime]
        curves = {p.title: _score_curve(p) for p in members}
        drawn = {title: bars for title, bars in curves.items() if bars is not None}
        if drawn:
            first = members[0]
            panel = ScorePanel(
                regime=regime, metric=first.quality_label, seeds=len(first.seeds), curves=drawn
            )
            panels.append(panel)
    return tuple(panels) or None


def _column(rows: Sequence[Row], name: str) -> list[float]:
    return [row[name] for row in rows]


def _score_curve(point: PointSummary) -> Bars | None:
    curves = [_with_quality(record.measured.curve or []) for record in point.records]
    length = min(len(curve) for curve in curves)
    if not length:
        return None
    clock = "train_seconds" if point.regime == "time" else "step"
    x = np.array([_column(curve[:length], clock) for curve in curves], dtype=float)
    y = np.array([_column(curve[:length], "quality") for curve in curves], dtype=float)
    spread = y.std(axis=0, ddof=1) if len(y) > 1 else np.zeros(length)
    return Bars(x=x.mean(axis=0), y=y.mean(axis=0), below=spread, above=spread)


def _with_quality(curve: Sequence[Row]) -> list[Row]:
    """Without the evaluations on which only likelihoods were measured."""
    return [at for at in curve if at["quality"] is not None]


def draw_scores(panels: tuple[ScorePanel, ...]) -> Figure:
    """One panel a regime."""
    figure, axes = new_figure(len(panels), width=3.6, height=3.0)
    for axis, panel in zip(axes, panels, strict=True):
        for number, (title, bars) in enumerate(panel.curves.items()):
            colour, line = SHADES[number % len(SHADES)], STROKES[number % len(STROKES)]
            bars.draw(
                axis, color=colour, linestyle=line, marker="o", markersize=3, elinewidth=0.7, label=title
            )
        axis.set_xlabel("training time (s)" if panel.regime == "time" else "optimizer step")
        axis.set_ylabel(panel.metric)
        bars_are = f"n = {panel.seeds} seeds; bars: standard deviation"
        axis.set_title(f"{panel.regime}-matched, {bars_are}", fontsize=8)
        axis.legend(frameon=False)
    return figure
