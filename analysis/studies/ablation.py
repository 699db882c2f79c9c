"""The report of `sweeps/ablation.py`.

One-sided against two-sided first, then every switch alone, then the paper's claims.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from analysis.data.load import StudyData
from analysis.data.points import (
    PointSummary,
    of_one_regime,
    paired_forgetting,
    paired_quality,
    summarize_points,
)
from analysis.page.family import FamilyReport, Section, write_family
from analysis.page.style import SEQUENTIAL, new_figure
from analysis.page.tables import shown
from analysis.stats.estimates import Estimate, holm
from grit.config.registry import METHODS

#: The paper's Table 11: (model, task) to accuracy or ROUGE-L and trained parameters in millions, for QLoRA,
#: Q-GRIT-uni and Q-GRIT.
PAPER: dict[tuple[str, str], dict[str, tuple[float, float]]] = {
    ("meta-llama/Llama-3.2-3B", "alpaca"): {
        "qlora": (0.0983, 24.31),
        "qgrit-uni": (0.1024, 8.68),
        "qgrit": (0.1127, 8.45),
    },
    ("meta-llama/Llama-3.2-3B", "dolly"): {
        "qlora": (0.0884, 24.31),
        "qgrit-uni": (0.0921, 16.99),
        "qgrit": (0.0968, 17.0),
    },
    ("meta-llama/Llama-3.2-3B", "gsm8k"): {
        "qlora": (0.3836, 24.31),
        "qgrit-uni": (0.3798, 17.86),
        "qgrit": (0.3779, 17.43),
    },
    ("meta-llama/Llama-3.1-8B", "alpaca"): {
        "qlora": (0.1047, 83.89),
        "qgrit-uni": (0.1059, 27.63),
        "qgrit": (0.1327, 30.85),
    },
    ("meta-llama/Llama-3.1-8B", "dolly"): {
        "qlora": (0.0950, 83.89),
        "qgrit-uni": (0.1427, 49.22),
        "qgrit": (0.1471, 38.14),
    },
    ("meta-llama/Llama-3.1-8B", "gsm8k"): {
        "qlora": (0.6315, 83.89),
        "qgrit-uni": (0.6202, 67.19),
        "qgrit": (0.6224, 67.57),
    },
}
FAMILY_HEADER = (
    "method",
    "n",
    "quality",
    "effective parameters",
    "of full",
    "training s",
    "retention",
    "quality vs two-sided [95%]",
    "forgetting vs two-sided [95%]",
    "verdict",
    "B's own basis from step",
    "paper: quality, parameters",
)
SWITCH_HEADER = (
    "switch",
    "n",
    "quality",
    "vs default [95%]",
    "p (Holm)",
    "forgetting vs default [95%]",
    "overhead",
    "footprint",
    "training s",
    "verdict",
)
#: Quality, or nats per token of forgetting, by which an inconclusive difference may lean against a verdict.
LEAN = 0.02
CLAIM_HEADER = ("claim of the paper", "measured here", "verdict", "trials that say so")


@dataclass(frozen=True, kw_only=True)
class AblationReport:
    """Rows of the three tables, in the orders of the headers above."""

    family: list[list[str]]
    switches: list[list[str]]
    claims: list[list[str]]


def _name(p: PointSummary) -> str:
    """The method with `-uni` where only A's basis is used."""
    one_sided = dict(p.records[0].plan.overrides if p.records else {}).get("two_sided") is False
    return p.method + ("-uni" if one_sided else "")


def verdict(quality: Estimate | None, forgetting: Estimate | None) -> str:
    """One word for both.

    `better` or `worse` where quality or forgetting says so and the other, if it is inconclusive, does not
    lean the other way by more than `LEAN`; `mixed` where they disagree; `changed nothing` where every value
    is the same; else `inconclusive`.
    """
    pairs = [(found, sign) for found, sign in ((quality, 1), (forgetting, -1)) if found is not None]
    if pairs and all(found.mean == found.low == found.high == 0 for found, _ in pairs):
        return "changed nothing"
    said = {found.verdict(higher_is_better=sign > 0) for found, sign in pairs} - {"inconclusive"}
    if len(said) != 1:
        return "mixed" if said else "inconclusive"
    word = said.pop()
    against = [
        sign * found.mean * (-1 if word == "better" else 1)
        for found, sign in pairs
        if found.verdict() == "inconclusive"
    ]
    return "inconclusive" if any(lean > LEAN for lean in against) else word


def own_basis_step(data: StudyData, p: PointSummary) -> str:
    """Median over seeds of the first step at which B was projected by its own basis.

    The gate of the gradient side.
    """
    steps = []
    for record in p.records:
        rows = data.telemetry(record)
        found = [
            event["step"]
            for text in rows["events"]
            if text
            for event in json.loads(text)
            if event["kind"] == "reprojection" and event["trigger"] != "end" and event["two_sided"]
        ]
        steps += found[:1]
    return f"{statistics.median(steps):g}" if steps else "never"


def analyse(data: StudyData) -> AblationReport:
    """All numbers."""
    points = [p for p in of_one_regime(summarize_points(data.records))[0] if p.records]
    default = _default(data, points)
    switches = [p for p in points if p is not default and p.designs & {"switch", "grid", "list"}]
    return AblationReport(
        family=_family(data, points),
        switches=_switches(data, switches, default),
        claims=_claims(data, points),
    )


def _default(data: StudyData, points: Sequence[PointSummary]) -> PointSummary | None:
    method = data.study["config"]["method"]
    return next((p for p in points if p.method == method and not p.records[0].plan.overrides), None)


def _family(data: StudyData, points: Sequence[PointSummary]) -> list[list[str]]:
    named = {_name(p): p for p in reversed(points) if p.designs & {"family", "control"}}
    key = (data.study["config"]["model"], data.study["config"]["task"]["name"])
    rows = []
    for name in ("qlora", "qgrit-uni", "qgrit", "lora", "grit-uni", "grit"):
        if name not in named:
            continue
        p, whole = named[name], named.get("qgrit" if name.startswith("q") else "grit")
        against = whole is not None and whole is not p
        quality = paired_quality(data, p, whole) if against and whole is not None else None
        forgetting = paired_forgetting(data, p, whole) if against and whole is not None else None
        printed = PAPER.get(key, {}).get(name)
        rows.append(
            [
                METHODS[p.method].title + ("-uni" if name.endswith("-uni") else ""),
                str(len(p.seeds)),
                f"{p.mean('quality'):.3f} ± {p.spread('quality'):.3f}",
                f"{p.mean('effective_parameters'):,.0f}",
                f"{p.mean('footprint'):.0%}",
                f"{p.mean('train_seconds'):.1f}",
                f"{p.mean('retention'):.3f}",
                shown(quality),
                shown(forgetting),
                verdict(quality, forgetting) if against else "the reference",
                own_basis_step(data, p) if p.tau is not None else "-",
                "-" if printed is None else f"{printed[0]:.4f}, {printed[1]:.2f} M",
            ]
        )
    return rows


def _switches(
    data: StudyData, points: Sequence[PointSummary], default: PointSummary | None
) -> list[list[str]]:
    if default is None:
        return []
    deltas = [paired_quality(data, p, default) for p in points]
    adjusted = dict(
        zip(
            [i for i, d in enumerate(deltas) if d is not None],
            holm([d.p_value for d in deltas if d is not None]),
            strict=True,
        )
    )
    rows = []
    for i, p in enumerate(points):
        forgetting = paired_forgetting(data, p, default)
        label = ", ".join(
            f"{name} = {'none' if value is None else value}" for name, value in p.records[0].plan.overrides.items()
        )
        rows.append(
            [
                label,
                str(len(p.seeds)),
                f"{p.mean('quality'):.3f} ± {p.spread('quality'):.3f}",
                shown(deltas[i]),
                f"{adjusted[i]:.3f}" if i in adjusted else "-",
                shown(forgetting),
                f"{p.mean('overhead'):.1%}",
                f"{p.mean('footprint'):.0%}",
                f"{p.mean('train_seconds'):.1f}",
                verdict(deltas[i], forgetting),
            ]
        )
    return rows


def _claims(data: StudyData, points: Sequence[PointSummary]) -> list[list[str]]:
    """Each claim with what this study measured of it, and whether that confirms it.

    On this backbone and task, and nothing more.
    """
    named = {_name(p): p for p in reversed(points) if p.designs & {"family", "control"}}
    method = str(data.study["config"]["method"])
    mine, control = named.get(method), named.get("qlora" if method == "qgrit" else "lora")
    if mine is None or control is None:
        return []
    saved = 1 - mine.mean("footprint")
    quality, forgetting = paired_quality(data, mine, control), paired_forgetting(data, mine, control)
    epsilon = 0.03 * max(abs(control.mean("quality")), 1e-9)  # the paper: within 1 to 3% on median metrics
    parity = quality is not None and (quality.low >= -epsilon)
    disproved = quality is not None and quality.high < -epsilon
    drift = "-" if forgetting is None else forgetting.verdict(higher_is_better=False)
    rate = 1000 * mine.mean("reprojections") / mine.mean("steps")
    cost = mine.mean("train_seconds") / control.mean("train_seconds") - 1
    ours, theirs = (" ".join(r.trial_id for r in point.records) for point in (mine, control))
    runs = f"{ours} against {theirs}"
    found = [
        [
            "46% fewer trained parameters on average (30 to 68%)",
            f"{saved:.0%} fewer",
            "confirmed" if 0.30 <= saved else "not confirmed",
        ],
        [
            "quality parity with LoRA or QLoRA (within 1 to 3%)",
            shown(quality),
            "confirmed"
            if parity
            else "not confirmed"
            if disproved
            else "not decided: the interval reaches beyond 3%",
        ],
        [
            "lower drift (less forgetting)",
            f"{shown(forgetting)} nats/token",
            {"better": "confirmed", "worse": "not confirmed: it forgets more"}.get(
                drift, "not decided: the interval holds zero"
            ),
        ],
        [
            "6 to 10% more time a step",
            f"geometry {mine.mean('overhead'):.1%} of a step; {cost:+.1%} training seconds",
            "not above 10%" if mine.mean("overhead") <= 0.10 else "not confirmed",
        ],
        [
            "1.8 to 2.4 reprojections per 1,000 steps",
            f"{rate:.1f} per 1,000 steps, by the cadence that was set",
            "not tested here: T is set, not found",
        ],
    ]
    return [[*row, runs] for row in found]


def build(data: StudyData, folder: Path) -> FamilyReport:
    """Writes the page, its tables and figures in the study's folder."""
    report = analyse(data)
    family = Section(
        name="family",
        title="One-sided against two-sided",
        header=FAMILY_HEADER,
        rows=report.family,
        columns=(0, 1, 2, 4, 5, 6, 7, 8, 9),
        said=[
            "Differences are paired by seed and by example (or document), with 95% intervals "
            "(docs/studies.md); an interval that holds zero is "
            'inconclusive. "-uni" projects B by A\'s basis.',
            "The verdict joins quality and forgetting: it is mixed where one is better and the other "
            "worse, and inconclusive as well where the one "
            "that is better stands beside another that may be much worse.",
        ],
    )
    sections = [
        family,
        Section(
            name="switches",
            title="Each switch alone, against the default",
            header=SWITCH_HEADER,
            rows=report.switches,
        ),
        Section(
            name="heatmap",
            title="Every metric of every setting",
            figure=lambda: heatmap(data),
            caption="As the paper's A.13: every metric's mean over seeds, each column shaded from its "
            "worst value to its best.",
        ),
        Section(
            name="claims",
            title="Paper against measured",
            header=CLAIM_HEADER,
            rows=report.claims,
            said=["On this backbone and task alone, and at one learning rate."],
        ),
    ]
    method, task = data.study["config"]["method"], data.study["config"]["task"]["name"]
    page = FamilyReport(
        title=f"Ablations: {method} on {task}",
        answer=_answer(report),
        sections=sections,
        limits=[
            "One learning rate for all: a method may look gentle by learning less. Compare quality and "
            "forgetting together."
        ],
    )
    return write_family(page, [data], folder)


def _answer(report: AblationReport) -> list[str]:
    """The verdicts of the family in one sentence."""
    said = [f"{row[0]} {row[9]}" for row in report.family if row[9] != "the reference"]
    return (
        [
            "Against two-sided GRIT on the same backbone, in quality and forgetting together: "
            f"{', '.join(said)}."
        ]
        if said
        else ["The six methods of the one-sided comparison were not measured."]
    )


def heatmap(data: StudyData) -> Figure | None:
    """Settings by metrics: the numbers, shaded per column from worst to best."""
    points = [p for p in summarize_points(data.records) if p.records]
    names = list(dict.fromkeys(name for p in points for r in p.records for name in r.measured.metrics or {}))
    columns = [("quality", 1), ("retention", 1), ("footprint", -1), *((name, 1) for name in names)]
    values = np.array([[_metric(p, name) for name, _ in columns] for p in points])
    if len(points) < 2:
        return None
    labels = [_label(p) for p in points]
    figure, (axis,) = new_figure(1, width=2.6 + 0.75 * len(columns), height=0.9 + 0.2 * len(points))
    shade = np.full(values.shape, 0.5)
    for j, (_, sign) in enumerate(columns):
        column = sign * values[:, j]
        low, high = np.nanmin(column), np.nanmax(column)
        shade[:, j] = (column - low) / (high - low) if high > low else 0.5
    axis.imshow(shade, cmap=SEQUENTIAL, aspect="auto", vmin=0, vmax=1)
    for i, j in np.ndindex(values.shape):
        axis.text(
            j,
            i,
            "-" if np.isnan(values[i, j]) else f"{values[i, j]:.3f}",
            ha="center",
            va="center",
            fontsize=6,
            color="black" if shade[i, j] > 0.5 else "white",
        )
    axis.set_xticks(
        range(len(columns)),
        [points[0].quality_metric if name == "quality" else name for name, _ in columns],
        rotation=30,
        ha="right",
    )
    axis.set_yticks(range(len(points)), labels, fontsize=6)
    axis.grid(False)
    axis.set_title(f"means over n = {min(len(p.seeds) for p in points)} seeds")
    return figure


def _metric(p: PointSummary, name: str) -> float:
    """Mean over seeds of one of the four objectives or of a further metric; NaN where a seed has none."""
    if name in ("quality", "retention", "footprint"):
        return p.mean(name)
    values = [(r.measured.metrics or {}).get(name, {}).get("value") for r in p.records]
    known = [float(value) for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else float("nan")


def _label(p: PointSummary) -> str:
    overrides = ", ".join(
        f"{name}={'none' if value is None else value}" for name, value in p.records[0].plan.overrides.items()
    )
    return METHODS[p.method].title + (f": {overrides}" if overrides else "")
