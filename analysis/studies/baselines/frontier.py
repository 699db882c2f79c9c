"""Quality against forgetting over learning rates: every method beside LoRA and GRIT."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.page.style import COLOURS, new_figure
from analysis.stats.arrays import Floats
from analysis.studies.baselines.tables import REFERENCE
from analysis.studies.baselines.tuning import TunedMethod
from grit.config.registry import Method
from grit.training.measurements import QUANTITIES

#: Drawn beside every other method: colour, line and marker.
LANDMARKS: dict[Method, tuple[str, str, str]] = {
    "lora": (COLOURS["neutral"], "--", "s"),
    "grit": (COLOURS["step"], ":", "^"),
}
#: Panels in a row.
COLUMNS = 6


@dataclass(frozen=True, kw_only=True)
class FrontierCurve:
    """Means over seeds, one per learning rate (k,), and their standard deviations (k,)."""

    title: str
    forgetting: Floats
    quality: Floats
    forgetting_spread: Floats
    quality_spread: Floats


@dataclass(frozen=True, kw_only=True)
class Frontiers:
    """One curve per method; the least seeds that a mean is over."""

    regime: str
    curves: dict[Method, FrontierCurve]
    seeds: int


def frontiers(tuned: Mapping[Method, TunedMethod], regime: str) -> Frontiers | None:
    """None without the reference and another."""
    if REFERENCE not in tuned or len(tuned) < 2:
        return None
    curves = {method: _curve(tuning) for method, tuning in tuned.items()}
    seeds = min(len(p.seeds) for tuning in tuned.values() for p in tuning.settings)
    return Frontiers(regime=regime, curves=curves, seeds=seeds)


def _curve(tuned: TunedMethod) -> FrontierCurve:
    return FrontierCurve(
        title=tuned.title,
        forgetting=np.array([p.mean("forgetting") for p in tuned.settings]),
        quality=np.array([p.mean("quality") for p in tuned.settings]),
        forgetting_spread=np.array([p.spread("forgetting") or 0.0 for p in tuned.settings]),
        quality_spread=np.array([p.spread("quality") or 0.0 for p in tuned.settings]),
    )


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
        _draw_curve(axis, curve, {"color": COLOURS["time"], "linestyle": "-", "marker": "o"}, bars=True)
        axis.set_title(curve.title)
        axis.legend(frameon=False, fontsize=5.5, loc="best")
        axis.tick_params(labelsize=6)
        axis.set_xscale("symlog", linthresh=0.1)
    for axis in axes[::columns]:
        axis.set_ylabel(QUANTITIES["quality"].axis, fontsize=7)
    figure.supxlabel("forgetting (nats/token; linear below 0.1, logarithmic above)", fontsize=8)
    means = f"one point per learning rate, means over n = {frontiers.seeds} seeds; bars: standard deviation"
    figure.suptitle(f"{frontiers.regime}-matched, {means}", fontsize=8)
    return figure


def _draw_curve(axis: Axes, curve: FrontierCurve, style: dict[str, object], *, bars: bool) -> None:
    look: dict[str, object] = {"markersize": 3, "linewidth": 1.0, "elinewidth": 0.6, **style}
    errors: dict[str, object] = {}
    if bars:
        errors = {"xerr": curve.forgetting_spread, "yerr": curve.quality_spread}
    axis.errorbar(curve.forgetting, curve.quality, label=curve.title, **errors, **look)  # type: ignore[arg-type]
