"""The report of `sweeps/baselines.py`.

Every method at its own best learning rate, and every method's frontier over learning rates.

A learning rate is chosen on the evaluation examples with an even number (the validation split) and judged on
those with an odd one. At one learning rate any method can look gentle by learning less, so each is also laid
beside LoRA's frontier: the quality that LoRA reaches, by whatever learning rate, at the forgetting at which
the method stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.data.load import StudyData
from analysis.data.points import (
    PointSummary,
    forgetting_matrix,
    paired_forgetting,
    quality_matrix,
    summarize_points,
)
from analysis.page.family import FamilyReport, Section, write_family
from analysis.page.style import COLOURS, new_figure
from analysis.page.tables import shown
from analysis.stats.estimates import Estimate, estimate, holm
from analysis.stats.frontier_gap import Gap, Side, gap_to
from grit.config.registry import METHODS, Method
from ray_jobs.records.trial_record import TrialRecord

TUNED_HEADER = (
    "method",
    "n",
    "learning rate",
    "quality (test half)",
    "vs LoRA [95%]",
    "forgetting",
    "vs LoRA [95%]",
    "against LoRA's frontier [95%]",
    "p (Holm)",
    "verdict",
)
COUNT_HEADER = (
    "method",
    "source",
    "trained parameters",
    "effective",
    "peak memory (MB)",
    "step (ms)",
    "P99 (ms)",
    "making the adapter (s)",
    "tuning: trials",
    "tuning: training s",
    "lost",
)


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """One method in one regime.

    Its settings in the order of their learning rates, and the one that the validation split chose.
    """

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
    return float(point.records[0].plan.overrides.get("learning_rate", data.study["config"]["learning_rate"]))


def tune(data: StudyData, points: Sequence[PointSummary], regime: str) -> dict[Method, Tuned]:
    """Each method's settings with every seed of the study, and the best of them on the even examples.

    Methods without any are left out.
    """
    found: dict[Method, Tuned] = {}
    for method in dict.fromkeys(p.method for p in points):
        mine = [p for p in points if p.method == method and p.regime == regime and "baseline" in p.designs]
        whole = [p for p in mine if p.records and not p.lost and not p.planned]
        if not whole:
            continue
        chosen = max(whole, key=lambda p: float(quality_matrix(data, p)[:, ::2].mean()))
        whole.sort(key=partial(learning_rate, data))
        found[method] = Tuned(
            method=method,
            settings=tuple(whole),
            rates=tuple(learning_rate(data, p) for p in whole),
            chosen=chosen,
            lost=sum(p.lost for p in mine),
            trials=sum(len(p.records) + p.lost for p in mine),
        )
    return found


def against_frontier(data: StudyData, point: PointSummary, reference: Tuned) -> Gap | None:
    """The point against the reference's frontier, on the odd examples; None where their seeds differ."""
    if any(p.seeds != point.seeds for p in reference.settings):
        return None

    def side(p: PointSummary) -> Side:
        forgetting, weights = forgetting_matrix(data, p)
        return Side(quality=quality_matrix(data, p)[:, 1::2], forgetting=forgetting, weights=weights)

    return gap_to(
        side(point), [side(p) for p in reference.settings], data.untuned_values(point.records[0]).values[1::2]
    )


def _paired_test(data: StudyData, point: PointSummary, reference: PointSummary) -> Estimate | None:
    """Quality on the odd examples, point minus reference; None where seeds differ."""
    if point.seeds != reference.seeds:
        return None
    return estimate(quality_matrix(data, point)[:, 1::2] - quality_matrix(data, reference)[:, 1::2])


def tuned_rows(data: StudyData, tuned: dict[Method, Tuned]) -> list[list[str]]:
    """Each method at its chosen rate, in the order of `TUNED_HEADER`.

    P-values of the gaps are corrected by Holm's method.
    """
    reference = tuned.get("lora")
    others = {
        method: found for method, found in tuned.items() if reference is not None and found is not reference
    }
    found_gaps = (
        {method: against_frontier(data, found.chosen, reference) for method, found in others.items()}
        if reference
        else {}
    )
    gaps = {method: gap for method, gap in found_gaps.items() if gap is not None}
    adjusted = dict(zip(gaps, holm([gap.chord.p_value for gap in gaps.values()]), strict=True))
    rows = []
    for method, found in tuned.items():
        p, gap = found.chosen, gaps.get(method)
        rate = f"{found.rate:g}" + (f" (the grid's {found.at_edge})" if found.at_edge else "")
        compared = reference is not None and found is not reference
        rows.append(
            [
                METHODS[method].title,
                str(len(p.seeds)),
                rate,
                f"{quality_matrix(data, p)[:, 1::2].mean():.3f}",
                shown(_paired_test(data, p, reference.chosen)) if compared and reference else "-",
                f"{p.mean('forgetting'):+.3f}",
                shown(paired_forgetting(data, p, reference.chosen)) if compared and reference else "-",
                shown(None if gap is None else gap.chord),
                f"{adjusted[method]:.3f}" if method in adjusted else "-",
                "the reference"
                if found is reference
                else "-"
                if gap is None
                else gap.verdict(adjusted[method]),
            ]
        )
    return rows


def _is_baseline(record: TrialRecord) -> bool:
    return "baseline" in (record.plan.design, *record.plan.also_designs)


def _count_row(tuned: Tuned, points: Sequence[PointSummary], records: Sequence[TrialRecord]) -> list[str]:
    p, spec = tuned.chosen, METHODS[tuned.method]
    memory = [
        r.measured.memory_bytes[r.method]
        for q in points
        if q.method == tuned.method and "memory" in q.designs
        for r in q.records
        if r.measured.memory_bytes
    ]
    spent = sum(
        r.measured.train_seconds or 0.0
        for r in records
        if r.method == tuned.method and r.plan.regime == p.regime and _is_baseline(r)
    )
    times = [r.measured.step_time_ms or {} for r in p.records]
    return [
        spec.title,
        spec.source,
        f"{p.mean('adapter_parameters'):,.0f}",
        f"{p.mean('effective_parameters'):,.0f}",
        f"{np.mean(memory) / 1e6:.0f}" if memory else "-",
        f"{np.mean([t['mean'] for t in times]):.1f}",
        f"{np.mean([t['p99'] for t in times]):.1f}",
        f"{p.mean('adapter_seconds'):.2f}",
        str(tuned.trials),
        f"{spent:.0f}",
        str(tuned.lost),
    ]


def frontier_figure(tuned: dict[Method, Tuned], regime: str) -> Figure | None:
    """One panel a method: its curve over learning rates beside LoRA's and GRIT's."""
    if "lora" not in tuned or len(tuned) < 2:
        return None
    columns = min(6, len(tuned))
    figure, axes = new_figure(columns, rows=-(-len(tuned) // columns), width=1.9, height=1.9)
    for axis in axes[len(tuned) :]:
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
    for axis in axes[::columns]:
        axis.set_ylabel("quality", fontsize=7)
    figure.supxlabel("forgetting (nats/token; linear below 0.1, logarithmic above)", fontsize=8)
    n = min(len(p.seeds) for found in tuned.values() for p in found.settings)
    figure.suptitle(
        f"{regime}-matched, one point per learning rate, means over n = {n} seeds; bars: standard deviation",
        fontsize=8,
    )
    return figure


def _frontier_curve(
    axis: Axes, tuned: Tuned, colour: str, line: str, marker: str, *, label: str, bars: bool = False
) -> None:
    x, y = [p.mean("forgetting") for p in tuned.settings], [p.mean("quality") for p in tuned.settings]
    errors: dict[str, Any] = {}
    if bars:
        errors["xerr"] = [p.spread("forgetting") for p in tuned.settings]
        errors["yerr"] = [p.spread("quality") for p in tuned.settings]
    axis.errorbar(
        x,
        y,
        **errors,
        color=colour,
        linestyle=line,
        marker=marker,
        markersize=3,
        linewidth=1.0,
        elinewidth=0.6,
        alpha=1.0 if bars else 0.7,
        label=label,
    )


def _answer(rows: Sequence[Sequence[str]], regime: str, lost: Sequence[str]) -> str:
    """Where GRIT stands, in a sentence; then how many others stand above and below LoRA's frontier."""
    own = [row for row in rows if row[0] in ("GRIT", "Q-GRIT")]
    said = "; ".join(
        f"{row[0]} at its best learning rate: quality {row[4]} against LoRA's best; against LoRA's "
        f"frontier {row[7]}: {row[9]}"
        for row in own
    )
    above, below = (
        [row[0] for row in rows if row[9] == f"{side} LoRA's frontier"] for side in ("above", "below")
    )
    gone = f" Without a rate of which no seed was lost, and so not here: {', '.join(lost)}." if lost else ""
    return (
        f"{regime.capitalize()}-matched. {said or 'GRIT was not measured'}. After Holm's correction above "
        "LoRA's frontier: "
        f"{', '.join(above) or 'none'}; below: {', '.join(below) or 'none'}.{gone}"
    )


def build(data: StudyData, folder: Path) -> FamilyReport:
    """Writes the page, its tables and figures in the study's folder."""
    points = summarize_points(data.records)
    sections: list[Section] = []
    answer: list[str] = []
    for regime in ("step", "time"):
        tuned = tune(data, points, regime)
        if not tuned:
            continue
        rows = tuned_rows(data, tuned)
        planned = dict.fromkeys(r.method for r in data.records if r.plan.regime == regime and _is_baseline(r))
        answer.append(
            _answer(rows, regime, [METHODS[method].title for method in planned if method not in tuned])
        )
        same = "steps" if regime == "step" else "training seconds"
        sections += [
            Section(
                name=f"tuned_{regime}",
                title=f"Each method at its best learning rate, {regime}-matched",
                header=TUNED_HEADER,
                rows=rows,
                columns=(0, 2, 3, 4, 5, 7, 9),
                said=[
                    f"All have the same {same}, seeds, examples and grid of learning rates. The rate was "
                    "chosen on the even half of the "
                    "evaluation examples, quality and its difference are those of the odd half; forgetting "
                    "is measured on text that chose "
                    "nothing.",
                    "Against LoRA's frontier: quality minus what LoRA reaches at the same forgetting by "
                    "another learning rate (linear between "
                    "its points, from the untuned model; flat beyond its best). Between two points the "
                    "frontier lies above their chord, by an "
                    "unknown amount: `above` asks that LoRA's next harsher point is beaten too. At the "
                    "grid's edge, better may lie beyond.",
                ],
            ),
            Section(
                name=f"frontier_{regime}",
                title=f"Quality against forgetting over learning rates, {regime}-matched",
                figure=partial(frontier_figure, tuned, regime),
                caption="Each method's curve over the learning rate beside LoRA's (squares) and "
                "GRIT's (triangles). Up and to the left is better.",
            ),
            Section(
                name=f"counts_{regime}",
                title=f"What each costs, {regime}-matched",
                header=COUNT_HEADER,
                rows=[_count_row(found, points, data.records) for found in tuned.values()],
                said=[
                    "Counted alike: parameters that are trained, those that act at the end, the peak of "
                    "resident (or GPU) memory over a few "
                    "steps in a fresh process, step times of the chosen rate, and what tuning cost in "
                    "trials and training seconds."
                ],
            ),
        ]
    answer = answer or ["No method has all its trials yet."]
    page = FamilyReport(
        title="Baselines: each at its own learning rate",
        answer=answer,
        sections=sections,
        limits=[
            "One rank and one schedule for all, published settings for what is each method's own "
            "(grit/config/registry.py, grit/adapters/peft_adapters.py): tuning these too "
            "may change the order.",
            "Shampoo's roots are found by Newton's iteration every 10 steps, grafted to a signed step's "
            "size.",
        ],
    )
    return write_family(page, [data], folder)
