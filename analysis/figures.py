"""The figures of the sensitivity study (paper H.6): numbers are gathered by other modules, and only drawn here.

Every figure stands alone: units on the axes, intervals where there are any, and n in the title.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.bands import KNOBS, default_point, knob_value, sweep_of
from analysis.load import StudyData
from analysis.pareto import front
from analysis.points import PointSummary, forgetting_matrix, quality_matrix
from analysis.statistics import estimate
from analysis.style import COLOURS, LINES, MARKERS, new_figure, styled
from grit.run_config import QualityMetric

FORMATS = ("svg", "png")
SYMBOLS = {"tau": "energy threshold τ", "T": "reprojection cadence T (steps)", "lambda": "damping λ"}
METRICS: dict[str, str] = {"accuracy": "accuracy", "exact_match": "exact match", "gsm8k_exact_match": "exact match", "rougeL": "ROUGE-L",
                           "answer_logprob": "log-likelihood (nats/token)"}


def _regimes(points: Sequence[PointSummary]) -> list[str]:
    return [regime for regime in ("step", "time") if any(p.regime == regime and p.records for p in points)]


def _counts(points: Sequence[PointSummary]) -> str:
    seeds = sorted({len(p.seeds) for p in points if p.records})
    return f"n = {seeds[0]}" + (f" to {seeds[-1]}" if len(seeds) > 1 else "") + f" seed{'s' if seeds[-1] > 1 else ''} a point"


def _metric_label(points: Sequence[PointSummary]) -> str:
    metric: QualityMetric | str = next(p.quality_metric for p in points if p.records)
    return METRICS.get(metric, metric)


def _positions(values: Sequence[float | int | None]) -> tuple[list[int], list[str]]:
    return list(range(len(values))), ["none" if value is None else f"{value:g}" for value in values]


def _curve(axis: Axes, data: StudyData, sweep: Sequence[PointSummary], regime: str, *, offset: float, what: str) -> None:
    """Means with 95% intervals over an ordinal knob axis; every seed as a faint dot."""
    kept = [(i, p) for i, p in enumerate(sweep) if p.records]
    estimates = [estimate(quality_matrix(data, p)) if what == "quality" else estimate(*forgetting_matrix(data, p)) for _, p in kept]
    x = np.array([i for i, _ in kept]) + offset
    y = np.array([e.mean for e in estimates])
    errors = np.array([[max(0.0, e.mean - e.low) for e in estimates], [max(0.0, e.high - e.mean) for e in estimates]])
    axis.errorbar(x, y, yerr=errors, color=COLOURS[regime], marker=MARKERS[regime], linestyle=LINES[regime], capsize=2, label=f"{regime}-matched")
    for (_, p), place in zip(kept, x, strict=True):
        axis.scatter([place] * len(p.seeds), p.values(what), s=8, color=COLOURS[regime], alpha=0.35, linewidths=0)


def _control_line(axis: Axes, points: Sequence[PointSummary], regime: str, what: str) -> None:
    control = next((p for p in points if p.is_control and p.regime == regime and p.records), None)
    if control is not None:
        axis.axhline(control.mean(what), color=COLOURS[regime], linestyle=":", linewidth=1, label=f"{control.method} ({regime})")


def knob_figure(data: StudyData, points: Sequence[PointSummary], knob: str) -> Figure | None:
    """F1 to F3: quality, forgetting and cost over one knob, one-at-a-time, both regimes beside each other."""
    regimes = [r for r in _regimes(points) if len([p for p in sweep_of(points, knob, r) if p.records]) > 1]
    if not regimes:
        return None
    figure, axes = new_figure(3)
    for number, regime in enumerate(regimes):
        sweep = sweep_of(points, knob, regime)
        offset = 0.08 * (number - (len(regimes) - 1) / 2)
        _curve(axes[0], data, sweep, regime, offset=offset, what="quality")
        _curve(axes[1], data, sweep, regime, offset=offset, what="forgetting")
        places = [(i + offset, p) for i, p in enumerate(sweep) if p.records]
        cost = "footprint" if knob == "tau" else "overhead"
        axes[2].errorbar([x for x, _ in places], [100 * p.mean(cost) for _, p in places], yerr=[100 * p.spread(cost) for _, p in places],
                         color=COLOURS[regime], marker=MARKERS[regime], linestyle=LINES[regime], capsize=2)
        for axis, what in ((axes[0], "quality"), (axes[1], "forgetting")):
            _control_line(axis, points, regime, what)
    sweep = sweep_of(points, knob, regimes[0])
    center = default_point(points, regimes[0])
    ticks, names = _positions([knob_value(p, knob) for p in sweep])
    for axis in axes:
        axis.set_xticks(ticks, names)
        axis.set_xlabel(SYMBOLS[knob])
        if center is not None:
            axis.axvline([p.point_id for p in sweep].index(center.point_id), color=COLOURS["neutral"], linewidth=6, alpha=0.15, zorder=0)
    axes[2].set_ylim(bottom=0)
    axes[0].set_ylabel(_metric_label(points))
    axes[1].set_ylabel("forgetting (nats/token)")
    axes[2].set_ylabel("parameters (% of full)" if knob == "tau" else "geometry time (% of step)")
    axes[0].set_title(f"{_counts(sweep)}; bars: 95% bootstrap")
    axes[1].set_title("bars: 95% bootstrap; grey: default")
    axes[2].set_title("bars: standard deviation over seeds")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def front_figure(points: Sequence[PointSummary]) -> Figure | None:
    """Quality against forgetting for every setting; the four-objective front is filled, size is footprint."""
    regimes = _regimes(points)
    if not regimes:
        return None
    figure, axes = new_figure(len(regimes), width=3.9, height=3.2)
    for axis, regime in zip(axes, regimes, strict=True):
        mine = [p for p in points if p.regime == regime and p.records]
        members = {p.point_id for p in front(mine)}
        for p in mine:
            on_front = p.point_id in members
            colour = COLOURS["control"] if p.is_control else COLOURS[regime]
            axis.scatter(p.mean("forgetting"), p.mean("quality"), s=20 + 60 * p.mean("footprint"),
                         marker=MARKERS["control" if p.is_control else regime],
                         facecolors=colour if on_front else "none", edgecolors=colour, alpha=0.8)
        axis.set_xlabel("forgetting (nats/token)")
        axis.set_ylabel(_metric_label(points))
        axis.set_title(f"{regime}-matched, {len(mine)} settings, {_counts(mine)}")
    figure.suptitle("filled: on the four-objective front; black cross: first-order control; size: footprint", fontsize=8)
    return figure


def ranks_figure(data: StudyData, points: Sequence[PointSummary]) -> Figure | None:
    """Mean rank over training for each tau, with reprojection events."""
    regime = next(iter(_regimes(points)), None)
    sweep = [] if regime is None else [p for p in sweep_of(points, "tau", regime) if p.records]
    if not sweep:
        return None
    figure, axes = new_figure(1, width=4.6, height=3.0)
    shades = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
    for p, colour, line in zip(sweep, shades, ("-", "--", "-.", ":", "-", "--", "-."), strict=False):
        rows = data.telemetry(p.records[0])
        axes[0].plot(rows["step"], rows["mean_rank"], color=colour, linestyle=line, drawstyle="steps-post", label=f"τ = {p.tau:g}")
        logged = zip(rows["step"], rows["events"], strict=True)
        events = [s for s, e in logged if e and any(x["kind"] == "reprojection" for x in json.loads(e))]
        at = dict(zip(rows["step"], rows["mean_rank"], strict=True))
        axes[0].scatter(events, [at[s] for s in events], color=colour, s=12, zorder=3)
    axes[0].set_xlabel("optimizer step")
    axes[0].set_ylabel("mean rank over modules")
    axes[0].set_title(f"{regime}-matched, seed {sweep[0].seeds[0]} (n = 1); dots: reprojections")
    axes[0].legend(frameon=False)
    return figure


def draw_all(data: StudyData, points: Sequence[PointSummary], folder: Path) -> dict[str, Path]:
    """Writes every figure that the records can support, in `FORMATS`; returns the SVG of each by name."""
    folder.mkdir(exist_ok=True)
    makers: dict[str, Callable[[], Figure | None]] = {
        "front": lambda: front_figure(points),
        **{f"knob_{knob}": lambda knob=knob: knob_figure(data, points, knob) for knob in KNOBS},  # type: ignore[misc]
        "ranks": lambda: ranks_figure(data, points)}
    drawn = {}
    for name, make in makers.items():
        with styled():
            figure = make()
            if figure is None:
                continue
            for kind in FORMATS:
                figure.savefig(folder / f"{name}.{kind}", metadata={"Date": None} if kind == "svg" else None)
        drawn[name] = folder / f"{name}.svg"
    return drawn
