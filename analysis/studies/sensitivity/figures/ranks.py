"""Where capacity goes: ranks over training, layers by kind of module, and curvature spectra."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from analysis.evidence.load import StudyData
from analysis.evidence.point_summary import PointSummary, measured_regimes
from analysis.page.bars import shown_seeds
from analysis.page.style import COLOURS, SEQUENTIAL, SHADES, STROKES, new_figure
from analysis.stats.arrays import Floats
from analysis.studies.sensitivity.one_at_a_time import default_and_control, sweep_of
from grit.config.sections import Regime
from grit.geometry.events import reprojections

#: Shares of the largest eigenvalue below which a spectrum is not drawn.
LOWEST_SHARE = 1e-9


@dataclass(frozen=True, kw_only=True)
class RankCurve:
    """One trial's mean rank over its steps, and the steps at which it reprojected."""

    tau: float
    steps: tuple[int, ...]
    mean_rank: tuple[float, ...]
    reprojections: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class RankCurves:
    """One curve for each tau, of one seed."""

    regime: Regime
    seed: int
    curves: tuple[RankCurve, ...]


def rank_curves(data: StudyData, points: Sequence[PointSummary]) -> RankCurves | None:
    """Of the first measured regime; None where tau was not swept or nothing was logged."""
    regimes = measured_regimes(points)
    if not regimes:
        return None
    sweep = [point for point in sweep_of(points, "tau", regimes[0]) if point.records]
    curves = []
    for p in sweep:
        rows = data.telemetry(p.records[0])
        if rows and p.tau is not None:
            steps = tuple(rows["step"])
            events = reprojections(data.events(p.records[0]))
            curve = RankCurve(
                tau=p.tau,
                steps=steps,
                mean_rank=tuple(rows["mean_rank"]),
                reprojections=tuple(event.step for event in events if event.step in steps),
            )
            curves.append(curve)
    if not curves:
        return None
    return RankCurves(regime=regimes[0], seed=sweep[0].seeds[0], curves=tuple(curves))


def draw_ranks(ranks: RankCurves) -> Figure:
    """Dots are reprojections."""
    figure, (axis,) = new_figure(1, width=4.6, height=3.0)
    for curve, colour, line in zip(ranks.curves, SHADES, STROKES, strict=False):
        label = f"τ = {curve.tau:g}"
        style: dict[str, Any] = {"color": colour, "linestyle": line, "drawstyle": "steps-post"}
        axis.plot(curve.steps, curve.mean_rank, label=label, **style)
        rank_at = dict(zip(curve.steps, curve.mean_rank, strict=True))
        heights = [rank_at[step] for step in curve.reprojections]
        axis.scatter(curve.reprojections, heights, color=colour, s=12, zorder=3)
    axis.set_xlabel("optimizer step")
    axis.set_ylabel("mean rank over modules")
    axis.set_title(f"{ranks.regime}-matched, seed {ranks.seed} (n = 1); dots: reprojections")
    axis.legend(frameon=False)
    return figure


@dataclass(frozen=True, kw_only=True)
class LayerGrid:
    """A quantity over layers (rows) and kinds of module (columns)."""

    values: Floats
    layers: tuple[str, ...]
    kinds: tuple[str, ...]


def layer_grid(rows: Sequence[dict[str, Any]], name: str) -> LayerGrid | None:
    """None where modules do not lie in numbered layers, or one has no value."""
    cells: dict[tuple[int, str], float] = {}
    for row in rows:
        number = re.search(r"\.(\d+)\.", row["module"])
        if number is None or row.get(name) is None:
            return None
        cells[int(number[1]), row["module"].rpartition(".")[2]] = float(row[name])
    if not cells:
        return None
    layers = sorted({layer for layer, _ in cells})
    kinds = list(dict.fromkeys(kind for _, kind in cells))
    values = np.full((len(layers), len(kinds)), np.nan)
    for (layer, kind), value in cells.items():
        values[layers.index(layer), kinds.index(kind)] = value
    return LayerGrid(values=values, layers=tuple(str(layer) for layer in layers), kinds=tuple(kinds))


def mean_grid(data: StudyData, point: PointSummary, name: str) -> LayerGrid | None:
    """Mean over the seeds of a setting; None where one of them has no grid."""
    grids = [layer_grid(data.geometry(record), name) for record in point.records]
    whole = [grid for grid in grids if grid is not None]
    if not whole or len(whole) < len(grids):
        return None
    mean = np.mean([grid.values for grid in whole], axis=0)
    return LayerGrid(values=mean, layers=whole[0].layers, kinds=whole[0].kinds)


@dataclass(frozen=True, kw_only=True)
class RankMap:
    """Kept and effective rank of a setting, layer by kind of module."""

    title: str
    kept: LayerGrid
    effective: LayerGrid


def rank_map(data: StudyData, points: Sequence[PointSummary]) -> RankMap | None:
    """At the default setting: means over seeds."""
    pair = default_and_control(points)
    if pair is None:
        return None
    center = pair[0]
    kept, effective = mean_grid(data, center, "rank"), mean_grid(data, center, "effective_rank")
    if kept is None or effective is None:
        return None
    setting = f"{center.method} at its default ({center.label()})"
    title = f"{setting}, {center.regime}-matched, mean over {shown_seeds(center)}"
    return RankMap(title=title, kept=kept, effective=effective)


def draw_rank_map(ranks: RankMap) -> Figure:
    """Two maps."""
    figure, (left, right) = new_figure(2, width=3.7, height=3.0)
    kept, effective = draw_grid(left, ranks.kept), draw_grid(right, ranks.effective)
    figure.colorbar(kept, ax=left, label="directions kept")
    figure.colorbar(effective, ax=right, label="effective rank of the update")
    figure.suptitle(ranks.title, fontsize=8)
    return figure


def draw_grid(
    axis: Axes, grid: LayerGrid, *, low: float | None = None, high: float | None = None
) -> AxesImage:
    """Layers upwards, kinds of module across; colours from `low` to `high`, or over the grid's own range."""
    image = axis.imshow(grid.values, cmap=SEQUENTIAL, aspect="auto", origin="lower", vmin=low, vmax=high)
    axis.set_xticks(range(len(grid.kinds)), grid.kinds, rotation=60, ha="right")
    axis.set_yticks(range(len(grid.layers)), grid.layers)
    axis.set_ylabel("layer")
    axis.grid(False)
    return image


def first_trial_title(point: PointSummary, modules: int) -> str:
    """Of a figure that shows the first trial of the default setting."""
    where = f"{point.regime}-matched, seed {point.seeds[0]} (n = 1), {modules} modules"
    return f"{point.method} at its default, {where}"


@dataclass(frozen=True, kw_only=True)
class Spectra:
    """Eigenvalues of both factors relative to the largest, (modules, r) each."""

    title: str
    activation: Floats
    gradient: Floats


def spectra_of(data: StudyData, points: Sequence[PointSummary]) -> Spectra | None:
    """Of the default setting's first trial, at the end of training."""
    pair = default_and_control(points)
    if pair is None:
        return None
    center = pair[0]
    rows = data.geometry(center.records[0])
    lengths = {len(row["fisher_a"] or ()) for row in rows}
    if len(lengths) != 1 or 0 in lengths:
        return None
    return Spectra(
        title=first_trial_title(center, len(rows)),
        activation=_shares(np.array([row["fisher_a"] for row in rows])),
        gradient=_shares(np.array([row["fisher_g"] for row in rows])),
    )


def _shares(eigenvalues: Floats) -> Floats:
    return np.asarray(eigenvalues / np.maximum(eigenvalues[:, :1], np.finfo(float).tiny))


def draw_spectra(spectra: Spectra) -> Figure:
    """Median and range over modules."""
    figure, (left, right) = new_figure(2, width=3.3, height=2.8)
    panels = (
        (left, spectra.activation, "activation factor Σ_a"),
        (right, spectra.gradient, "gradient factor Σ_g"),
    )
    for axis, shares, title in panels:
        number = np.arange(1, shares.shape[1] + 1)
        lowest = np.maximum(shares.min(axis=0), LOWEST_SHARE)
        middle = np.maximum(np.median(shares, axis=0), LOWEST_SHARE)
        colour = COLOURS["step"]
        axis.fill_between(
            number, lowest, shares.max(axis=0), color=colour, alpha=0.2, linewidth=0, label="range"
        )
        axis.plot(number, middle, color=colour, marker="o", markersize=3, label="median")
        axis.set_yscale("log")
        axis.set_xlabel("eigenvalue number")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set_title(title)
        axis.legend(frameon=False)
    left.set_ylabel("eigenvalue / largest")
    figure.suptitle(spectra.title, fontsize=8)
    return figure
