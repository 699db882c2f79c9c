"""Every metric of every setting, as the paper's A.13: each column shaded from its worst value to its best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from analysis.evidence.point_summary import PointSummary
from analysis.page.style import SEQUENTIAL, new_figure
from analysis.stats.arrays import Floats
from grit.training.measurements import OBJECTIVES

#: The objectives that the map shows before the further metrics.
SHOWN_OBJECTIVES = ("quality", "retention", "footprint")


@dataclass(frozen=True, kw_only=True)
class MetricMap:
    """Means over seeds.

    Attributes:
        settings, metrics: the labels of rows and columns.
        values: (settings, metrics), NaN where a seed has none.
        shades: the same from 0 (worst of its column) to 1 (best); a half where all are equal.
        seeds: the least that a mean is over.
    """

    settings: tuple[str, ...]
    metrics: tuple[str, ...]
    values: Floats
    shades: Floats
    seeds: int


def metric_map(points: Sequence[PointSummary]) -> MetricMap | None:
    """None of fewer than two measured settings."""
    measured = [p for p in points if p.records]
    if len(measured) < 2:
        return None
    further = list(dict.fromkeys(n for p in measured for r in p.records for n in r.measured.metrics or {}))
    names = (*SHOWN_OBJECTIVES, *further)
    values = np.array([_means(point, names) for point in measured])
    shades = np.stack([_shades(values[:, j], _sign(j)) for j in range(values.shape[1])], axis=1)
    labels = ("retention", "footprint", *further)
    return MetricMap(
        settings=tuple(_setting_label(p) for p in measured),
        metrics=(measured[0].quality_label, *labels),
        values=values,
        shades=shades,
        seeds=min(len(p.seeds) for p in measured),
    )


def _sign(column: int) -> int:
    """Which way is better: a further metric is better the higher it is."""
    if column >= len(SHOWN_OBJECTIVES):
        return 1
    return 1 if OBJECTIVES[SHOWN_OBJECTIVES[column]].direction == "maximize" else -1


def _mean(point: PointSummary, name: str) -> float:
    if name in OBJECTIVES:
        return point.mean(name)
    values = [(record.measured.metrics or {}).get(name, {}).get("value") for record in point.records]
    numbers = [float(value) for value in values if value is not None]
    return float(np.mean(numbers)) if len(numbers) == len(values) else float("nan")


def _means(point: PointSummary, names: Sequence[str]) -> list[float]:
    return [_mean(point, name) for name in names]


def _shades(values: Floats, sign: int) -> Floats:
    shades = np.full(len(values), 0.5)
    finite = values[~np.isnan(values)]
    if len(finite) and np.ptp(finite) > 0:
        signed = sign * values
        shades = (signed - np.nanmin(signed)) / np.ptp(finite)
    return shades


def _setting_label(point: PointSummary) -> str:
    overrides = point.overrides_label()
    return f"{point.title}: {overrides}" if overrides else point.title


def draw_metric_map(metrics: MetricMap) -> Figure:
    """The numbers on their shades."""
    width, height = 2.6 + 0.75 * len(metrics.metrics), 0.9 + 0.2 * len(metrics.settings)
    figure, (axis,) = new_figure(1, width=width, height=height)
    axis.imshow(np.nan_to_num(metrics.shades, nan=0.5), cmap=SEQUENTIAL, aspect="auto", vmin=0, vmax=1)
    for (row, place), value in np.ndenumerate(metrics.values):
        text = "-" if np.isnan(value) else f"{value:.3f}"
        colour = "black" if metrics.shades[row, place] > 0.5 else "white"
        axis.text(place, row, text, ha="center", va="center", fontsize=6, color=colour)
    axis.set_xticks(range(len(metrics.metrics)), metrics.metrics, rotation=30, ha="right")
    axis.set_yticks(range(len(metrics.settings)), metrics.settings, fontsize=6)
    axis.grid(False)
    axis.set_title(f"means over n = {metrics.seeds} seeds")
    return figure
