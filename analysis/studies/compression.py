"""The report of `sweeps/compression.py`.

Train at k, or train at r and keep k directions, at equal exported parameters.

Every way has the same grid of learning rates; a rate is chosen on the even half of the evaluation examples
and judged on the odd half.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from analysis.data.load import StudyData
from analysis.data.points import (
    PointSummary,
    forgetting_matrix,
    of_one_regime,
    quality_matrix,
    summarize_points,
)
from analysis.page.family import FamilyReport, Section, write_family
from analysis.page.style import SHADES, STROKES, new_figure
from analysis.page.tables import shown
from analysis.stats.arrays import Floats
from analysis.stats.estimates import Estimate, estimate

HEADER = (
    "k",
    "way",
    "n",
    "learning rate",
    "parameters",
    "file (bytes)",
    "quality (test half)",
    "vs trained at k [95%]",
    "answer loss",
    "forgetting",
    "vs trained at k [95%]",
    "verdict",
)
RANKS_HEADER = (
    "adapter",
    "learning rate",
    "parameters",
    "file (bytes)",
    "quality (test half)",
    "vs GRIT [95%]",
    "forgetting",
    "vs GRIT [95%]",
)
AT_K, WAYS_AFTER = "trained at k", ("svd", "one_sided", "two_sided", "balanced")


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to have an adapter of k directions, at one learning rate.

    `quality` (seeds, examples), `forgetting` (seeds, documents).
    """

    k: str
    way: str
    rate: float
    quality: Floats
    forgetting: Floats
    weights: Floats
    answer_loss: float
    parameters: float
    size: float
    at_edge: bool = False

    @property
    def shown_rate(self) -> str:
        """The learning rate, marked where it is the lowest or highest of several."""
        return f"{self.rate:g}" + ("*" if self.at_edge else "")

    @property
    def validation(self) -> float:
        """Mean quality on the examples that choose."""
        return float(self.quality[:, ::2].mean())

    @property
    def mean_forgetting(self) -> float:
        """Nats per token."""
        return float(np.average(self.forgetting.mean(axis=0), weights=self.weights))


def trained_arm(data: StudyData, p: PointSummary, k: str, way: str, rate: float) -> Arm:
    """An arm that is a trial of its own."""
    forgetting, weights = forgetting_matrix(data, p)
    return Arm(
        k=k,
        way=way,
        rate=rate,
        quality=quality_matrix(data, p),
        forgetting=forgetting,
        weights=weights,
        answer_loss=p.mean("answer_loss"),
        parameters=p.mean("effective_parameters"),
        size=p.mean("exported_bytes"),
    )


def truncated_arms(data: StudyData, p: PointSummary, rate: float) -> list[Arm]:
    """The arms that one trained adapter was truncated to, way by way and k by k."""
    tables = [data.table("truncated", record) for record in p.records]
    arms = []
    for way, k in dict.fromkeys((row["way"], row["k"]) for row in tables[0]):
        chosen = [[row for row in rows if (row["way"], row["k"]) == (way, k)] for rows in tables]

        def matrix(kind: str, name: str, chosen: list[list[dict[str, Any]]] = chosen) -> Floats:
            return np.array(
                [[row[name] for row in rows if row["kind"] == kind] for rows in chosen], dtype=float
            )

        arms.append(
            Arm(
                k=k,
                way=f"truncated after training: {way}",
                rate=rate,
                quality=matrix("task", "value"),
                forgetting=matrix("retention", "value"),
                weights=matrix("retention", "tokens")[0],
                answer_loss=float(matrix("task", "loss").mean()),
                parameters=float(np.mean([rows[0]["parameters"] for rows in chosen])),
                size=float(np.mean([rows[0]["bytes"] for rows in chosen])),
            )
        )
    return arms


def all_arms(data: StudyData) -> list[Arm]:
    """Every arm at every learning rate of which no seed was lost."""
    found: list[Arm] = []
    for p in of_one_regime(summarize_points(data.records))[0]:
        overrides = p.records[0].plan.overrides if p.records else {}
        if not p.records or p.lost or p.planned or "learning_rate" not in overrides:
            continue
        rate = float(overrides["learning_rate"])
        if "at k" in p.designs:
            found.append(trained_arm(data, p, str(overrides["rank"]), AT_K, rate))
        elif "reproject" in p.designs:
            basis = (
                "balanced"
                if overrides.get("basis") == "balanced"
                else "one-sided"
                if overrides.get("two_sided") is False
                else "two-sided"
            )
            found.append(
                trained_arm(data, p, str(overrides["reprojection_k"]), f"reprojected: {basis}", rate)
            )
        elif "grit" in p.designs:
            found.append(trained_arm(data, p, "tau", "GRIT", rate))
        elif "after" in p.designs:
            found += [trained_arm(data, p, "r", "LoRA, whole", rate), *truncated_arms(data, p, rate)]
    return found


def best_arms(arms: Sequence[Arm]) -> dict[tuple[str, str], Arm]:
    """Of each way and k the arm whose learning rate the even examples choose."""
    best: dict[tuple[str, str], Arm] = {}
    for arm in arms:
        key = (arm.k, arm.way)
        if key not in best or arm.validation > best[key].validation:
            best[key] = arm
    rates = {key: [arm.rate for arm in arms if (arm.k, arm.way) == key] for key in best}
    return {
        key: replace(arm, at_edge=len(rates[key]) > 1 and arm.rate in (min(rates[key]), max(rates[key])))
        for key, arm in best.items()
    }


def quality_gap(arm: Arm, reference: Arm) -> Estimate | None:
    """Quality on the odd examples minus the reference's; None where seeds differ in number."""
    return (
        estimate((arm.quality - reference.quality)[:, 1::2])
        if arm.quality.shape == reference.quality.shape
        else None
    )


def forgetting_gap(arm: Arm, reference: Arm) -> Estimate | None:
    """Forgetting minus the reference's, in nats per token."""
    return (
        estimate(arm.forgetting - reference.forgetting, arm.weights)
        if arm.forgetting.shape == reference.forgetting.shape
        else None
    )


def _verdict(quality: Estimate | None, forgetting: Estimate | None) -> str:
    if quality is None or forgetting is None:
        return "-"
    said = (quality.verdict(), forgetting.verdict(higher_is_better=False))
    return "inconclusive" if set(said) == {"inconclusive"} else f"quality {said[0]}, forgetting {said[1]}"


def rows_of(best: dict[tuple[str, str], Arm]) -> list[list[str]]:
    """The table at fixed k, in the order of `HEADER`."""
    rows = []
    for k in sorted({k for k, _ in best if k.isdigit()}, key=int):
        reference = best.get((k, AT_K))
        for (_, way), arm in sorted(
            ((key, arm) for key, arm in best.items() if key[0] == k),
            key=lambda item: (item[0][1] != AT_K, item[0][1]),
        ):
            other = None if reference is None or arm is reference else reference
            quality, forgetting = (
                (None, None) if other is None else (quality_gap(arm, other), forgetting_gap(arm, other))
            )
            rows.append(
                [
                    k,
                    way,
                    str(len(arm.quality)),
                    arm.shown_rate,
                    f"{arm.parameters:,.0f}",
                    f"{arm.size:,.0f}",
                    f"{arm.quality[:, 1::2].mean():.3f}",
                    shown(quality),
                    f"{arm.answer_loss:.3f}",
                    f"{arm.mean_forgetting:+.3f}",
                    shown(forgetting),
                    "the reference" if arm is reference else _verdict(quality, forgetting),
                ]
            )
    return rows


def rank_rows(best: dict[tuple[str, str], Arm]) -> list[list[str]]:
    """GRIT as it is, and what is left of a trained LoRA at the ranks that GRIT's rule finds in it.

    In the order of `RANKS_HEADER`.
    """
    reference = best.get(("tau", "GRIT"))
    rows = []
    for (k, way), arm in best.items():
        if k not in ("tau", "r"):
            continue
        other = None if reference is None or arm is reference else reference
        rows.append(
            [
                way,
                arm.shown_rate,
                f"{arm.parameters:,.0f}",
                f"{arm.size:,.0f}",
                f"{arm.quality[:, 1::2].mean():.3f}",
                "-" if other is None else shown(quality_gap(arm, other)),
                f"{arm.mean_forgetting:+.3f}",
                "-" if other is None else shown(forgetting_gap(arm, other)),
            ]
        )
    return rows


def answer(best: dict[tuple[str, str], Arm]) -> list[str]:
    """Per k: which ways are better or worse than training at k beyond noise, in quality and in forgetting."""
    said = []
    for k in sorted({k for k, _ in best if k.isdigit()}, key=int):
        reference = best.get((k, AT_K))
        if reference is None:
            continue
        others = [(way, arm) for (mine, way), arm in best.items() if mine == k and arm is not reference]
        parts = []
        for what, gap, higher in (("quality", quality_gap, True), ("forgetting", forgetting_gap, False)):
            found = {way: gap(arm, reference) for way, arm in others}
            words = {
                word: [
                    way
                    for way, e in found.items()
                    if e is not None and e.verdict(higher_is_better=higher) == word
                ]
                for word in ("better", "worse")
            }
            told = [f"{word}: {', '.join(ways)}" for word, ways in words.items() if ways]
            parts.append(f"{what} {'; '.join(told) or 'told apart for none'}")
        said.append(
            f"k = {k}: {len(others)} ways to have {k} directions of more, against LoRA trained at {k} with "
            "a learning rate of its own: "
            f"{', '.join(parts[:1])}; {parts[1]}."
        )
    return said


def against_k(best: dict[tuple[str, str], Arm]) -> Figure | None:
    """Quality, answer loss and forgetting against k, one line a way."""
    ks = sorted({int(k) for k, _ in best if k.isdigit()})
    ways = list(dict.fromkeys(way for k, way in best if k.isdigit()))
    if not ks or not ways:
        return None
    figure, axes = new_figure(3, width=3.1, height=3.2)
    for number, way in enumerate(sorted(ways, key=lambda way: (way != AT_K, way))):
        arms = [(k, best[str(k), way]) for k in ks if (str(k), way) in best]
        style: dict[str, Any] = {
            "color": SHADES[number % len(SHADES)],
            "linestyle": STROKES[number % len(STROKES)],
            "marker": "so^vDPX*"[number % 8],
            "markersize": 4,
        }
        found = [estimate(arm.quality[:, 1::2]) for _, arm in arms]
        losses = [estimate(arm.forgetting, arm.weights) for _, arm in arms]
        place = [x * (1 + 0.02 * (number - len(ways) / 2)) for x, _ in arms]
        axes[0].errorbar(
            place, [e.mean for e in found], yerr=_bars(found), elinewidth=0.6, label=way, **style
        )
        axes[1].plot(place, [arm.answer_loss for _, arm in arms], **style)
        axes[2].errorbar(place, [e.mean for e in losses], yerr=_bars(losses), elinewidth=0.6, **style)
    for axis, label in zip(
        axes, ("quality (test half)", "answer loss (nats/token)", "forgetting (nats/token)"), strict=True
    ):
        axis.set_xscale("log", base=2)
        axis.set_xticks(ks, [str(k) for k in ks])
        axis.set_xlabel("directions k that are exported")
        axis.set_ylabel(label)
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside lower center", ncol=3, frameon=False, fontsize=6
    )
    n = min(len(arm.quality) for arm in best.values())
    figure.suptitle(f"each at its own learning rate; means over n = {n} seeds with 95% intervals", fontsize=8)
    return figure


def _bars(found: Sequence[Estimate]) -> Floats:
    return np.array([[max(0.0, e.mean - e.low) for e in found], [max(0.0, e.high - e.mean) for e in found]])


def build(data: StudyData, folder: Path) -> FamilyReport:
    """Writes the page, its tables and figures in the study's folder."""
    best = best_arms(all_arms(data))
    rank = data.study["config"]["rank"]
    sections = [
        Section(
            name="compression",
            title="At equal exported parameters",
            header=HEADER,
            rows=rows_of(best),
            columns=(0, 1, 3, 4, 6, 7, 9, 10),
            said=[
                f"Trained at k: LoRA of rank k. Reprojected: rank {rank}, cut to k directions from the "
                "middle of the run on. Truncated after: LoRA of "
                f"rank {rank}, cut once it is trained; svd is the best approximation of the update itself, "
                "the others choose by curvature. PEFT's own "
                "conversion at a fixed rank is svd, number for number.",
                "File sizes are those of PEFT adapters as written to disk.",
            ],
        ),
        Section(
            name="against_k",
            title="Against k",
            figure=partial(against_k, best),
            caption="Quality, answer loss and forgetting against k, each way at its own learning rate.",
        ),
        Section(
            name="ranks",
            title="At the ranks that GRIT's rule finds",
            header=RANKS_HEADER,
            rows=rank_rows(best),
            said=[
                "GRIT as it is, with its own ranks per module; and LoRA truncated after training to the "
                "ranks that the same rule (tau) finds in its own "
                "curvature. peft: PEFT's conversion, which keeps the share tau of each update's energy."
            ],
        ),
    ]
    page = FamilyReport(
        title="Compression: train at k, or train at r and keep k?",
        answer=answer(best) or ["No way has all its trials yet."],
        sections=sections,
        limits=[
            *of_one_regime(summarize_points(data.records))[1],
            "A learning rate at the edge of the grid (marked *) means that a better one may lie beyond; "
            "some of many comparisons "
            "come out by chance.",
            "Reprojection to k begins in the middle of the run, at the study's cadence: other schedules "
            "may do better or worse.",
        ],
    )
    return write_family(page, [data], folder)
