"""Where an update lies: layer by kind of module against the control's, and along the inputs' directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.evidence.load import StudyData
from analysis.evidence.point_summary import PointSummary
from analysis.page.bars import shown_seeds
from analysis.page.style import COLOURS, new_figure
from analysis.stats.arrays import Floats
from analysis.studies.sensitivity.figures.ranks import LayerGrid, draw_grid, first_trial_title, mean_grid
from analysis.studies.sensitivity.one_at_a_time import default_and_control


@dataclass(frozen=True, kw_only=True)
class UpdateMap:
    """|dW| of the control and of the default, by layer and kind of module, on one scale."""

    title: str
    grids: dict[str, LayerGrid]


def update_map(data: StudyData, points: Sequence[PointSummary]) -> UpdateMap | None:
    """Means over seeds; None where a trial has no table of its update (paper, figure 3)."""
    pair = default_and_control(points)
    if pair is None:
        return None
    center, control = pair
    grids = {}
    for p in (control, center):
        grid = mean_grid(data, p, "update_norm")
        if grid is None:
            return None
        grids[p.method] = grid
    title = f"{center.regime}-matched, mean over {shown_seeds(center)}"
    return UpdateMap(title=title, grids=grids)


def draw_update_map(update: UpdateMap) -> Figure:
    """Two maps, one colour bar."""
    figure, axes = new_figure(len(update.grids), width=3.4, height=3.0)
    highest = max(float(np.nanmax(grid.values)) for grid in update.grids.values())
    for axis, (method, grid) in zip(axes, update.grids.items(), strict=True):
        image = draw_grid(axis, grid, low=0, high=highest)
        axis.set_title(method)
    figure.colorbar(image, ax=axes, label="update norm |ΔW| (Frobenius)")
    figure.suptitle(update.title, fontsize=8)
    return figure


@dataclass(frozen=True, kw_only=True)
class UpdateEnergy:
    """Shares of the update's energy along each eigenvector of the inputs, largest first: (modules, r)."""

    title: str
    shares: Floats


def update_energy(data: StudyData, points: Sequence[PointSummary]) -> UpdateEnergy | None:
    """Of the default's first trial; None where ranks differ or it was not measured (paper, figure 8)."""
    pair = default_and_control(points)
    if pair is None:
        return None
    center = pair[0]
    rows = data.geometry(center.records[0])
    energies = [row.get("update_energy") for row in rows]
    if len({len(shares or ()) for shares in energies}) != 1 or not energies[0]:
        return None
    return UpdateEnergy(title=first_trial_title(center, len(rows)), shares=np.array(energies))


def draw_update_energy(energy: UpdateEnergy) -> Figure:
    """Median and range over modules; the dotted line is an update that prefers no direction."""
    figure, (axis,) = new_figure(1, width=4.6, height=3.0)
    number = np.arange(1, energy.shares.shape[1] + 1)
    low, middle, high = (np.quantile(energy.shares, share, axis=0) for share in (0.1, 0.5, 0.9))
    axis.bar(number, middle, color=COLOURS["step"], alpha=0.8, label="median over modules")
    bars = np.stack([middle - low, high - middle])
    axis.errorbar(number, middle, yerr=bars, fmt="none", ecolor="black", capsize=2, label="10% to 90%")
    equal = 1 / energy.shares.shape[1]
    axis.axhline(equal, color=COLOURS["neutral"], linestyle=":", label="no preference")
    axis.set_xlabel("eigenvector of the inputs' second moment, largest first")
    axis.set_ylabel("share of the update's energy")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_title(energy.title)
    axis.legend(frameon=False)
    return figure
