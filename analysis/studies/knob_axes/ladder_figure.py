"""One adapter's path from whole to small, beside the settings that were trained with each threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.page.style import new_figure
from analysis.stats.pooled_noise import Contrast
from analysis.studies.knob_axes.rungs import Ladder


@dataclass(frozen=True, kw_only=True)
class PathPoint:
    """A rung, or a setting that was trained, against the whole adapter.

    `quality` and `forgetting` are differences from the source's own, with their intervals.
    """

    label: str
    footprint: float
    quality: Contrast
    forgetting: Contrast


@dataclass(frozen=True, kw_only=True)
class LadderPaths:
    """One regime: rungs by footprint, and what was trained."""

    regime: str
    metric: str
    rungs: tuple[PathPoint, ...]
    trained: tuple[PathPoint, ...]


def ladder_paths(ladders: Sequence[Ladder]) -> list[LadderPaths] | None:
    """The numbers of the figure; None without a ladder."""
    paths = []
    for ladder in ladders:
        rungs, trained = [], []
        for rung in sorted(ladder.rungs, key=lambda each: each.footprint):
            rungs.append(
                PathPoint(
                    label=rung.shown_value,
                    footprint=rung.footprint,
                    quality=rung.quality,
                    forgetting=rung.forgetting,
                )
            )
            if rung.trained is not None and rung.own_quality is not None and rung.own_forgetting is not None:
                trained.append(
                    PathPoint(
                        label=rung.shown_value,
                        footprint=rung.trained.mean("footprint"),
                        quality=rung.own_quality,
                        forgetting=rung.own_forgetting,
                    )
                )
        metric = ladder.source.quality_label
        paths.append(
            LadderPaths(regime=ladder.regime, metric=metric, rungs=tuple(rungs), trained=tuple(trained))
        )
    return paths or None


def draw_ladders(paths: list[LadderPaths]) -> Figure:
    """A row per regime: quality and forgetting against footprint."""
    figure, axes = new_figure(2, rows=len(paths), width=3.6, height=2.6)
    for number, path in enumerate(paths):
        quality, forgetting = axes[2 * number : 2 * number + 2]
        _draw(quality, path, "quality")
        _draw(forgetting, path, "forgetting")
        quality.set_ylabel(f"{path.metric}\nless the whole adapter's")
        forgetting.set_ylabel("forgetting (nats/token)\nless the whole adapter's")
        quality.set_title(f"{path.regime}-matched")
    for axis in axes[-2:]:
        axis.set_xlabel("footprint (% of full)")
    axes[0].legend(fontsize=7)
    return figure


def _draw(axis: Axes, path: LadderPaths, name: str) -> None:
    looks = (
        (path.rungs, "#0072B2", "o-", "one adapter, truncated at its end"),
        (path.trained, "#D55E00", "s", "trained with that tau"),
    )
    axis.axhline(0.0, color="#bbbbbb", linewidth=0.8, linestyle=":")
    axis.margins(x=0.2)
    for points, colour, marker, label in looks:
        if not points:
            continue
        contrasts: list[Contrast] = [getattr(point, name) for point in points]
        means = [contrast.mean for contrast in contrasts]
        spread = [
            [mean - contrast.low for mean, contrast in zip(means, contrasts, strict=True)],
            [contrast.high - mean for mean, contrast in zip(means, contrasts, strict=True)],
        ]
        footprints = [100 * point.footprint for point in points]
        axis.errorbar(footprints, means, yerr=spread, fmt=marker, color=colour, capsize=2, label=label)
        for place, mean, point in zip(footprints, means, points, strict=True):
            axis.annotate(point.label, (place, mean), textcoords="offset points", xytext=(4, 4), fontsize=6)
