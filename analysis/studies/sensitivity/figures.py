"""The figures of the sensitivity study (paper H.6).

Numbers are gathered by other modules, and only drawn here.

Every figure stands alone: units on the axes, intervals where there are any, and n in the title.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from analysis.data.fronts import front
from analysis.data.load import StudyData
from analysis.data.points import PointSummary, forgetting_matrix, quality_matrix
from analysis.page.style import COLOURS, LINES, MARKERS, SEQUENTIAL, SHADES, new_figure, save_figure
from analysis.stats.estimates import estimate
from analysis.studies.sensitivity.bands import default_point, knob_value, sweep_of
from analysis.studies.sensitivity.mechanism import mechanism_figures
from grit.config.method import KNOBS
from grit.config.sections import QualityMetric

#: Objectives with their labels, and what turns the record's number into the label's.
OBJECTIVE_LABELS = (
    ("quality", "quality", 1.0),
    ("retention", "retention", 1.0),
    ("overhead", "overhead (% of step)", 100.0),
    ("footprint", "footprint (% of full)", 100.0),
)
SYMBOLS = {"tau": "energy threshold τ", "T": "reprojection cadence T (steps)", "lambda": "damping λ"}
METRICS: dict[str, str] = {
    "accuracy": "accuracy",
    "exact_match": "exact match",
    "gsm8k_exact_match": "exact match",
    "rougeL": "ROUGE-L",
    "answer_logprob": "log-likelihood (nats/token)",
}


def _regimes(points: Sequence[PointSummary]) -> list[str]:
    return [regime for regime in ("step", "time") if any(p.regime == regime and p.records for p in points)]


def _counts(points: Sequence[PointSummary]) -> str:
    seeds = sorted({len(p.seeds) for p in points if p.records})
    return (
        f"n = {seeds[0]}"
        + (f" to {seeds[-1]}" if len(seeds) > 1 else "")
        + f" seed{'s' if seeds[-1] > 1 else ''} a point"
    )


def _metric_label(points: Sequence[PointSummary]) -> str:
    metric: QualityMetric | str = next(p.quality_metric for p in points if p.records)
    return METRICS.get(metric, metric)


def _positions(values: Sequence[float | int | None]) -> tuple[list[int], list[str]]:
    return list(range(len(values))), ["none" if value is None else f"{value:g}" for value in values]


def _curve(
    axis: Axes, data: StudyData, sweep: Sequence[PointSummary], regime: str, *, offset: float, what: str
) -> None:
    """Means with 95% intervals over an ordinal knob axis; every seed as a faint dot."""
    kept = [(i, p) for i, p in enumerate(sweep) if p.records]
    estimates = [
        estimate(quality_matrix(data, p)) if what == "quality" else estimate(*forgetting_matrix(data, p))
        for _, p in kept
    ]
    x = np.array([i for i, _ in kept]) + offset
    y = np.array([e.mean for e in estimates])
    errors = np.array(
        [[max(0.0, e.mean - e.low) for e in estimates], [max(0.0, e.high - e.mean) for e in estimates]]
    )
    axis.errorbar(
        x,
        y,
        yerr=errors,
        color=COLOURS[regime],
        marker=MARKERS[regime],
        linestyle=LINES[regime],
        capsize=2,
        label=f"{regime}-matched",
    )
    for (_, p), place in zip(kept, x, strict=True):
        axis.scatter(
            [place] * len(p.seeds),
            p.values(what),
            s=10,
            color=COLOURS[regime],
            alpha=0.6,
            linewidths=0,
            zorder=3,
        )


def _control_line(axis: Axes, points: Sequence[PointSummary], regime: str, what: str) -> None:
    control = next((p for p in points if p.is_control and p.regime == regime and p.records), None)
    if control is not None:
        axis.axhline(
            control.mean(what),
            color=COLOURS[regime],
            linestyle=":",
            linewidth=1,
            label=f"{control.method} ({regime})",
        )


def _footprint_panel(
    axis: Axes, _sweep: Sequence[PointSummary], places: Sequence[tuple[float, PointSummary]], regime: str
) -> None:
    axis.errorbar(
        [x for x, _ in places],
        [100 * p.mean("footprint") for _, p in places],
        yerr=[100 * p.spread("footprint") for _, p in places],
        color=COLOURS[regime],
        marker=MARKERS[regime],
        linestyle=LINES[regime],
        capsize=2,
    )
    axis.set_ylabel("parameters (% of full)")
    axis.set_title("bars: standard deviation over seeds")


def _overhead_panel(
    axis: Axes, _sweep: Sequence[PointSummary], places: Sequence[tuple[float, PointSummary]], regime: str
) -> None:
    """Where geometry's share of a step goes: statistics and inverses, reprojection, ranks, stacked."""
    width, bottom = 0.075, np.zeros(len(places))
    for (name, label), colour in zip(
        (("fisher", "statistics, inverses"), ("reprojection", "reprojection"), ("rank", "ranks")),
        SHADES,
        strict=False,
    ):
        shares = np.array(
            [
                100
                * fmean(
                    (r.measured.components_ms or {}).get(name, 0.0) / (r.measured.step_time_ms or {"mean": 1.0})["mean"]
                    for r in p.records
                )
                for _, p in places
            ]
        )
        axis.bar(
            [x for x, _ in places],
            shares,
            width,
            bottom=bottom,
            color=colour,
            alpha=1.0 if regime == "step" else 0.55,
            label=label
            if not axis.get_legend_handles_labels()[1] or label not in axis.get_legend_handles_labels()[1]
            else None,
        )
        bottom += shares
    axis.set_ylabel("geometry time (% of step)")
    axis.set_title("left: step-, right, paler: time-matched" if regime == "time" else "means over seeds")
    axis.legend(frameon=False, fontsize=7, loc="upper right")


def _stability_panel(
    axis: Axes, sweep: Sequence[PointSummary], places: Sequence[tuple[float, PointSummary]], regime: str
) -> None:
    """Spread of quality over seeds, and the share of trials that were lost."""
    axis.plot(
        [x for x, _ in places],
        [p.spread("quality") for _, p in places],
        color=COLOURS[regime],
        marker=MARKERS[regime],
        linestyle=LINES[regime],
        label=f"spread, {regime}-matched",
    )
    lost = [p.lost / max(1, p.lost + len(p.records)) for p in sweep]
    axis.plot(
        range(len(sweep)),
        lost,
        color=COLOURS["neutral"],
        marker="x",
        linestyle=":",
        label=f"share lost, {regime}-matched",
    )
    axis.set_ylabel("spread of quality; share lost")
    axis.set_title("standard deviation over seeds")
    axis.legend(frameon=False, fontsize=7)


_COST_PANELS = {"tau": _footprint_panel, "T": _overhead_panel, "lambda": _stability_panel}


def _small_batches(
    axis: Axes, points: Sequence[PointSummary], sweep: Sequence[PointSummary], regime: str
) -> None:
    """The same dampings in small batches, where the study repeated them."""
    values = [p.lambda_ for p in sweep]
    small = [
        p
        for p in points
        if p.regime == regime
        and "small-batch" in p.designs
        and p.records
        and p.lambda_ in values
        and (p.tau, p.T) == (sweep[0].tau, sweep[0].T)
    ]
    if small:
        axis.errorbar(
            [values.index(p.lambda_) + 0.2 for p in small],
            [p.mean("quality") for p in small],
            yerr=[p.spread("quality") for p in small],
            color=COLOURS["accent"],
            marker="^",
            linestyle="-.",
            capsize=2,
            label=f"small batches ({regime}; bars: spread)",
        )


def _within_shares(axis: Axes, points: Sequence[PointSummary]) -> None:
    """Keeps a quality axis to what a share can be: few seeds make intervals that reach beyond it."""
    if _metric_label(points) != METRICS["answer_logprob"]:
        low, high = axis.get_ylim()
        axis.set_ylim(max(low, -0.03), min(high, 1.06))


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
        _COST_PANELS[knob](axes[2], sweep, places, regime)
        if knob == "lambda":
            _small_batches(axes[0], points, sweep, regime)
        for axis, what in ((axes[0], "quality"), (axes[1], "forgetting")):
            _control_line(axis, points, regime, what)
    sweep = sweep_of(points, knob, regimes[0])
    center = default_point(points, regimes[0])
    ticks, names = _positions([knob_value(p, knob) for p in sweep])
    for axis in axes:
        axis.set_xticks(ticks, names)
        axis.set_xlabel(SYMBOLS[knob])
        if center is not None:
            axis.axvline(
                [p.point_id for p in sweep].index(center.point_id),
                color=COLOURS["neutral"],
                linewidth=6,
                alpha=0.15,
                zorder=0,
            )
    axes[2].set_ylim(bottom=0)
    _within_shares(axes[0], points)
    axes[0].set_ylabel(_metric_label(points))
    axes[1].set_ylabel("forgetting (nats/token)")
    axes[0].set_title(f"{_counts(sweep)}; bars: 95% bootstrap")
    axes[1].set_title("bars: 95% bootstrap; grey: default")
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
            axis.scatter(
                p.mean("forgetting"),
                p.mean("quality"),
                s=20 + 60 * p.mean("footprint"),
                marker=MARKERS["control" if p.is_control else regime],
                facecolors=colour if on_front else "none",
                edgecolors=colour,
                alpha=0.8,
            )
        axis.set_xlabel("forgetting (nats/token)")
        axis.set_ylabel(_metric_label(points))
        axis.set_title(f"{regime}-matched, {len(mine)} settings, {_counts(mine)}")
    figure.suptitle(
        "filled: on the four-objective front; black cross: first-order control; size: footprint", fontsize=8
    )
    return figure


def capacity_figure(points: Sequence[PointSummary]) -> Figure | None:
    """F1: quality against footprint over tau; retention as colour, rank changes beside each point."""
    regimes = [r for r in _regimes(points) if len([p for p in sweep_of(points, "tau", r) if p.records]) > 1]
    if not regimes:
        return None
    figure, axes = new_figure(len(regimes), width=3.9, height=3.2)
    shown = {regime: [p for p in sweep_of(points, "tau", regime) if p.records] for regime in regimes}
    retention = [p.mean("retention") for sweep in shown.values() for p in sweep]
    drawn = None
    for axis, regime in zip(axes, regimes, strict=True):
        sweep = shown[regime]
        x, y = [100 * p.mean("footprint") for p in sweep], [p.mean("quality") for p in sweep]
        axis.errorbar(
            x,
            y,
            xerr=[100 * p.spread("footprint") for p in sweep],
            yerr=[p.spread("quality") for p in sweep],
            fmt="none",
            ecolor=COLOURS["neutral"],
            capsize=2,
        )
        drawn = axis.scatter(
            x,
            y,
            c=[p.mean("retention") for p in sweep],
            cmap=SEQUENTIAL,
            vmin=min(retention),
            vmax=max(retention),
            s=55,
            edgecolors="black",
            linewidths=0.6,
            zorder=3,
            marker=MARKERS[regime],
        )
        for p, px, py in zip(sweep, x, y, strict=True):
            axis.annotate(
                f"τ = {p.tau:g} ({p.mean('rank_events'):.0f})",
                (px, py),
                textcoords="offset points",
                xytext=(0, 8),
                ha="center",
                fontsize=7,
                bbox={"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.5},
            )
        control = next((p for p in points if p.is_control and p.regime == regime and p.records), None)
        if control is not None:
            axis.axhline(
                control.mean("quality"),
                color=COLOURS["control"],
                linestyle=":",
                linewidth=1,
                label=f"{control.method}, 100% of parameters",
            )
            axis.legend(frameon=False, loc="lower left")
        axis.margins(x=0.3, y=0.25)
        axis.set_xlabel("effective parameters (% of full)")
        axis.set_ylabel(_metric_label(points))
        axis.set_title(f"{regime}-matched, {_counts(sweep)}\nbars: spread over seeds; (rank changes)")
        _within_shares(axis, points)
    assert drawn is not None
    figure.colorbar(drawn, ax=axes, label="retention")
    return figure


def interactions_figure(points: Sequence[PointSummary], regime: str) -> Figure | None:
    """F4: each objective over T and lambda at the default tau, from every point of that tau.

    Squares mark the front.
    """
    center = default_point(points, regime)
    if center is None:
        return None
    chosen = [
        p
        for p in points
        if p.regime == regime and p.records and p.tau == center.tau and p.designs & {"oat", "grid", "list"}
    ]
    cadences = sorted({p.T for p in chosen}, key=lambda value: (value is None, value or 0))
    dampings = sorted({p.lambda_ for p in chosen if p.lambda_ is not None})
    crossed = {(p.T, p.lambda_): p for p in chosen}
    if len(cadences) < 2 or len(dampings) < 2 or len(crossed) <= len(cadences) + len(dampings) - 1:
        return None
    members = {p.point_id for p in front([p for p in points if p.regime == regime])}
    figure, axes = new_figure(4, width=2.8, height=2.9)
    for axis, (name, label, scale) in zip(axes, OBJECTIVE_LABELS, strict=True):
        values = np.full((len(cadences), len(dampings)), np.nan)
        for i, cadence in enumerate(cadences):
            for j, damping in enumerate(dampings):
                if (cadence, damping) in crossed:
                    values[i, j] = scale * crossed[cadence, damping].mean(name)
        image = axis.imshow(values, cmap=SEQUENTIAL, aspect="auto", origin="lower")
        middle = (np.nanmin(values) + np.nanmax(values)) / 2
        for (i, j), value in np.ndenumerate(values):
            if np.isnan(value):
                continue
            axis.text(
                j,
                i,
                f"{value:.3g}",
                ha="center",
                va="center",
                fontsize=7,
                color="black" if value > middle else "white",
            )
            if crossed[cadences[i], dampings[j]].point_id in members:
                axis.add_patch(
                    Rectangle(
                        (j - 0.46, i - 0.46), 0.92, 0.92, fill=False, edgecolor=COLOURS["time"], linewidth=1.6
                    )
                )
        axis.set_xticks(range(len(dampings)), [f"{value:g}" for value in dampings])
        axis.set_yticks(range(len(cadences)), ["none" if value is None else str(value) for value in cadences])
        axis.set_xlabel(SYMBOLS["lambda"])
        axis.set_ylabel(SYMBOLS["T"] if axis is axes[0] else "")
        axis.set_title(_metric_label(points) if name == "quality" else label)
        axis.grid(False)
        figure.colorbar(image, ax=axis, shrink=0.8)
    figure.suptitle(
        f"{regime}-matched, τ = {center.tau:g}, {_counts(list(crossed.values()))}; framed: on the "
        "four-objective front",
        fontsize=8,
    )
    return figure


def parallel_figure(points: Sequence[PointSummary], regime: str) -> Figure | None:
    """Knobs and objectives of every setting as one line each; the front in colour."""
    usable = [p for p in points if p.regime == regime and p.records and p.tau is not None]
    if len(usable) < 3:
        return None
    members = {p.point_id for p in front(usable)}
    most = max(p.T for p in usable if p.T is not None) if any(p.T is not None for p in usable) else 1
    columns: list[tuple[str, list[float]]] = [
        ("1 - τ (log)", [float(np.log10(max(1e-6, 1 - (p.tau or 0)))) for p in usable]),
        ("T (log; none: top)", [float(np.log10(2 * most if p.T is None else p.T)) for p in usable]),
        ("λ (log)", [float(np.log10(p.lambda_ or 1e-12)) for p in usable]),
        *(
            (_metric_label(points) if name == "quality" else label, [scale * p.mean(name) for p in usable])
            for name, label, scale in OBJECTIVE_LABELS
        ),
    ]
    figure, (axis,) = new_figure(1, width=8.4, height=3.2)
    scaled = np.array(
        [
            [
                (value - min(values)) / (max(values) - min(values)) if max(values) > min(values) else 0.5
                for value in values
            ]
            for _, values in columns
        ]
    )
    for number, p in enumerate(usable):
        on_front = p.point_id in members
        axis.plot(
            range(len(columns)),
            scaled[:, number],
            color=COLOURS[regime] if on_front else COLOURS["neutral"],
            alpha=0.9 if on_front else 0.35,
            linewidth=1.4 if on_front else 0.8,
            zorder=2 if on_front else 1,
        )
    axis.set_xticks(range(len(columns)), [name for name, _ in columns])
    for place, (_, values) in enumerate(columns):
        for y, value in ((-0.07, min(values)), (1.04, max(values))):
            axis.text(place, y, f"{10**value:.3g}" if place < 3 else f"{value:.3g}", ha="center", fontsize=7)
    axis.set_yticks([])
    axis.set_ylim(-0.12, 1.12)
    axis.grid(axis="y", visible=False)
    axis.set_title(
        f"{regime}-matched: {len(usable)} settings, {_counts(usable)}; coloured: on the four-objective front"
    )
    return figure


def draw_all(data: StudyData, points: Sequence[PointSummary], folder: Path) -> dict[str, str]:
    """Writes every figure that the records can support; returns the SVG of each, for embedding, by name."""
    folder.mkdir(exist_ok=True)
    regimes = _regimes(points)
    makers: dict[str, Callable[[], Figure | None]] = {
        "front": lambda: front_figure(points),
        "capacity": lambda: capacity_figure(points),
        **{f"knob_{knob}": partial(knob_figure, data, points, knob) for knob in KNOBS},
        **{f"interactions_{regime}": partial(interactions_figure, points, regime) for regime in regimes},
        **{f"parallel_{regime}": partial(parallel_figure, points, regime) for regime in regimes},
        **mechanism_figures(data, points),
    }
    drawn = {name: save_figure(make, folder, name) for name, make in makers.items()}
    return {name: svg for name, svg in drawn.items() if svg is not None}
