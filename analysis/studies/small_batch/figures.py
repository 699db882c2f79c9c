"""Figures J1 to J4."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.evidence.load import StudyData
from analysis.evidence.point_summary import PointSummary
from analysis.page.bars import Bars
from analysis.page.style import COLOURS, SEQUENTIAL, SHADES, STROKES, new_figure
from analysis.stats.arrays import Floats
from analysis.studies.small_batch.diagnostics import finite_mean, stability_rows
from analysis.studies.small_batch.regimes import BatchRegime, effective_batch
from analysis.studies.small_batch.tables import MitigationRow

#: The diagnostics of Figure J1, with their labels.
DIAGNOSTICS = {
    "variance_used": "Var_F in use",
    "variance_batch": "Var_F of one step",
    "drift": "principal-angle drift (0 to 1)",
    "jitter_preconditioned": "jitter, preconditioned (degrees)",
}
#: Regimes below which lines over the batch show nothing.
MIN_REGIMES = 3
BATCH_AXIS = "effective batch B (sequences)"


@dataclass(frozen=True, kw_only=True)
class BatchLine:
    """One micro-batch: its effective batches, and a value at each."""

    micro: int
    batches: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class DiagnosticCurves:
    """J1: lines by diagnostic; the least seeds that a mean is over."""

    lines: dict[str, tuple[BatchLine, ...]]
    seeds: int


def by_micro_batch(regimes: Sequence[BatchRegime]) -> dict[int, list[BatchRegime]]:
    """The regimes of each micro-batch, by effective batch."""
    lines: dict[int, list[BatchRegime]] = {}
    for regime in sorted(regimes, key=lambda regime: (regime.micro, regime.batch)):
        lines.setdefault(regime.micro, []).append(regime)
    return lines


def diagnostic_curves(regimes: Sequence[BatchRegime]) -> DiagnosticCurves | None:
    """None of too few regimes."""
    if len(regimes) < MIN_REGIMES:
        return None
    lines = {}
    for name in DIAGNOSTICS:
        lines[name] = tuple(_line(members, micro, name) for micro, members in by_micro_batch(regimes).items())
    return DiagnosticCurves(lines=lines, seeds=min(len(r.point.seeds) for r in regimes))


def _line(members: Sequence[BatchRegime], micro: int, name: str) -> BatchLine:
    return BatchLine(
        micro=micro,
        batches=tuple(regime.batch for regime in members),
        values=tuple(getattr(regime.diagnostics, name) for regime in members),
    )


def draw_diagnostics(curves: DiagnosticCurves) -> Figure:
    """One panel for each diagnostic, one line per micro-batch."""
    figure, axes = new_figure(len(curves.lines), width=2.6, height=3.0)
    for axis, (name, lines) in zip(axes, curves.lines.items(), strict=True):
        for number, line in enumerate(lines):
            axis.plot(line.batches, line.values, label=f"b = {line.micro}", **_micro_style(number))
        axis.set_xscale("log", base=2)
        axis.set_xlabel(BATCH_AXIS)
        axis.set_ylabel(DIAGNOSTICS[name])
        if "variance" in name:
            axis.set_yscale("log")
    axes[0].legend(frameon=False, fontsize=7)
    figure.suptitle(f"means over modules, both factors and n = {curves.seeds} seeds", fontsize=8)
    return figure


def _micro_style(number: int) -> dict[str, Any]:
    return {
        "color": SHADES[number % len(SHADES)],
        "linestyle": STROKES[number % len(STROKES)],
        "marker": "os^vD"[number % 5],
        "markersize": 3.5,
    }


@dataclass(frozen=True, kw_only=True)
class SpectrumOverTime:
    """Leading eigenvalues of the activation factor, as shares of the mean trace: (steps, seeds, k)."""

    regime: str
    steps: tuple[int, ...]
    values: Floats


@dataclass(frozen=True, kw_only=True)
class Rotation:
    """J2: spectra at the smallest and the largest batch; drift (regimes, lags) of the leading eigenspaces."""

    smallest: SpectrumOverTime
    largest: SpectrumOverTime
    regimes: tuple[str, ...]
    lags: tuple[int, ...]
    drift: Floats


def rotation_of(data: StudyData, regimes: Sequence[BatchRegime]) -> Rotation | None:
    """None of fewer than two regimes."""
    if len(regimes) < 2:
        return None
    order = sorted(regimes, key=lambda regime: (regime.batch, regime.micro))
    by_lag = [_drift_by_lag(data, regime) for regime in order]
    lags = sorted({lag for drift in by_lag for lag in drift})
    smallest, largest = _spectrum(data, order[0]), _spectrum(data, order[-1])
    if smallest is None or largest is None or not lags:
        return None
    drift = []
    for held in by_lag:
        drift.append([finite_mean(held.get(lag, [])) for lag in lags])
    return Rotation(
        smallest=smallest,
        largest=largest,
        regimes=tuple(f"{regime.micro} x {regime.passes}" for regime in order),
        lags=tuple(lags),
        drift=np.array(drift),
    )


def _drift_by_lag(data: StudyData, regime: BatchRegime) -> dict[int, list[float]]:
    by_lag: dict[int, list[float]] = {}
    for row in stability_rows(data, regime.point):
        if row["kind"] == "lag" and row["estimate"] == "used":
            by_lag.setdefault(row["lag"], []).append(row["drift"])
    return by_lag


def _spectrum(data: StudyData, regime: BatchRegime) -> SpectrumOverTime | None:
    by_step: dict[int, list[list[float]]] = {}
    for row in stability_rows(data, regime.point):
        if (row["kind"], row["side"], row["estimate"]) == ("spectrum", "a", "used"):
            by_step.setdefault(row["step"], []).append(row["eigenvalues"])
    whole = {step: values for step, values in by_step.items() if len(values) == len(regime.point.records)}
    if not whole:
        return None
    steps = sorted(whole)
    name = f"B = {regime.batch} (b = {regime.micro})"
    return SpectrumOverTime(regime=name, steps=tuple(steps), values=np.array([whole[step] for step in steps]))


def draw_rotation(rotation: Rotation) -> Figure:
    """Two spectra and a map."""
    figure, (left, middle, right) = new_figure(3, width=3.2, height=3.2)
    _draw_spectrum(left, rotation.smallest)
    _draw_spectrum(middle, rotation.largest)
    middle.legend(frameon=False, fontsize=6)
    image = right.imshow(rotation.drift, aspect="auto", cmap=SEQUENTIAL, vmin=0)
    right.set_yticks(range(len(rotation.regimes)), rotation.regimes, fontsize=5)
    right.set_xticks(range(len(rotation.lags)), [str(lag) for lag in rotation.lags], fontsize=6)
    right.set_xlabel("lag (snapshots)")
    right.set_title("principal-angle distance, both factors in use", fontsize=7)
    right.grid(False)
    figure.colorbar(image, ax=right, shrink=0.8)
    return figure


def _draw_spectrum(axis: Axes, spectrum: SpectrumOverTime) -> None:
    for number in range(spectrum.values.shape[2]):
        values, colour = spectrum.values[:, :, number], SHADES[number % len(SHADES)]
        low, high = values.min(axis=1), values.max(axis=1)
        axis.plot(spectrum.steps, values.mean(axis=1), color=colour, label=f"eigenvalue {number + 1}")
        axis.fill_between(spectrum.steps, low, high, color=colour, alpha=0.2, linewidth=0)
    axis.set_xlabel("optimizer step")
    axis.set_ylabel("share of the mean trace (activation factor)")
    axis.set_title(f"{spectrum.regime}, n = {spectrum.values.shape[1]} seeds; band: range", fontsize=7)


@dataclass(frozen=True, kw_only=True)
class OutcomeCurves:
    """J3: by objective and label, means over seeds with one standard deviation."""

    metric: str
    seeds: int
    quality: dict[str, Bars]
    retention: dict[str, Bars]


def outcome_curves(points: Sequence[PointSummary], regimes: Sequence[BatchRegime]) -> OutcomeCurves | None:
    """GRIT by micro-batch, and LoRA last; None of too few regimes."""
    if len(regimes) < MIN_REGIMES:
        return None
    lines = {}
    for micro, members in by_micro_batch(regimes).items():
        lines[f"GRIT, b = {micro}"] = [regime.point for regime in members]
    controls = [p for p in points if "first-order" in p.designs and p.records]
    lines["LoRA"] = sorted(controls, key=effective_batch)
    return OutcomeCurves(
        metric=regimes[0].point.quality_label,
        seeds=min(len(regime.point.seeds) for regime in regimes),
        quality={label: _over_batches(members, "quality") for label, members in lines.items()},
        retention={label: _over_batches(members, "retention") for label, members in lines.items()},
    )


def _over_batches(points: Sequence[PointSummary], name: str) -> Bars:
    return Bars.of_spreads([effective_batch(p) for p in points], points, name)


def draw_outcomes(curves: OutcomeCurves) -> Figure:
    """Two panels."""
    figure, (left, right) = new_figure(2, width=3.4, height=3.0)
    panels = ((left, curves.quality, curves.metric), (right, curves.retention, "retention"))
    for axis, lines, label in panels:
        for number, (name, bars) in enumerate(lines.items()):
            style = _micro_style(number) | {"linestyle": "-"}
            if name == "LoRA":
                style = {"color": COLOURS["control"], "linestyle": "--", "marker": "X", "markersize": 4}
            bars.draw(axis, elinewidth=0.6, label=name, **style)
        axis.set_xscale("log", base=2)
        axis.set_xlabel(BATCH_AXIS)
        axis.set_ylabel(label)
    left.legend(frameon=False, fontsize=6)
    figure.suptitle(f"same steps for all, n = {curves.seeds} seeds; bars: standard deviation", fontsize=8)
    return figure


@dataclass(frozen=True, kw_only=True)
class MitigationPanels:
    """J4: by label of the panel, one value per mitigation; `spread` is quality's standard deviation."""

    names: tuple[str, ...]
    panels: dict[str, tuple[float, ...]]
    metric: str
    spread: tuple[float, ...]
    seeds: int


def mitigation_panels(rows: Sequence[MitigationRow]) -> MitigationPanels | None:
    """None of fewer than two settings."""
    if len(rows) < 2:
        return None
    metric = rows[0].point.quality_label
    return MitigationPanels(
        names=tuple(row.name for row in rows),
        panels={
            "Var_F in use": tuple(row.diagnostics.variance_used for row in rows),
            "drift": tuple(row.diagnostics.drift for row in rows),
            "jitter, preconditioned (deg)": tuple(row.diagnostics.jitter_preconditioned for row in rows),
            metric: tuple(row.point.mean("quality") for row in rows),
        },
        metric=metric,
        spread=tuple(row.point.spread("quality") or 0.0 for row in rows),
        seeds=len(rows[0].point.seeds),
    )


def draw_mitigations(mitigations: MitigationPanels) -> Figure:
    """Stability, and what comes of it."""
    figure, axes = new_figure(len(mitigations.panels), width=2.4, height=2.8)
    places = range(len(mitigations.names))
    colours = [SHADES[0], *[SHADES[1]] * (len(mitigations.names) - 1)]
    names = [name.replace(" + ", "\n+ ") for name in mitigations.names]
    for axis, (label, values) in zip(axes, mitigations.panels.items(), strict=True):
        errors = mitigations.spread if label == mitigations.metric else None
        axis.barh(places, values, xerr=errors, color=colours, height=0.7)
        axis.set_yticks(places, names if axis is axes[0] else [""] * len(names), fontsize=5)
        axis.invert_yaxis()
        axis.set_xlabel(label)
    title = f"smallest regime, n = {mitigations.seeds} seeds; bars on quality: standard deviation"
    figure.suptitle(title, fontsize=8)
    return figure
