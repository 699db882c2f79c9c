"""Accuracy against each cost, ours among theirs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.page.style import COLOURS, SHADES, new_figure, plain_log_axis
from analysis.stats.arrays import Floats
from analysis.studies.peft_comparison.placed import COSTS, Placed

#: How each cost's axis is scaled: forgetting may be negative, parameters span decades.
AXES: dict[str, Callable[[Axes], object]] = {
    "forgetting": lambda axis: axis.set_xscale("symlog", linthresh=0.1),
    "parameters": lambda axis: axis.set_xscale("log"),
    "seconds": plain_log_axis,
}
#: Shapes of our settings, in their order.
SHAPES = "osD^vP*"


@dataclass(frozen=True, kw_only=True)
class FrontierPlanes:
    """All points, and of each cost the front of theirs: (k, 2) of cost and accuracy, by rising cost."""

    ours: tuple[Placed, ...]
    theirs: tuple[Placed, ...]
    fronts: dict[str, Floats]


def frontier_planes(everything: Sequence[Placed]) -> FrontierPlanes:
    """Of ours and theirs."""
    ours = tuple(item for item in everything if item.ours)
    theirs = tuple(item for item in everything if not item.ours)
    return FrontierPlanes(ours=ours, theirs=theirs, fronts={cost: _front(theirs, cost) for cost in COSTS})


def _front(items: Sequence[Placed], cost: str) -> Floats:
    best, steps = -np.inf, []
    for item in sorted(items, key=lambda item: (getattr(item, cost), -item.accuracy)):
        if item.accuracy > best:
            best = item.accuracy
            steps.append((getattr(item, cost), item.accuracy))
    return np.array(steps, dtype=float).reshape(-1, 2)


def draw_planes(planes: FrontierPlanes) -> Figure:
    """One panel a cost."""
    figure, axes = new_figure(len(COSTS), width=3.0, height=3.2)
    for axis, (cost, label) in zip(axes, COSTS.items(), strict=True):
        _draw_theirs(axis, planes, cost)
        for number, item in enumerate(planes.ours):
            _draw_ours(axis, item, cost, number)
        AXES[cost](axis)
        axis.set_xlabel(label)
    axes[0].set_ylabel("accuracy")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=7)
    return figure


def _draw_theirs(axis: Axes, planes: FrontierPlanes, cost: str) -> None:
    xs = [getattr(item, cost) for item in planes.theirs]
    ys = [item.accuracy for item in planes.theirs]
    axis.scatter(
        xs,
        ys,
        s=16,
        facecolors="none",
        edgecolors=COLOURS["neutral"],
        linewidths=0.8,
        label="PEFT's runs, one seed each",
    )
    front = planes.fronts[cost]
    axis.step(
        front[:, 0],
        front[:, 1],
        where="post",
        color=COLOURS["neutral"],
        linewidth=0.9,
        label="best of theirs",
    )


def _draw_ours(axis: Axes, item: Placed, cost: str, number: int) -> None:
    errors: dict[str, list[list[float]]] = {}
    if item.accuracy_interval is not None:
        errors["yerr"] = _around(item.accuracy, item.accuracy_interval.low, item.accuracy_interval.high)
    if cost == "forgetting" and item.forgetting_interval is not None:
        errors["xerr"] = _around(item.forgetting, item.forgetting_interval.low, item.forgetting_interval.high)
    axis.errorbar(
        getattr(item, cost),
        item.accuracy,
        fmt=SHAPES[number % len(SHAPES)],
        color=SHADES[number % len(SHADES)],
        markersize=5,
        elinewidth=0.9,
        label=f"{item.name} (n = {item.seeds})",
        **errors,  # type: ignore[arg-type]  # matplotlib's own names
    )


def _around(value: float, low: float, high: float) -> list[list[float]]:
    return [[max(0.0, value - low)], [max(0.0, high - value)]]
