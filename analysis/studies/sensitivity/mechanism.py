"""Figures of why: ranks over training, spectra, where updates go, and where step time goes.

One trial, or means over modules, said on each.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.data.load import StudyData
from analysis.data.points import PointSummary
from analysis.page.style import COLOURS, SEQUENTIAL, SHADES, STROKES, new_figure, plain_log_axis
from analysis.studies.sensitivity.bands import default_point, sweep_of
from ray_jobs.records.trial_record import TrialRecord


def mechanism_figures(
    data: StudyData, points: Sequence[PointSummary]
) -> dict[str, Callable[[], Figure | None]]:
    """Makers by name; each returns None where the records cannot support it."""
    return {
        "ranks": partial(ranks_figure, data, points),
        "rank_map": partial(rank_map_figure, data, points),
        "spectra": partial(spectra_figure, data, points),
        "updates": partial(updates_figure, data, points),
        "update_plane": partial(update_plane_figure, data, points),
        "step_times": partial(step_times_figure, data, points),
    }


def _first_regime(points: Sequence[PointSummary]) -> str | None:
    return next(
        (regime for regime in ("step", "time") if any(p.regime == regime and p.records for p in points)), None
    )


def _pair(points: Sequence[PointSummary]) -> tuple[PointSummary, PointSummary] | None:
    """The default setting and the control of the same regime, where both were measured."""
    regime = _first_regime(points)
    center = None if regime is None else default_point(points, regime)
    control = next((p for p in points if p.is_control and p.regime == regime and p.records), None)
    return None if center is None or not center.records or control is None else (center, control)


def ranks_figure(data: StudyData, points: Sequence[PointSummary]) -> Figure | None:
    """Mean rank over training for each tau, with reprojection events."""
    regime = _first_regime(points)
    sweep = [] if regime is None else [p for p in sweep_of(points, "tau", regime) if p.records]
    if not sweep:
        return None
    figure, axes = new_figure(1, width=4.6, height=3.0)
    for p, colour, line in zip(sweep, SHADES, STROKES, strict=False):
        rows = data.telemetry(p.records[0])
        axes[0].plot(
            rows["step"],
            rows["mean_rank"],
            color=colour,
            linestyle=line,
            drawstyle="steps-post",
            label=f"τ = {p.tau:g}",
        )
        at = dict(zip(rows["step"], rows["mean_rank"], strict=True))
        events = [step for step in _reprojections(rows) if step in at]
        axes[0].scatter(events, [at[s] for s in events], color=colour, s=12, zorder=3)
    axes[0].set_xlabel("optimizer step")
    axes[0].set_ylabel("mean rank over modules")
    axes[0].set_title(f"{regime}-matched, seed {sweep[0].seeds[0]} (n = 1); dots: reprojections")
    axes[0].legend(frameon=False)
    return figure


def _reprojections(rows: dict[str, list[Any]]) -> list[int]:
    """Steps of a trial's telemetry at which it reprojected."""
    logged = zip(rows["step"], rows["events"], strict=True)
    return [
        step
        for step, events in logged
        if events and any(event["kind"] == "reprojection" for event in json.loads(events))
    ]


def _grid(
    record: TrialRecord, rows: Sequence[dict[str, Any]], name: str
) -> tuple[np.ndarray[Any, Any], list[str], list[str]] | None:
    """A quantity as (layers, kinds of module), with their names.

    None where modules do not lie in numbered layers.
    """
    places = [
        (re.search(r"\.(\d+)\.", row["module"]), row["module"].rpartition(".")[2], row[name]) for row in rows
    ]
    if not places or any(found is None or value is None for found, _, value in places):
        return None
    layers = sorted({int(found[1]) for found, _, _ in places if found is not None})
    kinds = list(dict.fromkeys(kind for _, kind, _ in places))
    values = np.full((len(layers), len(kinds)), np.nan)
    for found, kind, value in places:
        assert found is not None
        values[layers.index(int(found[1])), kinds.index(kind)] = value
    return values, [str(layer) for layer in layers], kinds


def _map(
    axis: Any, figure: Figure, values: np.ndarray[Any, Any], layers: list[str], kinds: list[str], label: str
) -> None:
    image = axis.imshow(values, cmap=SEQUENTIAL, aspect="auto", origin="lower")
    axis.set_xticks(range(len(kinds)), kinds, rotation=60, ha="right")
    axis.set_yticks(range(len(layers)), layers)
    axis.set_ylabel("layer")
    axis.grid(False)
    figure.colorbar(image, ax=axis, label=label)


def rank_map_figure(data: StudyData, points: Sequence[PointSummary]) -> Figure | None:
    """Kept rank and effective rank, layer by kind of module, at the default setting: means over seeds."""
    pair = _pair(points)
    if pair is None:
        return None
    center = pair[0]
    figure, axes = new_figure(2, width=3.7, height=3.0)
    for axis, name, label in (
        (axes[0], "rank", "directions kept"),
        (axes[1], "effective_rank", "effective rank of the update, exp(entropy)"),
    ):
        grids = [_grid(r, data.geometry(r), name) for r in center.records]
        found = [grid for grid in grids if grid is not None]
        if len(found) < len(grids) or not found:
            return None
        _map(
            axis, figure, np.mean([values for values, _, _ in found], axis=0), found[0][1], found[0][2], label
        )
    figure.suptitle(
        f"{center.method} at its default ({center.label()}), {center.regime}-matched, mean over "
        f"{len(center.seeds)} seeds",
        fontsize=8,
    )
    return figure


def spectra_figure(data: StudyData, points: Sequence[PointSummary]) -> Figure | None:
    """Fisher factors' eigenvalues at the end of training, relative to the largest.

    Median and range over modules.
    """
    pair = _pair(points)
    rows = [] if pair is None else data.geometry(pair[0].records[0])
    if (
        pair is None
        or not rows
        or any(
            row["fisher_a"] is None or len(row["fisher_a"]) != len(rows[0]["fisher_a"] or ()) for row in rows
        )
    ):
        return None
    figure, axes = new_figure(2, width=3.3, height=2.8)
    for axis, name, label in (
        (axes[0], "fisher_a", "activation factor Σ_a"),
        (axes[1], "fisher_g", "gradient factor Σ_g"),
    ):
        values = np.array([row[name] for row in rows])
        shares = values / np.maximum(values[:, :1], np.finfo(float).tiny)
        index = np.arange(1, shares.shape[1] + 1)
        axis.fill_between(
            index,
            np.maximum(shares.min(axis=0), 1e-9),
            shares.max(axis=0),
            color=COLOURS["step"],
            alpha=0.2,
            linewidth=0,
            label="range",
        )
        axis.plot(
            index,
            np.maximum(np.median(shares, axis=0), 1e-9),
            color=COLOURS["step"],
            marker="o",
            markersize=3,
            label="median",
        )
        axis.set_yscale("log")
        axis.set_xlabel("eigenvalue number")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set_title(label)
        axis.legend(frameon=False)
    axes[0].set_ylabel("eigenvalue / largest")
    figure.suptitle(
        f"{pair[0].method} at its default, {pair[0].regime}-matched, seed {pair[0].seeds[0]} (n = 1), "
        f"{len(rows)} modules",
        fontsize=8,
    )
    return figure


def updates_figure(data: StudyData, points: Sequence[PointSummary]) -> Figure | None:
    """Size of the weight updates by layer, the control's and the default's.

    Mean over modules, standard deviation over seeds.
    """
    pair = _pair(points)
    if pair is None:
        return None
    figure, axes = new_figure(2, width=3.5, height=2.8)
    for axis, name, label in (
        (axes[0], "update_norm", "update norm |ΔW| (Frobenius)"),
        (axes[1], "tail_mass", "entries of ΔW above 0.01 (share)"),
    ):
        for number, p in enumerate(pair):
            grids = [grid for r in p.records if (grid := _grid(r, data.geometry(r), name)) is not None]
            if len(grids) < len(p.records):
                return None
            means = np.array([np.nanmean(values, axis=1) for values, _, _ in grids])
            spread = means.std(axis=0, ddof=1) if len(means) > 1 else np.zeros(means.shape[1])
            axis.errorbar(
                np.arange(means.shape[1]) + 0.06 * number,
                means.mean(axis=0),
                yerr=spread,
                capsize=2,
                label=p.method,
                color=SHADES[number],
                linestyle=STROKES[number],
                marker="os"[number],
            )
        axis.set_xticks(range(means.shape[1]), grids[0][1])
        axis.set_xlabel("layer")
        axis.set_ylabel(label)
        axis.set_ylim(bottom=0)
        axis.legend(frameon=False)
    figure.suptitle(
        f"{pair[0].regime}-matched, mean over modules, n = {len(pair[0].seeds)} seeds; bars: standard "
        "deviation over seeds",
        fontsize=8,
    )
    return figure


def update_plane_figure(data: StudyData, points: Sequence[PointSummary]) -> Figure | None:
    """Whole updates of every trial of the tau sweep and the control, in their first two principal components.

    Made of random sketches (grit/audits/update_geometry.py), which keep distances within some percent.
    """
    pair = _pair(points)
    if pair is None:
        return None
    sweep = [p for p in sweep_of(points, "tau", pair[0].regime) if p.records]
    shown = [pair[1], *sweep]
    sketches = [
        (p, record.plan.seed, np.concatenate([row["sketch"] for row in rows]))
        for p in shown
        for record in p.records
        if (rows := data.geometry(record))
    ]
    if len(sketches) < 4 or len({len(vector) for _, _, vector in sketches}) > 1:
        return None
    matrix = np.stack([vector for _, _, vector in sketches])
    centered = matrix - matrix.mean(axis=0)
    left, singular, _ = np.linalg.svd(centered, full_matrices=False)
    share = singular**2 / max(float((singular**2).sum()), np.finfo(float).tiny)
    places = left[:, :2] * singular[:2]
    figure, (axis,) = new_figure(1, width=4.6, height=3.6)
    for number, p in enumerate(shown):
        mine = [i for i, (q, _, _) in enumerate(sketches) if q is p]
        label = p.method if p.is_control else f"{p.method}, τ = {p.tau:g}"
        axis.scatter(
            places[mine, 0],
            places[mine, 1],
            color="black" if p.is_control else SHADES[(number - 1) % len(SHADES)],
            marker="X" if p.is_control else "o^sDv<>"[number % 7],
            label=label,
            s=38,
        )
        for i in mine:
            axis.annotate(
                str(sketches[i][1]),
                (places[i, 0], places[i, 1]),
                textcoords="offset points",
                xytext=(4, 3),
                fontsize=6,
            )
    axis.set_xlabel(f"component 1 ({share[0]:.0%} of the variance)")
    axis.set_ylabel(f"component 2 ({share[1]:.0%})")
    axis.set_title(f"weight updates of {len(sketches)} trials, {pair[0].regime}-matched; numbers: seeds")
    axis.legend(frameon=False)
    return figure


def step_times_figure(data: StudyData, points: Sequence[PointSummary]) -> Figure | None:
    """Distribution of step times of control and default, the default's reprojection steps on their own."""
    pair = _pair(points)
    if pair is None:
        return None
    figure, (axis,) = new_figure(1, width=4.6, height=3.0)
    for number, p in enumerate(reversed(pair)):
        times: list[float] = []
        apart: list[float] = []
        for record in p.records:
            rows = data.telemetry(record)
            special = set(_reprojections(rows))
            warm = min(5, len(rows["step"]) // 10)
            for step, took in list(zip(rows["step"], rows["ms_step"], strict=True))[warm:]:
                (apart if step in special else times).append(took)
        for values, line, suffix in ((times, "-", ""), (apart, "--", ", reprojection steps")):
            if values:
                ordered = np.sort(values)
                axis.step(
                    ordered,
                    np.arange(1, len(ordered) + 1) / len(ordered),
                    where="post",
                    color=SHADES[number],
                    linestyle=line,
                    label=f"{p.method}{suffix} (n = {len(values)})",
                )
    axis.set_xlabel("step time (ms)")
    axis.set_ylabel("share of steps at most this long")
    plain_log_axis(axis)
    axis.set_title(f"{pair[0].regime}-matched, {len(pair[0].seeds)} seeds, after warm-up")
    axis.legend(frameon=False, loc="lower right")
    return figure
