"""The report of `sweeps/forgetting_law.py`.

The law fitted to records, what it can and cannot tell, and whether geometry predicts unseen runs.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from analysis.data.load import StudyData, load_study
from analysis.page.family import FamilyReport, Section, write_family
from analysis.page.style import COLOURS, SHADES, new_figure, plain_log_axis
from analysis.stats.arrays import Floats
from analysis.stats.forgetting_fit import (
    DEVIANCE,
    NAMES,
    BudgetLaw,
    Profile,
    Runs,
    bootstrap,
    by_setting,
    error,
    fit_budget,
    fit_gains,
    predict,
    profile,
    tells_slope,
)
from grit.errors import ConfigError
from ray_jobs.records.trial_record import TrialRecord

RUN_HEADER = (
    "backbone",
    "method",
    "r",
    "T",
    "tau",
    "D (unique tokens)",
    "n",
    "forgetting",
    "r_eff",
    "rho",
    "pi",
    "tail mass",
    "exposure",
    "held out",
)
LAW_HEADER = ("coefficient", "estimate", "bootstrap [95%]", "profile [95%]", "identified")
HELD_HEADER = (
    "predictor",
    "fitted to",
    "held-out runs",
    "error (RMS, log)",
    "squared error vs LoRA's budget law [95%]",
)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run as the law sees it. `acting`: whether geometry acts on it (GRIT), or is only watched (LoRA)."""

    record: TrialRecord
    rank: int
    acting: bool
    held_out: bool
    features: tuple[float, float, float]
    tail: float
    exposure: float

    @property
    def setting(self) -> str:
        """What all seeds of it share."""
        return self.record.plan.point_id + self.record.config.backbone.model

    @property
    def place(self) -> tuple[str, int, int]:
        """What a run without geometry must share to be its neutral twin: backbone, rank and steps."""
        return self.record.config.backbone.model, self.rank, self.record.measured.steps or 0


def read_run(data: StudyData, record: TrialRecord, last: int) -> Run | None:
    """One trial's features.

    Mean effective rank and alignment over modules, and the mass that reprojections kept on average (1 without
    any).

    None where a module's geometry was not measured.

    Args:
        data: the study.
        record: a usable trial with geometry rows.
        last: steps of the largest budget, whose runs are held out.
    """
    rows = data.geometry(record)
    if not rows or any(row.get("alignment_top") is None for row in rows):
        return None
    events = [
        event
        for text in data.telemetry(record)["events"]
        if text
        for event in json.loads(text)
        if event["kind"] == "reprojection"
    ]
    kept = statistics.fmean(event["retained_mass"] for event in events) if events else 1.0
    mean = {
        name: statistics.fmean(row[name] for row in rows)
        for name in ("effective_rank", "alignment_top", "tail_mass", "exposure")
    }
    rank = int(record.plan.overrides.get("rank", data.study["config"]["rank"]))
    return Run(
        record=record,
        rank=rank,
        acting=record.plan.overrides.get("preconditioner") != "none",
        held_out=record.measured.steps == last,
        features=(mean["effective_rank"], mean["alignment_top"], kept),
        tail=mean["tail_mass"],
        exposure=mean["exposure"],
    )


def read_runs(studies: Sequence[StudyData]) -> tuple[list[Run], list[str]]:
    """All runs that the law can use, and sentences on those that it cannot."""
    found: list[Run] = []
    unread = 0
    for data in studies:
        usable = [
            r
            for r in data.records
            if r.usable and r.plan.regime == "step" and "law" in (r.plan.design, *r.plan.also_designs)
        ]
        last = max((r.measured.steps or 0 for r in usable), default=0)
        found += [run for r in usable if (run := read_run(data, r, last)) is not None]
        unread += len(usable)
    useful = [run for run in found if (run.record.measured.forgetting or 0) > 0]
    said = (
        []
        if len(useful) == len(found)
        else [
            f"{len(found) - len(useful)} of {len(found)} runs forgot nothing (or less): a power law has no "
            "logarithm for them, and they are left out. "
            "They are those that forget least, so that what is fitted forgets more than it should, most of "
            "all at small D."
        ]
    )
    if unread > len(found):
        said.append(f"{unread - len(found)} runs left no geometry and are not used.")
    return useful, said


def columns(runs: Sequence[Run], neutral: Sequence[Run]) -> Runs:
    """Runs as arrays.

    Each one's neutral features are the means of LoRA's at the same backbone, rank and steps, else of all of
    LoRA's.
    """
    groups: dict[tuple[str, int, int], list[tuple[float, float, float]]] = {}
    for run in neutral:
        groups.setdefault(run.place, []).append(run.features)
    everywhere = [run.features for run in neutral]
    return Runs(
        tokens=np.array([run.record.measured.unique_tokens for run in runs], dtype=float),
        parameters=np.array([run.record.measured.backbone_parameters for run in runs], dtype=float),
        ranks=np.array([run.rank for run in runs], dtype=float),
        budgets=np.array([run.record.measured.steps for run in runs], dtype=float),
        settings=np.array(
            [sorted({r.setting for r in runs}).index(run.setting) for run in runs], dtype=float
        ),
        forgetting=np.array([run.record.measured.forgetting for run in runs], dtype=float),
        features=np.array([run.features for run in runs]).reshape(-1, 3),
        neutral=np.array([np.mean(groups.get(run.place, everywhere), axis=0) for run in runs]).reshape(-1, 3),
    )


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Both stages on the runs that are not held out, with their uncertainty.

    And the errors on those that are.
    """

    law: BudgetLaw
    gains: Floats
    draws: Floats
    profiles: tuple[Profile, ...]
    train: Runs
    held: Runs
    held_lora: Runs
    lora_inside: float
    refit: BudgetLaw

    def errors(self) -> dict[str, Floats]:
        """Squared errors of log forgetting on the held-out GRIT runs, by predictor."""
        return {
            "LoRA's budget law": error(self.law.predict(self.held), self.held),
            "budget law": error(self.refit.predict(self.held), self.held),
            "with geometry": error(predict(self.law, self.gains, self.held), self.held),
        }


def fit(runs: Sequence[Run]) -> Fit | None:
    """None where there are too few runs of either kind, or only one budget."""
    lora, grit = ([run for run in runs if run.acting is acting] for acting in (False, True))
    first = columns([run for run in lora if not run.held_out], lora)
    second, held = (
        (columns([run for run in grit if run.held_out is out], lora) for out in (False, True))
        if lora
        else (first, first)
    )
    if len(first) < 4 or len(second) < 8 or not tells_slope(first):
        return None
    law = fit_budget(first)
    gains, _ = fit_gains(law, second)
    return Fit(
        law=law,
        gains=gains,
        draws=bootstrap(first, second),
        profiles=tuple(profile(law, second, i) for i in range(3)),
        train=second,
        held=held,
        held_lora=columns([run for run in lora if run.held_out], lora),
        refit=fit_budget(second),
        lora_inside=float(np.sqrt(error(law.predict(first), first).mean())),
    )


def law_rows(found: Fit) -> list[list[str]]:
    """The coefficients, in the order of `LAW_HEADER`."""
    low, high = np.quantile(found.draws, [0.025, 0.975], axis=0)
    alpha = (
        "by the sizes of the backbones" if found.law.alpha_found else "no: one backbone; set by convention"
    )
    spans, least = [f"[{a:.3f}, {b:.3f}]" for a, b in zip(low, high, strict=True)], "by least squares"
    k = len(found.law.constants)
    rows = [
        [f"log c, rank {rank:g}", f"{value:.3f}", span, "-", least]
        for (rank, value), span in zip(found.law.constants.items(), spans, strict=False)
    ]
    rows += [
        ["beta (unique tokens)", f"{found.law.beta:.3f}", spans[k], "-", least],
        [
            "alpha (parameters)",
            f"{found.law.alpha:.3f}",
            spans[k + 1] if found.law.alpha_found else "-",
            "-",
            alpha,
        ],
    ]
    for i, name in enumerate(NAMES):
        p = found.profiles[i]
        rows.append(
            [
                name,
                _gain(found.gains[i]),
                f"[{_gain(low[k + 2 + i])}, {_gain(high[k + 2 + i])}]",
                f"[{p.low:.3g}, {'no end' if np.isinf(p.high) else f'{p.high:.3g}'}]",
                p.verdict,
            ]
        )
    return rows


def _gain(value: float) -> str:
    """A coefficient; what the fit cannot tell from 0 is 0."""
    return "0" if value < 1e-6 else f"{value:.3g}"


def held_rows(found: Fit) -> list[list[str]]:
    """How well each predictor does on runs with a larger budget than any it has seen."""
    errors, rows = found.errors(), []
    for name, fitted in (
        ("LoRA's budget law", "LoRA runs"),
        ("budget law", "GRIT runs"),
        ("with geometry", "both, in two stages"),
    ):
        difference = errors[name] - errors["LoRA's budget law"]
        low, high = by_setting(difference, found.held.settings)
        rows.append(
            [
                name,
                fitted,
                str(len(found.held)),
                f"{np.sqrt(errors[name].mean()):.3f}",
                "-" if name == "LoRA's budget law" else f"{difference.mean():+.4f} [{low:+.4f}, {high:+.4f}]",
            ]
        )
    rows.append(
        [
            "LoRA's budget law, of LoRA itself",
            "LoRA runs",
            str(len(found.held_lora)),
            f"{lora_error(found):.3f}",
            "-",
        ]
    )
    return rows


def lora_error(found: Fit) -> float:
    """RMS error of LoRA's law on LoRA's own held-out runs, in log forgetting; NaN without any."""
    return (
        float(np.sqrt(error(found.law.predict(found.held_lora), found.held_lora).mean()))
        if len(found.held_lora)
        else float("nan")
    )


def answer(found: Fit, rows: Sequence[Sequence[str]]) -> list[str]:
    """What the fit comes to, in sentences."""
    known = [
        name for name, p in zip(NAMES, found.profiles, strict=True) if p.verdict.startswith("identified")
    ]
    errors = found.errors()
    low, high = by_setting(errors["with geometry"] - errors["budget law"], found.held.settings)
    better = (
        "predicts better than" if high < 0 else "predicts worse than" if low > 0 else "cannot be told from"
    )
    return [
        f"Forgetting grows as D^{found.law.beta:.2f} for LoRA. Geometry's coefficients that the data "
        "identify above zero: "
        f"{', '.join(known) or 'none'}.",
        f"On {len(found.held)} held-out GRIT runs of the largest budget the law with geometry {better} a "
        "budget law refitted to GRIT's own runs "
        f"(RMS error in log forgetting {rows[2][3]} against {rows[1][3]}; difference of squared errors "
        f"[{low:+.4f}, {high:+.4f}]; "
        "the interval is over settings, the fits held as they are)." + _bends(found),
    ]


def _bends(found: Fit) -> str:
    """Whether LoRA's own law holds for LoRA at the largest budget; nothing where that cannot be said."""
    outside, inside = lora_error(found), found.lora_inside
    if not np.isfinite(outside) or outside < 2 * inside:
        return ""
    return (
        f" LoRA's own law misses LoRA's own held-out runs by {outside:.3f} (and those it was fitted to by "
        f"{inside:.3f}): the power law "
        "itself bends."
    )


def run_rows(runs: Sequence[Run]) -> list[list[str]]:
    """One row per setting, means over seeds."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.setting, []).append(run)
    rows = []
    for members in groups.values():
        r = members[0].record

        def mean(values: Sequence[float]) -> float:
            return statistics.fmean(values)

        rows.append(
            [
                Path(r.config.backbone.model).name,
                "GRIT" if members[0].acting else "LoRA, watched",
                str(members[0].rank),
                "none" if r.T is None else str(r.T),
                f"{r.tau:g}" if members[0].acting else "-",
                f"{mean([m.record.measured.unique_tokens or 0 for m in members]):,.0f}",
                str(len(members)),
                f"{mean([m.record.measured.forgetting or 0.0 for m in members]):.4f}",
                *(f"{mean([m.features[i] for m in members]):.3f}" for i in range(3)),
                f"{mean([m.tail for m in members]):.3f}",
                f"{mean([m.exposure for m in members]):.3g}",
                "yes" if members[0].held_out else "no",
            ]
        )
    return rows


def law_figure(runs: Sequence[Run], found: Fit | None) -> Figure | None:
    """Forgetting over unique tokens with LoRA's fitted law.

    Predicted against measured on the held-out runs.
    """
    if found is None:
        return None
    figure, axes = new_figure(2, width=3.6, height=3.0)
    for number, model in enumerate(dict.fromkeys(run.record.config.backbone.model for run in runs)):
        for acting, marker, label in ((False, "s", "LoRA"), (True, "o", "GRIT")):
            mine = [run for run in runs if run.acting is acting and run.record.config.backbone.model == model]
            axes[0].scatter(
                [run.record.measured.unique_tokens or 0 for run in mine],
                [run.record.measured.forgetting or 0.0 for run in mine],
                s=14,
                marker=marker,
                alpha=0.7,
                color=SHADES[2 * number + acting],
                label=f"{label}, {Path(model).name} (n = {len(mine)})",
            )
        size = next(run.record.measured.backbone_parameters or 1 for run in runs if run.record.config.backbone.model == model)
        seen = [run.record.measured.unique_tokens or 1 for run in runs]
        tokens = np.geomspace(float(min(seen)), float(max(seen)), 30)
        for constant in found.law.constants.values():
            fitted = np.exp(constant + found.law.beta * np.log(tokens) - found.law.alpha * np.log(size))
            axes[0].plot(tokens, fitted, color=SHADES[2 * number], linewidth=1)
    plain_log_axis(axes[0])
    axes[0].set_yscale("log")
    axes[0].set_xlabel("unique tokens D")
    axes[0].set_ylabel("forgetting (nats/token)")
    axes[0].set_title(f"lines: LoRA's law at each rank, D^{found.law.beta:.2f}")
    axes[0].legend(frameon=False, fontsize=6)
    measured = found.held.forgetting
    for predicted, colour, marker, label in (
        (found.law.predict(found.held), COLOURS["neutral"], "s", "LoRA's budget law"),
        (found.refit.predict(found.held), COLOURS["time"], "^", "budget law of GRIT's runs"),
        (predict(found.law, found.gains, found.held), COLOURS["step"], "o", "with geometry"),
    ):
        axes[1].scatter(measured, np.exp(predicted), s=16, color=colour, marker=marker, label=label)
    ends = [float(measured.min()) * 0.8, float(measured.max()) * 1.25]
    axes[1].plot(ends, ends, color="black", linewidth=0.7)
    axes[1].set_xscale("log")
    axes[1].set_yscale("log")
    axes[1].set_xlabel("measured forgetting (nats/token)")
    axes[1].set_ylabel("predicted")
    axes[1].set_title(f"held-out runs of GRIT, n = {len(measured)}")
    axes[1].legend(frameon=False, fontsize=6)
    return figure


def profile_figure(found: Fit | None) -> Figure | None:
    """Profile likelihood of each coefficient."""
    if found is None:
        return None
    figure, axes = new_figure(3, width=2.6, height=2.4)
    for axis, name, p in zip(axes, NAMES, found.profiles, strict=True):
        above = p.values > p.values.max() * 1e-7  # what lies below is as good as 0
        least = float(p.values[above].min())
        axis.plot(p.values[above], np.minimum(p.deviance[above], 20), color=COLOURS["step"])
        axis.plot(
            [least / 10], [min(float(p.deviance[0]), 20)], color=COLOURS["step"], marker="o", markersize=4
        )
        axis.axhline(DEVIANCE, color=COLOURS["time"], linestyle="--", linewidth=1)
        axis.set_xscale("log")
        decades = [
            10.0**d for d in range(int(np.ceil(np.log10(least))), int(np.log10(p.values.max())) + 1, 2)
        ]
        axis.set_xticks([least / 10, *decades], ["0", *(f"{value:g}" for value in decades)])
        axis.minorticks_off()
        axis.set_xlabel(name)
        axis.set_title(p.verdict, fontsize=7)
        axis.tick_params(axis="x", labelsize=6)
    axes[0].set_ylabel("2 x log-likelihood lost (at most 20)")
    figure.suptitle(f"n = {len(found.train)} GRIT runs; dashed: 95%", fontsize=8)
    return figure


def page(studies: Sequence[StudyData]) -> FamilyReport:
    """The whole page from one study, or from one per backbone."""
    runs, said = read_runs(studies)
    found = fit(runs)
    missing = ["There are too few runs of LoRA and GRIT, or only one budget: nothing was fitted."]
    sections = [
        Section(
            name="law",
            title="The law and its coefficients",
            header=LAW_HEADER,
            rows=[] if found is None else law_rows(found),
            columns=(0, 1, 2, 4),
            said=[
                "forgetting = c D^beta / (N Xi)^alpha; Xi = (1 + g_r r_eff)(1 + g_a rho)(1 + g_p pi), "
                "relative to LoRA's at the same rank and "
                "budget.",
                *said,
                *(missing if found is None else []),
            ],
            figure=partial(law_figure, runs, found),
            caption="Left: every run. Right: what each law predicts of the largest budget, not seen in "
            "fitting.",
        ),
        Section(
            name="held_out",
            title="Prediction of runs that were not seen",
            header=HELD_HEADER,
            rows=[] if found is None or not len(found.held) else held_rows(found),
            columns=(0, 1, 3, 4),
            said=["The largest budget is held out of both stages: it asks for extrapolation in D."],
        ),
        Section(
            name="profiles",
            title="What the data can tell: profile likelihood",
            figure=partial(profile_figure, found),
            caption="The likelihood lost when one coefficient is held and the others are fitted anew. "
            "Where the curve stays below the dashed "
            "line, the value cannot be excluded.",
        ),
        Section(name="runs", title="The runs", header=RUN_HEADER, rows=run_rows(runs)),
    ]
    said_first = missing if found is None or not len(found.held) else answer(found, held_rows(found))
    return FamilyReport(
        title="The law of forgetting",
        answer=said_first,
        sections=sections,
        limits=[
            "Unique tokens and optimizer steps grow together here (one pass over the data): what either "
            "does alone is not told.",
            "rho and exposure take GRIT's own activation factor for the curvature of pretraining, as the "
            "paper does; it is a proxy.",
            "Bootstrap intervals treat runs as exchangeable; runs of one seed share their data.",
        ],
    )


def build(data: StudyData, folder: Path) -> FamilyReport:
    """Writes the page, its tables and figures in the study's folder."""
    return write_family(page([data]), [data], folder)


def build_joint(folder: Path) -> FamilyReport:
    """One page in `folder` for the studies below it, one per backbone.

    Raises:
        ConfigError: there is none.
    """
    studies = [load_study(path.parent) for path in sorted(folder.glob("*/study.json"))]
    studies = [data for data in studies if data.study["name"] == "forgetting_law"]
    if not studies:
        raise ConfigError("forgetting_law", str(folder), "holds no study")
    return write_family(page(studies), studies, folder)
