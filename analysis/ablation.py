"""The report of `sweeps/ablation.py`: one-sided against two-sided first, then every switch alone, then the paper's claims."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.load import StudyData
from analysis.page import render
from analysis.points import PointSummary, paired_forgetting, paired_quality, summarize_points
from analysis.recommend import METHODS
from analysis.sensitivity import tables
from analysis.statistics import Estimate, holm, shown
from grit.disk import write_atomically

#: The paper's Table 11: (model, task) to accuracy or ROUGE-L and trained parameters in millions, for QLoRA, Q-GRIT-uni and Q-GRIT.
PAPER: dict[tuple[str, str], dict[str, tuple[float, float]]] = {
    ("meta-llama/Llama-3.2-3B", "alpaca"): {"qlora": (0.0983, 24.31), "qgrit-uni": (0.1024, 8.68), "qgrit": (0.1127, 8.45)},
    ("meta-llama/Llama-3.2-3B", "dolly"): {"qlora": (0.0884, 24.31), "qgrit-uni": (0.0921, 16.99), "qgrit": (0.0968, 17.0)},
    ("meta-llama/Llama-3.2-3B", "gsm8k"): {"qlora": (0.3836, 24.31), "qgrit-uni": (0.3798, 17.86), "qgrit": (0.3779, 17.43)},
    ("meta-llama/Llama-3.1-8B", "alpaca"): {"qlora": (0.1047, 83.89), "qgrit-uni": (0.1059, 27.63), "qgrit": (0.1327, 30.85)},
    ("meta-llama/Llama-3.1-8B", "dolly"): {"qlora": (0.0950, 83.89), "qgrit-uni": (0.1427, 49.22), "qgrit": (0.1471, 38.14)},
    ("meta-llama/Llama-3.1-8B", "gsm8k"): {"qlora": (0.6315, 83.89), "qgrit-uni": (0.6202, 67.19), "qgrit": (0.6224, 67.57)},
}
FAMILY_HEADER = ("method", "n", "quality", "effective parameters", "of full", "training s", "retention", "quality vs two-sided [95%]",
                 "forgetting vs two-sided [95%]", "verdict", "B's own basis from step", "paper: quality, parameters")
SWITCH_HEADER = ("switch", "n", "quality", "vs default [95%]", "p (Holm)", "forgetting vs default [95%]", "overhead", "footprint", "training s",
                 "verdict")
#: Quality, or nats per token of forgetting, by which an inconclusive difference may lean against a verdict.
LEAN = 0.02
CLAIM_HEADER = ("claim of the paper", "measured here", "verdict")


@dataclass(frozen=True, kw_only=True)
class AblationReport:
    """Rows of the three tables, in the orders of the headers above."""

    family: list[list[str]]
    switches: list[list[str]]
    claims: list[list[str]]


def _name(p: PointSummary) -> str:
    """The method with `-uni` where only A's basis is used."""
    one_sided = dict(p.records[0].overrides if p.records else {}).get("two_sided") is False
    return p.method + ("-uni" if one_sided else "")


def verdict(quality: Estimate | None, forgetting: Estimate | None) -> str:
    """One word for both.

    `better` or `worse` where quality or forgetting says so and the other, if it is inconclusive, does not lean the other way by more than
    `LEAN`; `mixed` where they disagree; `changed nothing` where every value is the same; else `inconclusive`.
    """
    pairs = [(found, sign) for found, sign in ((quality, 1), (forgetting, -1)) if found is not None]
    if pairs and all(found.mean == found.low == found.high == 0 for found, _ in pairs):
        return "changed nothing"
    said = {found.verdict(higher_is_better=sign > 0) for found, sign in pairs} - {"inconclusive"}
    if len(said) != 1:
        return "mixed" if said else "inconclusive"
    word = said.pop()
    against = [sign * found.mean * (-1 if word == "better" else 1) for found, sign in pairs if found.verdict() == "inconclusive"]
    return "inconclusive" if any(lean > LEAN for lean in against) else word


def own_basis_step(data: StudyData, p: PointSummary) -> str:
    """Median over seeds of the first step at which B was projected by its own basis: the gate of the gradient side."""
    steps = []
    for record in p.records:
        rows = data.telemetry(record)
        found = [event["step"] for text in rows["events"] if text for event in json.loads(text)
                 if event["kind"] == "reprojection" and event["trigger"] != "end" and event["two_sided"]]
        steps += found[:1]
    return f"{statistics.median(steps):g}" if steps else "never"


def analyse(data: StudyData) -> AblationReport:
    """All numbers."""
    points = [p for p in summarize_points(data.records) if p.records]
    default = _default(data, points)
    switches = [p for p in points if p is not default and p.designs & {"switch", "grid", "list"}]
    return AblationReport(family=_family(data, points), switches=_switches(data, switches, default), claims=_claims(data, points))


def _default(data: StudyData, points: Sequence[PointSummary]) -> PointSummary | None:
    method = data.study["config"]["method"]
    return next((p for p in points if p.method == method and not p.records[0].overrides), None)


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
        rows.append([
            METHODS[p.method] + ("-uni" if name.endswith("-uni") else ""), str(len(p.seeds)),
            f"{p.mean('quality'):.3f} ± {p.spread('quality'):.3f}",
            f"{p.mean('effective_parameters'):,.0f}", f"{p.mean('footprint'):.0%}", f"{p.mean('train_seconds'):.1f}", f"{p.mean('retention'):.3f}",
            shown(quality), shown(forgetting), verdict(quality, forgetting) if against else "the reference",
            own_basis_step(data, p) if p.tau is not None else "-", "-" if printed is None else f"{printed[0]:.4f}, {printed[1]:.2f} M"])
    return rows


def _switches(data: StudyData, points: Sequence[PointSummary], default: PointSummary | None) -> list[list[str]]:
    if default is None:
        return []
    deltas = [paired_quality(data, p, default) for p in points]
    adjusted = dict(zip([i for i, d in enumerate(deltas) if d is not None], holm([d.p_value for d in deltas if d is not None]), strict=True))
    rows = []
    for i, p in enumerate(points):
        forgetting = paired_forgetting(data, p, default)
        label = ", ".join(f"{name} = {'none' if value is None else value}" for name, value in p.records[0].overrides.items())
        rows.append([label, str(len(p.seeds)), f"{p.mean('quality'):.3f} ± {p.spread('quality'):.3f}", shown(deltas[i]),
                     f"{adjusted[i]:.3f}" if i in adjusted else "-", shown(forgetting), f"{p.mean('overhead'):.1%}",
                     f"{p.mean('footprint'):.0%}", f"{p.mean('train_seconds'):.1f}", verdict(deltas[i], forgetting)])
    return rows


def _claims(data: StudyData, points: Sequence[PointSummary]) -> list[list[str]]:
    """Each claim with what this study measured of it, and whether that confirms it: on this backbone and task, and nothing more."""
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
    return [
        ["46% fewer trained parameters on average (30 to 68%)", f"{saved:.0%} fewer", "confirmed" if 0.30 <= saved else "not confirmed"],
        ["quality parity with LoRA or QLoRA (within 1 to 3%)", shown(quality),
         "confirmed" if parity else "not confirmed" if disproved else "not decided: the interval reaches beyond 3%"],
        ["lower drift (less forgetting)", f"{shown(forgetting)} nats/token",
         {"better": "confirmed", "worse": "not confirmed: it forgets more"}.get(drift, "not decided: the interval holds zero")],
        ["6 to 10% more time a step", f"geometry {mine.mean('overhead'):.1%} of a step; {cost:+.1%} training seconds",
         "confirmed" if mine.mean("overhead") <= 0.10 else "not confirmed"],
        ["1.8 to 2.4 reprojections per 1,000 steps", f"{rate:.1f} per 1,000 steps, by the cadence that was set",
         "not tested here: T is set, not found"]]


def build(data: StudyData, folder: Path) -> AblationReport:
    """Writes `report.html`, `report.md` and `tables/` in the study's folder."""
    report = analyse(data)
    parts = (("family", "One-sided against two-sided", FAMILY_HEADER, report.family),
             ("switches", "Each switch alone, against the default", SWITCH_HEADER, report.switches),
             ("claims", "Paper against measured", CLAIM_HEADER, report.claims))
    (folder / "tables").mkdir(exist_ok=True)
    written: dict[str, str] = {}
    for name, _, header, rows in parts:
        written |= tables(name, header, rows)
    for file, text in written.items():
        write_atomically(folder / "tables" / file, text)
    context: dict[str, Any] = {"study": data.study, "parts": parts, "lost": [r for r in data.records if r.status != "completed"],
                               "total": len(data.records), "seeds": sorted({r.seed for r in data.records})}
    write_atomically(folder / "report.html", render("ablation.html.j2", **context))
    text = "# Ablations\n\n" + "\n".join(f"## {title}\n\n{written[f'{name}.md']}" for name, title, _, _ in parts)
    write_atomically(folder / "report.md", text)
    return report
