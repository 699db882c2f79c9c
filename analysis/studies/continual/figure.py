"""Every task's quality after every stage, and what was forgotten of general text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from analysis.page.style import SHADES, STROKES, new_figure
from analysis.stats.arrays import Floats
from analysis.studies.continual.learned import Learned
from grit.training.measurements import QUANTITIES


@dataclass(frozen=True, kw_only=True)
class StageCurve:
    """One method in one panel: means over seeds after each stage, and their standard deviations."""

    title: str
    after: Floats
    mean: Floats
    spread: Floats


@dataclass(frozen=True, kw_only=True)
class StagePanel:
    """A task, or general text; the untuned model's value."""

    title: str
    untuned: float
    curves: tuple[StageCurve, ...]


@dataclass(frozen=True, kw_only=True)
class StagePanels:
    """All of them; the least seeds that a mean is over."""

    tasks: tuple[str, ...]
    metric: str
    panels: tuple[StagePanel, ...]
    seeds: int


def stage_panels(settings: Sequence[Learned]) -> StagePanels | None:
    """None without a method."""
    if not settings:
        return None
    first = settings[0]
    panels = []
    for number, task in enumerate(first.tasks, start=1):
        curves = [_task_curve(one, number) for one in settings]
        untuned = float(first.untuned[number - 1].mean())
        panels.append(StagePanel(title=task, untuned=untuned, curves=tuple(curves)))
    general = []
    for one in settings:
        by_stage = [np.average(losses, axis=1, weights=one.tokens) for losses in one.forgetting]
        general.append(_curve(one.title, 1, by_stage))
    panels.append(StagePanel(title="general text", untuned=0.0, curves=tuple(general)))
    return StagePanels(
        tasks=first.tasks,
        metric=_label(first),
        panels=tuple(panels),
        seeds=min(len(one.point.seeds) for one in settings),
    )


def _label(one: Learned) -> str:
    own = one.point.config.evaluation.quality == "primary"
    return "quality, by each task's own metric" if own else one.point.quality_label


def _task_curve(one: Learned, task: int) -> StageCurve:
    """From the task's own stage on."""
    by_stage = [one.quality[after, task].mean(axis=1) for after in range(task, one.stages + 1)]
    return _curve(one.title, task, by_stage)


def _curve(title: str, first: int, by_stage: list[Floats]) -> StageCurve:
    degrees = min(1, len(by_stage[0]) - 1)  # one seed has no deviation
    return StageCurve(
        title=title,
        after=np.arange(first, first + len(by_stage), dtype=float),
        mean=np.array([values.mean() for values in by_stage]),
        spread=np.array([values.std(ddof=degrees) for values in by_stage]),
    )


def draw_stages(picture: StagePanels) -> Figure:
    """One panel a task, and one of general text."""
    figure, axes = new_figure(len(picture.panels), width=2.6, height=2.9)
    for axis, panel in zip(axes, picture.panels, strict=True):
        axis.axhline(panel.untuned, color="#bbbbbb", linewidth=0.8, linestyle=":")
        for number, curve in enumerate(panel.curves):
            aside = 0.03 * (number - len(panel.curves) / 2)
            axis.errorbar(
                curve.after + aside,
                curve.mean,
                yerr=curve.spread,
                label=curve.title,
                color=SHADES[number % len(SHADES)],
                linestyle=STROKES[number % len(STROKES)],
                marker="so^vDPX*"[number % 8],
                markersize=4,
                elinewidth=0.6,
            )
        axis.set_xticks(range(1, len(picture.tasks) + 1), picture.tasks, rotation=30, ha="right", fontsize=7)
        axis.set_xlim(0.7, len(picture.tasks) + 0.3)
        axis.set_xlabel("after learning")
        axis.set_title(panel.title)
    axes[0].set_ylabel(picture.metric)
    axes[-1].set_ylabel(QUANTITIES["forgetting"].axis)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(
        handles, names, loc="outside lower center", ncols=min(4, len(names)), frameon=False, fontsize=7
    )
    figure.suptitle(
        f"means over n = {picture.seeds} seeds, bars: standard deviation; dotted: the untuned model",
        fontsize=8,
    )
    return figure
