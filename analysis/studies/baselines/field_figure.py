"""All methods in one plane: quality, forgetting and parameters, beside LoRA's frontier."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from analysis.evidence.load import StudyData
from analysis.page.dot_names import name_dots
from analysis.page.style import COLOURS, new_figure
from analysis.stats.arrays import Floats
from analysis.stats.frontier_area import corners
from analysis.studies.baselines.areas import frontier_settings, untuned_quality
from analysis.studies.baselines.frontier import LINEAR_BELOW
from analysis.studies.baselines.tables import REFERENCE
from analysis.studies.baselines.tuning import TunedMethod, held_out_quality
from grit.config.registry import METHODS, Method

#: Area of a dot with as many acting parameters as LoRA, in points squared, and of the smallest.
LORA_SIZE, SMALLEST = 90.0, 6.0


@dataclass(frozen=True, kw_only=True)
class FieldDot:
    """A method at its best learning rate: means over seeds; parameters that act, as a share of LoRA's."""

    title: str
    forgetting: float
    quality: float
    share: float
    is_grit: bool


@dataclass(frozen=True, kw_only=True)
class Field:
    """One regime.

    Attributes:
        frontier_forgetting, frontier_quality: LoRA's frontier from the untuned model to its last corner.
        seeds: the least that a mean is over.
    """

    regime: str
    metric: str
    dots: tuple[FieldDot, ...]
    frontier_forgetting: Floats
    frontier_quality: Floats
    seeds: int


def field_of(data: StudyData, tuned: Mapping[Method, TunedMethod], regime: str) -> Field | None:
    """None without the reference and another."""
    if REFERENCE not in tuned or len(tuned) < 2:
        return None
    reference = tuned[REFERENCE]
    whole = reference.best.mean("effective_parameters")
    dots = []
    for method, tuning in tuned.items():
        dots.append(
            FieldDot(
                title=tuning.title,
                forgetting=tuning.best.mean("forgetting"),
                quality=held_out_quality(data, tuning.best),
                share=tuning.best.mean("effective_parameters") / whole,
                is_grit=METHODS[method].turns,
            )
        )
    untuned = untuned_quality(data, reference)
    frontier = corners(frontier_settings(data, reference), untuned)
    return Field(
        regime=regime,
        metric=reference.best.quality_label,
        dots=tuple(dots),
        frontier_forgetting=np.array([0.0, *[float(c.by_seed.mean()) for c in frontier]]),
        frontier_quality=np.array(
            [float(untuned.values.mean()), *[float(c.quality.mean()) for c in frontier]]
        ),
        seeds=min(len(tuning.best.seeds) for tuning in tuned.values()),
    )


def draw_field(field: Field) -> Figure:
    """The area of a dot is the number of parameters that act."""
    figure, (axis,) = new_figure(1, width=6.5, height=4.6)
    axis.plot(
        field.frontier_forgetting,
        field.frontier_quality,
        color=COLOURS["neutral"],
        linestyle="--",
        marker="s",
        markersize=3,
        label="LoRA's frontier: learning rates, and updates scaled down",
    )
    for is_grit, label in ((True, "GRIT acts"), (False, "GRIT does not act")):
        dots = [dot for dot in field.dots if dot.is_grit is is_grit]
        colour = COLOURS["step"] if is_grit else COLOURS["time"]
        axis.scatter(
            [dot.forgetting for dot in dots],
            [dot.quality for dot in dots],
            s=[max(LORA_SIZE * dot.share, SMALLEST) for dot in dots],
            facecolors=colour if is_grit else "none",
            edgecolors=colour,
            marker="^" if is_grit else "o",
            alpha=0.8,
            label=label,
        )
    harsh = axis.get_xlim()[1] > 2 * LINEAR_BELOW
    if harsh:
        axis.set_xscale("symlog", linthresh=LINEAR_BELOW)
    places = ([dot.forgetting for dot in field.dots], [dot.quality for dot in field.dots])
    name_dots(axis, [dot.title for dot in field.dots], *places)
    axis.set_xlabel(f"forgetting (nats/token{'; logarithmic above 0.1' if harsh else ''})")
    axis.set_ylabel(f"{field.metric} (test half)")
    axis.legend(frameon=False, fontsize=7, loc="best")
    figure.suptitle(
        f"{field.regime}-matched, each method at its best learning rate, means over n = {field.seeds} seeds; "
        "area: parameters that act",
        fontsize=8,
    )
    return figure
