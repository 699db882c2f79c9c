"""The geometry over time: effective ranks, energy curves and ranks at reprojections; and step times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.evidence.load import StudyData
from analysis.evidence.point_summary import PointSummary
from analysis.page.bars import shown_seeds
from analysis.page.style import SEQUENTIAL, SHADES, STROKES, new_figure
from analysis.stats.arrays import Floats
from analysis.studies.sensitivity.figures.ranks import first_trial_title
from analysis.studies.sensitivity.figures.updates import UPDATE_MEASURES
from analysis.studies.sensitivity.one_at_a_time import default_and_control
from grit.io.files import Row

#: What is followed over reprojections, with its label.
RANK_MEASURES = {
    "rank": "directions kept",
    "effective_rank": "effective rank of Σ_a, exp(entropy)",
    "participation_ratio": "participation ratio of Σ_a",
}
#: Windows that a run is cut into.
WINDOWS = 8


@dataclass(frozen=True, kw_only=True)
class RankHistory:
    """Means over modules at every reprojection (n,), with the lowest and highest module.

    Attributes:
        measures: by label: mean, lowest and highest.
    """

    title: str
    steps: tuple[int, ...]
    measures: dict[str, tuple[Floats, Floats, Floats]]


def default_spectra(data: StudyData, points: Sequence[PointSummary]) -> tuple[PointSummary, list[Row]] | None:
    """The default setting and its first trial's rows of `spectra`; None where it left none."""
    pair = default_and_control(points)
    if pair is None:
        return None
    rows = data.table("spectra", pair[0].records[0])
    return (pair[0], rows) if rows else None


def _title(center: PointSummary, rows: Sequence[Row]) -> str:
    return first_trial_title(center, len({row["module"] for row in rows}))


def rank_history(data: StudyData, points: Sequence[PointSummary]) -> RankHistory | None:
    """Of the default setting's first trial."""
    measured = default_spectra(data, points)
    if measured is None:
        return None
    center, rows = measured
    steps = sorted({row["step"] for row in rows})
    measures = {}
    for name, label in RANK_MEASURES.items():
        values = _by_step(rows, name, steps)
        measures[label] = _mean_and_range(values)
    return RankHistory(title=_title(center, rows), steps=tuple(steps), measures=measures)


def _by_step(rows: Sequence[Row], name: str, steps: Sequence[int]) -> Floats:
    """(steps, modules)."""
    values: dict[int, list[float]] = {step: [] for step in steps}
    for row in rows:
        values[row["step"]].append(float(row[name]))
    return np.array(list(values.values()))


def draw_rank_history(history: RankHistory) -> Figure:
    """Bands are ranges over modules."""
    figure, (axis,) = new_figure(1, width=4.8, height=3.1)
    looks = zip(history.measures.items(), SHADES, STROKES, strict=False)
    for (label, (mean, low, high)), colour, line in looks:
        axis.plot(history.steps, mean, color=colour, linestyle=line, marker="o", markersize=3, label=label)
        axis.fill_between(history.steps, low, high, color=colour, alpha=0.12, linewidth=0)
    axis.set_xlabel("optimizer step (reprojections)")
    axis.set_ylabel("directions")
    axis.set_ylim(bottom=0)
    axis.set_title(f"{history.title}\nmean and range over modules")
    axis.legend(frameon=False)
    return figure


@dataclass(frozen=True, kw_only=True)
class UpdateHistory:
    """The update's size at every reprojection: mean over modules (n,), lowest and highest.

    Attributes:
        tail: share of entries above 0.01. norm: Frobenius.
    """

    title: str
    steps: tuple[int, ...]
    tail: tuple[Floats, Floats, Floats]
    norm: tuple[Floats, Floats, Floats]


def update_history(data: StudyData, points: Sequence[PointSummary]) -> UpdateHistory | None:
    """Of the default setting's first trial; None where an older version wrote its rows."""
    measured = default_spectra(data, points)
    if measured is None or not all("tail_mass" in row for row in measured[1]):
        return None
    center, rows = measured
    steps = sorted({row["step"] for row in rows})
    tail, norm = (_by_step(rows, name, steps) for name in ("tail_mass", "update_norm"))
    return UpdateHistory(
        title=_title(center, rows), steps=tuple(steps), tail=_mean_and_range(tail), norm=_mean_and_range(norm)
    )


def _mean_and_range(values: Floats) -> tuple[Floats, Floats, Floats]:
    return values.mean(axis=1), values.min(axis=1), values.max(axis=1)


def draw_update_history(history: UpdateHistory) -> Figure:
    """Bands are ranges over modules."""
    figure, panels = new_figure(2)
    shown = zip(panels, ("tail_mass", "update_norm"), (history.tail, history.norm), strict=True)
    for axis, name, (mean, low, high) in shown:
        axis.plot(history.steps, mean, color=SHADES[0], marker="o", markersize=3)
        axis.fill_between(history.steps, low, high, color=SHADES[0], alpha=0.12, linewidth=0)
        axis.set_xlabel("optimizer step (reprojections)")
        axis.set_ylabel(UPDATE_MEASURES[name])
        axis.set_ylim(bottom=0)
    panels[0].set_title(f"{history.title}\nmean and range over modules")
    return figure


@dataclass(frozen=True, kw_only=True)
class EnergyCurves:
    """Share of Sigma_a's energy in the leading k directions, k = 1 to r: median over modules, by step."""

    title: str
    tau: float | None
    curves: dict[int, Floats]


def energy_curves(data: StudyData, points: Sequence[PointSummary]) -> EnergyCurves | None:
    """At the first, the middle and the last reprojection; None where ranks differ between modules."""
    measured = default_spectra(data, points)
    if measured is None:
        return None
    center, rows = measured
    if len({len(row["fisher_a"]) for row in rows}) != 1:
        return None
    steps = sorted({row["step"] for row in rows})
    curves = {}
    for step in sorted({steps[0], steps[len(steps) // 2], steps[-1]}):
        values = np.array([row["fisher_a"] for row in rows if row["step"] == step])
        totals = np.maximum(values.sum(axis=1, keepdims=True), np.finfo(float).tiny)
        curves[step] = np.median(np.cumsum(values, axis=1) / totals, axis=0)
    return EnergyCurves(title=_title(center, rows), tau=center.tau, curves=curves)


def draw_energy_curves(energy: EnergyCurves) -> Figure:
    """With the threshold that is kept."""
    figure, (axis,) = new_figure(1, width=4.6, height=3.0)
    for (step, shares), colour, line in zip(energy.curves.items(), SHADES, STROKES, strict=False):
        directions = np.arange(1, len(shares) + 1)
        axis.plot(directions, shares, color=colour, linestyle=line, marker="o", label=f"step {step}")
    if energy.tau is not None:
        axis.axhline(energy.tau, color="black", linestyle=":", linewidth=1, label=f"τ = {energy.tau:g}")
    axis.set_xlabel("leading directions")
    axis.set_ylabel("share of Σ_a's energy (median)")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_title(energy.title)
    axis.legend(frameon=False, loc="lower right")
    return figure


@dataclass(frozen=True, kw_only=True)
class ModuleRanks:
    """Directions kept (modules, reprojections)."""

    title: str
    modules: tuple[str, ...]
    steps: tuple[int, ...]
    ranks: Floats


def module_ranks(data: StudyData, points: Sequence[PointSummary]) -> ModuleRanks | None:
    """Of the default setting's first trial."""
    measured = default_spectra(data, points)
    if measured is None:
        return None
    center, rows = measured
    steps = sorted({row["step"] for row in rows})
    modules = list(dict.fromkeys(row["module"] for row in rows))
    ranks = np.zeros((len(modules), len(steps)))
    for row in rows:
        ranks[modules.index(row["module"]), steps.index(row["step"])] = row["rank"]
    return ModuleRanks(
        title=_title(center, rows),
        modules=tuple(_short(name) for name in modules),
        steps=tuple(steps),
        ranks=ranks,
    )


def _short(module: str) -> str:
    """The layer's number and the last name of a module's path."""
    parts = module.split(".")
    number = next((part for part in parts if part.isdigit()), "")
    return f"{number} {parts[-1]}".strip()


def draw_module_ranks(history: ModuleRanks) -> Figure:
    """Rows are modules in the model's order."""
    rows = len(history.modules)
    figure, (axis,) = new_figure(1, width=4.8, height=min(9.0, 1.2 + 0.13 * rows))
    image = axis.imshow(history.ranks, cmap=SEQUENTIAL, aspect="auto", interpolation="nearest")
    every = max(1, rows // 40)
    axis.set_yticks(range(0, rows, every), history.modules[::every], fontsize=6)
    shown = max(1, len(history.steps) // 8)
    axis.set_xticks(range(0, len(history.steps), shown), [str(step) for step in history.steps[::shown]])
    axis.set_xlabel("optimizer step (reprojections)")
    axis.set_ylabel("module (layer, kind)")
    axis.grid(False)
    axis.set_title(history.title)
    figure.colorbar(image, ax=axis, label="directions kept")
    return figure


@dataclass(frozen=True, kw_only=True)
class StepWindows:
    """Mean and 99th percentile of step times (ms) in equal windows of training; by method, (windows,).

    `steps` is the number in the shortest window: below a hundred the percentile is the longest of them.
    """

    title: str
    shares: Floats
    mean: dict[str, Floats]
    p99: dict[str, Floats]
    steps: int


def step_windows(data: StudyData, points: Sequence[PointSummary]) -> StepWindows | None:
    """Of the control and the default, means over seeds; None where a run is shorter than its windows."""
    pair = default_and_control(points)
    if pair is None:
        return None
    means: dict[str, Floats] = {}
    tails: dict[str, Floats] = {}
    shortest = 10**9
    for p in reversed(pair):
        parts = []
        for record in p.records:
            times = np.array(data.telemetry(record).get("ms_step", []), dtype=float)
            if len(times) < 2 * WINDOWS:
                return None
            parts.append(np.array_split(times, WINDOWS))
            shortest = min(shortest, len(times) // WINDOWS)
        means[p.method] = np.mean([_means(windows) for windows in parts], axis=0)
        tails[p.method] = np.mean([_tails(windows) for windows in parts], axis=0)
    centre = pair[0]
    return StepWindows(
        title=f"{centre.regime}-matched, means over {shown_seeds(centre)}, {WINDOWS} windows",
        shares=(np.arange(WINDOWS) + 0.5) / WINDOWS,
        mean=means,
        p99=tails,
        steps=shortest,
    )


def _means(windows: Sequence[Floats]) -> Floats:
    return np.array([window.mean() for window in windows])


def _tails(windows: Sequence[Floats]) -> Floats:
    return np.array([np.percentile(window, 99) for window in windows])


def draw_step_windows(windows: StepWindows) -> Figure:
    """Solid: means; dotted: 99th percentiles."""
    tail_name = "P99" if windows.steps >= 100 else f"longest of {windows.steps}"
    figure, (axis,) = new_figure(1, width=4.6, height=3.0)
    for (method, mean), colour in zip(windows.mean.items(), SHADES, strict=False):
        axis.plot(windows.shares, mean, color=colour, marker="o", label=f"{method}, mean")
        tail = windows.p99[method]
        axis.plot(
            windows.shares, tail, color=colour, linestyle=":", marker="^", label=f"{method}, {tail_name}"
        )
    axis.set_xlabel("share of training")
    axis.set_ylabel("step time (ms)")
    axis.set_ylim(bottom=0)
    axis.set_title(windows.title)
    axis.legend(frameon=False)
    return figure
