"""The report of `sweeps/baselines.py`: every method at its own best learning rate, and every method's frontier over learning rates.

A learning rate is chosen on the evaluation examples with an even number (the validation split) and judged on those with an odd one. At one
learning rate any method can look gentle by learning less, so each is also laid beside LoRA's frontier: the quality that LoRA reaches, by whatever
learning rate, at the forgetting at which the method stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from analysis.family import FamilyReport, Section, write_family
from analysis.load import Floats, StudyData
from analysis.points import PointSummary, forgetting_matrix, paired_forgetting, quality_matrix, summarize_points
from analysis.statistics import Estimate, Resampling, estimate, shown
from analysis.style import COLOURS, new_figure
from grit.methods import METHODS, Method

TUNED_HEADER = ("method", "n", "learning rate", "quality (test half)", "vs LoRA [95%]", "forgetting", "vs LoRA [95%]",
                "against LoRA's frontier [95%]", "verdict")
COUNT_HEADER = ("method", "source", "trained parameters", "effective", "peak memory (MB)", "step (ms)", "P99 (ms)", "making the adapter (s)",
                "tuning: trials", "tuning: training s", "lost")


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """One method in one regime: its settings in the order of their learning rates, and the one that the validation split chose."""

    method: Method
    settings: tuple[PointSummary, ...]
    rates: tuple[float, ...]
    chosen: PointSummary
    lost: int
    trials: int

    @property
    def rate(self) -> float:
        """The chosen learning rate."""
        return self.rates[self.settings.index(self.chosen)]

    @property
    def at_edge(self) -> str | None:
        """Where the chosen rate is the grid's lowest or highest, so that a better one may lie beyond."""
        ends = {self.rates[0]: "lowest", self.rates[-1]: "highest"}
        return ends.get(self.rate) if len(self.rates) > 1 else None


def learning_rate(data: StudyData, point: PointSummary) -> float:
    """The learning rate that a setting was given; the study's own where it is the control."""
    return float(point.records[0].overrides.get("learning_rate", data.study["config"]["learning_rate"]))


def tune(data: StudyData, points: Sequence[PointSummary], regime: str) -> dict[Method, Tuned]:
    """Each method's settings with every seed of the study, and the best of them on the even examples; methods without any are left out."""
    found: dict[Method, Tuned] = {}
    for method in dict.fromkeys(p.method for p in points):
        mine = [p for p in points if p.method == method and p.regime == regime and "baseline" in p.designs]
        whole = [p for p in mine if p.records and not p.lost and not p.planned]
        if not whole:
            continue
        chosen = max(whole, key=lambda p: float(quality_matrix(data, p)[:, ::2].mean()))
        whole.sort(key=partial(learning_rate, data))
        found[method] = Tuned(method=method, settings=tuple(whole), rates=tuple(learning_rate(data, p) for p in whole), chosen=chosen,
                              lost=sum(p.lost for p in mine), trials=sum(len(p.records) + p.lost for p in mine))
    return found


def frontier_quality(forgetting: Floats, quality: Floats, base: float, at: float) -> float:
    """Quality of a frontier at a forgetting: linear between points that nothing gentler beats, from the untuned model; NaN beyond the last.

    Args:
        forgetting: of the points (k,), in any order.
        quality: of the same points.
        base: quality of the untuned model, which forgets nothing.
        at: the forgetting asked for; below 0 it counts as 0.
    """
    order = np.argsort(forgetting)
    x, y = np.concatenate([[0.0], np.maximum(forgetting[order], 0.0)]), np.concatenate([[base], quality[order]])
    return float(np.interp(max(at, 0.0), x, np.maximum.accumulate(y), right=np.nan))


def against_frontier(data: StudyData, point: PointSummary, reference: Tuned) -> Estimate | None:
    """Quality of `point` on the odd examples minus that of the reference's frontier at the same forgetting, with a percentile interval.

    None where their seeds differ or the point forgets more than any point of the reference.
    """
    if any(p.seeds != point.seeds for p in reference.settings):
        return None
    base = float(np.mean([r.base_quality or 0.0 for r in point.records]))
    quality = [quality_matrix(data, p)[:, 1::2] for p in (point, *reference.settings)]
    pairs = [forgetting_matrix(data, p) for p in (point, *reference.settings)]
    draws_q = Resampling.draw(*_shape(quality[0]))
    draws_f = Resampling.draw(*_shape(pairs[0][0]), pairs[0][1])
    means_q = np.stack([draws_q.means(matrix) for matrix in quality])
    means_f = np.stack([Resampling(seeds=draws_q.seeds, items=draws_f.items).means(matrix) for matrix, _ in pairs])
    full_q = np.array([matrix.mean() for matrix in quality])
    full_f = np.array([np.average(matrix.mean(axis=0), weights=weights) for matrix, weights in pairs])
    mean = full_q[0] - frontier_quality(full_f[1:], full_q[1:], base, full_f[0])
    gaps = np.array([q[0] - frontier_quality(f[1:], q[1:], base, f[0]) for q, f in zip(means_q.T, means_f.T, strict=True)])
    gaps = gaps[~np.isnan(gaps)]
    if np.isnan(mean) or len(gaps) < len(means_q.T) / 2:
        return None
    low, high = np.quantile(gaps, [0.025, 0.975])
    return Estimate(mean=float(mean), low=float(low), high=float(high), seeds=len(point.seeds), items=quality[0].shape[1])


def _shape(matrix: Floats) -> tuple[int, int]:
    """(seeds, items)."""
    return matrix.shape[0], matrix.shape[1]


def _paired_test(data: StudyData, point: PointSummary, reference: PointSummary) -> Estimate | None:
    """Quality on the odd examples, point minus reference; None where seeds differ."""
    if point.seeds != reference.seeds:
        return None
    return estimate(quality_matrix(data, point)[:, 1::2] - quality_matrix(data, reference)[:, 1::2])


def _tuned_row(data: StudyData, tuned: Tuned, reference: Tuned | None) -> list[str]:
    p = tuned.chosen
    rate = f"{tuned.rate:g}" + (f" (the grid's {tuned.at_edge})" if tuned.at_edge else "")
    other = None if reference is None or reference is tuned else reference
    gap = None if other is None else against_frontier(data, p, other)
    verdict = "the reference" if reference is tuned else "-" if other is None else "forgets more than LoRA anywhere" if gap is None else {
        "better": "above LoRA's frontier", "worse": "below LoRA's frontier", "inconclusive": "inconclusive"}[gap.verdict()]
    return [METHODS[tuned.method].title, str(len(p.seeds)), rate, f"{quality_matrix(data, p)[:, 1::2].mean():.3f}",
            "-" if other is None else shown(_paired_test(data, p, other.chosen)), f"{p.mean('forgetting'):+.3f}",
            "-" if other is None else shown(paired_forgetting(data, p, other.chosen)), shown(gap), verdict]


def _count_row(tuned: Tuned, points: Sequence[PointSummary]) -> list[str]:
    p, spec = tuned.chosen, METHODS[tuned.method]
    memory = [r.memory_bytes[r.method] for q in points if q.method == tuned.method and "memory" in q.designs for r in q.records if r.memory_bytes]
    spent = sum(r.train_seconds or 0.0 for q in tuned.settings for r in q.records)
    times = [r.step_time_ms or {} for r in p.records]
    return [spec.title, spec.source, f"{p.mean('adapter_parameters'):,.0f}", f"{p.mean('effective_parameters'):,.0f}",
            f"{np.mean(memory) / 1e6:.0f}" if memory else "-", f"{np.mean([t['mean'] for t in times]):.1f}",
            f"{np.mean([t['p99'] for t in times]):.1f}", f"{p.mean('adapter_seconds'):.2f}", str(tuned.trials), f"{spent:.0f}", str(tuned.lost)]


def frontier_figure(tuned: dict[Method, Tuned], regime: str) -> Figure | None:
    """One panel a method: its curve over learning rates beside LoRA's and GRIT's."""
    if "lora" not in tuned or len(tuned) < 2:
        return None
    columns = min(6, len(tuned))
    figure, axes = new_figure(columns, rows=-(-len(tuned) // columns), width=1.9, height=1.9)
    for axis in axes[len(tuned):]:
        axis.set_visible(False)
    for axis, (method, mine) in zip(axes, tuned.items(), strict=False):
        curves = [("lora", COLOURS["neutral"], "--", "s"), ("grit", COLOURS["step"], ":", "^")]
        for other, colour, line, marker in curves:
            if other in tuned and other != method:
                _frontier_curve(axis, tuned[other], colour, line, marker, label=METHODS[other].title)
        _frontier_curve(axis, mine, COLOURS["time"], "-", "o", label=METHODS[method].title, bars=True)
        axis.set_title(METHODS[method].title)
        axis.legend(frameon=False, fontsize=5.5, loc="best")
        axis.tick_params(labelsize=6)
        axis.set_xscale("symlog", linthresh=0.1)
    for axis in axes[:: columns]:
        axis.set_ylabel("quality", fontsize=7)
    figure.supxlabel("forgetting (nats/token; linear below 0.1, logarithmic above)", fontsize=8)
    n = min(len(p.seeds) for found in tuned.values() for p in found.settings)
    figure.suptitle(f"{regime}-matched, one point per learning rate, means over n = {n} seeds; bars: standard deviation", fontsize=8)
    return figure


def _frontier_curve(axis: object, tuned: Tuned, colour: str, line: str, marker: str, *, label: str, bars: bool = False) -> None:
    x, y = [p.mean("forgetting") for p in tuned.settings], [p.mean("quality") for p in tuned.settings]
    errors = {"xerr": [p.spread("forgetting") for p in tuned.settings], "yerr": [p.spread("quality") for p in tuned.settings]} if bars else {}
    axis.errorbar(x, y, **errors, color=colour, linestyle=line, marker=marker, markersize=3, linewidth=1.0, elinewidth=0.6,  # type: ignore[attr-defined]
                  alpha=1.0 if bars else 0.7, label=label)


def _answer(rows: Sequence[Sequence[str]], regime: str) -> str:
    """Where GRIT stands, in a sentence; then how many others stand above and below LoRA's frontier."""
    own = [row for row in rows if row[0] in ("GRIT", "Q-GRIT")]
    said = "; ".join(f"{row[0]} at its best learning rate: quality {row[4]} against LoRA's best, {row[8]} ({row[7]})" for row in own)
    above, below = ([row[0] for row in rows if row[8] == f"{side} LoRA's frontier"] for side in ("above", "below"))
    return (f"{regime.capitalize()}-matched. {said or 'GRIT was not measured'}. Above LoRA's frontier beyond noise: {', '.join(above) or 'none'}; "
            f"below: {', '.join(below) or 'none'}.")


def build(data: StudyData, folder: Path) -> FamilyReport:
    """Writes the page, its tables and figures in the study's folder."""
    points = summarize_points(data.records)
    sections: list[Section] = []
    answer: list[str] = []
    for regime in ("step", "time"):
        tuned = tune(data, points, regime)
        if not tuned:
            continue
        rows = [_tuned_row(data, found, tuned.get("lora")) for found in tuned.values()]
        answer.append(_answer(rows, regime))
        same = "steps" if regime == "step" else "training seconds"
        sections += [
            Section(name=f"tuned_{regime}", title=f"Each method at its best learning rate, {regime}-matched", header=TUNED_HEADER, rows=rows,
                    columns=(0, 2, 3, 4, 5, 7, 8), said=[
                        f"All have the same {same}, seeds, examples and grid of learning rates. The rate was chosen on the even half of the "
                        "evaluation examples, quality and its difference are those of the odd half; forgetting is measured on text that chose "
                        "nothing.",
                        "Against LoRA's frontier: quality minus what LoRA reaches at the same forgetting by another learning rate (linear between "
                        "its points, from the untuned model). A rate at the grid's edge means that a better one may lie beyond."]),
            Section(name=f"frontier_{regime}", title=f"Quality against forgetting over learning rates, {regime}-matched",
                    figure=partial(frontier_figure, tuned, regime), caption="Each method's curve over the learning rate beside LoRA's (squares) and "
                    "GRIT's (triangles). Up and to the left is better."),
            Section(name=f"counts_{regime}", title=f"What each costs, {regime}-matched", header=COUNT_HEADER,
                    rows=[_count_row(found, points) for found in tuned.values()], said=[
                        "Counted alike: parameters that are trained, those that act at the end, the peak of resident (or GPU) memory over a few "
                        "steps in a fresh process, step times of the chosen rate, and what tuning cost in trials and training seconds."])]
    answer = answer or ["No method has all its trials yet."]
    page = FamilyReport(title="Baselines: each at its own learning rate", answer=answer, sections=sections, limits=[
        "One rank and one schedule for all, published settings for what is each method's own (grit/methods.py, grit/adapters.py): tuning these too "
        "may change the order.", "Shampoo's roots are found by Newton's iteration every 20 steps, grafted to a signed step's size."])
    return write_family(page, data, folder)
