"""F4: each objective over T and lambda; and every setting's knobs and objectives as one line each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from analysis.evidence.fronts import front
from analysis.evidence.point_summary import PointSummary
from analysis.page.bars import shown_counts
from analysis.page.style import COLOURS, SEQUENTIAL, new_figure
from analysis.stats.arrays import Floats
from analysis.studies.sensitivity.one_at_a_time import ONE_AT_A_TIME, default_point
from grit.config.declared_knobs import KNOBS
from grit.config.sections import Regime
from grit.training.measurements import OBJECTIVES

#: Designs whose settings lie on the grid of T and lambda.
CROSSED_DESIGNS = {ONE_AT_A_TIME, "grid", "list"}


@dataclass(frozen=True, kw_only=True)
class Crossing:
    """Objectives over T and lambda at one tau.

    Attributes:
        cadences, dampings: of rows and columns; a cadence of None never comes.
        panels: by the objective's axis label: values (cadences, dampings), NaN where nothing was run.
        framed: (row, column) of the settings on the front.
    """

    regime: Regime
    tau: float
    counts: str
    cadences: tuple[int | None, ...]
    dampings: tuple[float, ...]
    panels: dict[str, Floats]
    framed: tuple[tuple[int, int], ...]


def crossing_of(points: Sequence[PointSummary], regime: Regime) -> Crossing | None:
    """From every setting of the default's tau; None where T and lambda were not moved together."""
    center = default_point(points, regime)
    if center is None or center.tau is None:
        return None
    crossed: dict[tuple[int | None, float], PointSummary] = {}
    for p in points:
        wanted = p.regime == regime and p.records and p.designs & CROSSED_DESIGNS
        if wanted and p.tau == center.tau and p.lambda_ is not None:
            crossed[p.T, p.lambda_] = p
    cadences = sorted({cadence for cadence, _ in crossed}, key=lambda value: (value is None, value or 0))
    dampings = sorted({damping for _, damping in crossed})
    alone = len(cadences) + len(dampings) - 1
    if len(cadences) < 2 or len(dampings) < 2 or len(crossed) <= alone:
        return None
    of_regime = [point for point in points if point.regime == regime]
    on_front = {point.point_id for point in front(of_regime)}
    cells = {
        (cadences.index(cadence), dampings.index(damping)): p for (cadence, damping), p in crossed.items()
    }
    shape = (len(cadences), len(dampings))
    return Crossing(
        regime=regime,
        tau=center.tau,
        counts=shown_counts(list(crossed.values())),
        cadences=tuple(cadences),
        dampings=tuple(dampings),
        panels={objective_label(name, center): _panel(cells, name, shape) for name in OBJECTIVES},
        framed=tuple(cell for cell, p in cells.items() if p.point_id in on_front),
    )


def objective_label(name: str, point: PointSummary) -> str:
    """An objective's axis; quality goes by its metric."""
    return point.quality_label if name == "quality" and point.records else OBJECTIVES[name].axis


def _panel(cells: dict[tuple[int, int], PointSummary], name: str, shape: tuple[int, int]) -> Floats:
    values = np.full(shape, np.nan)
    for cell, p in cells.items():
        values[cell] = OBJECTIVES[name].axis_scale * p.mean(name)
    return values


def draw_crossing(crossing: Crossing) -> Figure:
    """Squares mark the front."""
    figure, axes = new_figure(len(crossing.panels), width=2.8, height=2.9)
    for axis, (label, values) in zip(axes, crossing.panels.items(), strict=True):
        image = axis.imshow(values, cmap=SEQUENTIAL, aspect="auto", origin="lower")
        _write_numbers(axis, values)
        for row, place in crossing.framed:
            corner = (place - 0.46, row - 0.46)
            frame = Rectangle(corner, 0.92, 0.92, fill=False, edgecolor=COLOURS["time"], linewidth=1.6)
            axis.add_patch(frame)
        axis.set_xticks(range(len(crossing.dampings)), [KNOBS["lambda"].shown(v) for v in crossing.dampings])
        axis.set_yticks(range(len(crossing.cadences)), [KNOBS["T"].shown(v) for v in crossing.cadences])
        axis.set_xlabel(KNOBS["lambda"].axis)
        axis.set_ylabel(KNOBS["T"].axis if axis is axes[0] else "")
        axis.set_title(label)
        axis.grid(False)
        figure.colorbar(image, ax=axis, shrink=0.8)
    setting = f"{crossing.regime}-matched, τ = {crossing.tau:g}, {crossing.counts}"
    title = f"{setting}; framed: on the four-objective front"
    figure.suptitle(title, fontsize=8)
    return figure


def _write_numbers(axis: Axes, values: Floats) -> None:
    middle = (np.nanmin(values) + np.nanmax(values)) / 2
    for (row, place), value in np.ndenumerate(values):
        if not np.isnan(value):
            colour = "black" if value > middle else "white"
            axis.text(place, row, f"{value:.3g}", ha="center", va="center", fontsize=7, color=colour)


@dataclass(frozen=True, kw_only=True)
class ParallelLines:
    """Every setting of a regime.

    Attributes:
        columns: by label: values (settings,) as they are plotted.
        ends: by label: the least and the greatest as they are read.
        on_front: setting by setting.
    """

    regime: Regime
    counts: str
    columns: dict[str, Floats]
    ends: dict[str, tuple[float, float]]
    on_front: tuple[bool, ...]

    def scaled(self) -> Floats:
        """(columns, settings), each column from 0 to 1; a half where all are equal."""
        rows = []
        for values in self.columns.values():
            span = np.ptp(values)
            rows.append((values - values.min()) / span if span > 0 else np.full(len(values), 0.5))
        return np.array(rows)


def parallel_lines(points: Sequence[PointSummary], regime: Regime) -> ParallelLines | None:
    """None of fewer than three settings."""
    usable = [p for p in points if p.regime == regime and p.records and p.tau is not None]
    if len(usable) < 3:
        return None
    cadences = [p.T for p in usable if p.T is not None]
    never = 2 * max(cadences, default=1)
    logs = {
        "1 - τ (log)": np.log10([max(1e-6, 1 - (p.tau or 0)) for p in usable]),
        "T (log; none: top)": np.log10([p.T or never for p in usable]),
        "λ (log)": np.log10([p.lambda_ or 1e-12 for p in usable]),
    }
    plain = {}
    for name, objective in OBJECTIVES.items():
        values = [objective.axis_scale * p.mean(name) for p in usable]
        plain[objective_label(name, usable[0])] = np.array(values)
    ends = {label: (float(10 ** values.min()), float(10 ** values.max())) for label, values in logs.items()}
    ends |= {label: (float(values.min()), float(values.max())) for label, values in plain.items()}
    members = {p.point_id for p in front(usable)}
    return ParallelLines(
        regime=regime,
        counts=shown_counts(usable),
        columns={**logs, **plain},
        ends=ends,
        on_front=tuple(p.point_id in members for p in usable),
    )


def draw_parallel(lines: ParallelLines) -> Figure:
    """The front in colour."""
    figure, (axis,) = new_figure(1, width=8.4, height=3.2)
    for values, on_front in zip(lines.scaled().T, lines.on_front, strict=True):
        places = range(len(values))
        if on_front:
            axis.plot(places, values, color=COLOURS[lines.regime], alpha=0.9, linewidth=1.4, zorder=2)
        else:
            axis.plot(places, values, color=COLOURS["neutral"], alpha=0.35, linewidth=0.8, zorder=1)
    axis.set_xticks(range(len(lines.columns)), list(lines.columns))
    for place, (least, greatest) in enumerate(lines.ends.values()):
        axis.text(place, -0.07, f"{least:.3g}", ha="center", fontsize=7)
        axis.text(place, 1.04, f"{greatest:.3g}", ha="center", fontsize=7)
    axis.set_yticks([])
    axis.set_ylim(-0.12, 1.12)
    axis.grid(axis="y", visible=False)
    settings = f"{len(lines.on_front)} settings, {lines.counts}"
    axis.set_title(f"{lines.regime}-matched: {settings}; coloured: on the four-objective front")
    return figure
