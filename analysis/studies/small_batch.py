"""The report of `sweeps/small_batch.py`.

Tables J1 and J2 and Figures J1 to J4 of the paper's appendix H, from measurement.

The paper's own J tables halve exactly from row to row and look interpolated. Its numbers stand beside ours,
which may disagree.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from analysis.data.load import StudyData
from analysis.data.points import PointSummary, of_one_regime, paired_quality, summarize_points
from analysis.page.family import FamilyReport, Section, write_family
from analysis.page.style import COLOURS, SEQUENTIAL, SHADES, STROKES, new_figure
from analysis.page.tables import shown
from analysis.studies.batch_stability import (
    JITTER_LIMIT,
    SEVERE_DRIFT,
    SEVERE_VARIANCE,
    Regime,
    batch_of,
    lost_regimes,
    mean_of,
    regimes_of,
    stability_of,
)
from analysis.studies.sensitivity.figures import METRICS

#: Table J1 (appendix H): micro-batch, accumulation to Var_F over the reference's, eigenvalue CV,
#: principal-angle drift, jitter, quality, retention.
TABLE_J1: dict[tuple[int, int], tuple[float, float, float, float, float, float]] = {
    (8, 4): (1.0, 0.05, 0.10, 0.8, 1.0, 1.0),
    (1, 1): (38.4, 0.354, 0.707, 11.77, 0.920, 0.908),
    (1, 2): (19.2, 0.25, 0.5, 7.24, 0.945, 0.938),
    (1, 4): (9.6, 0.177, 0.354, 4.46, 0.965, 0.960),
    (1, 8): (4.8, 0.125, 0.25, 2.74, 0.978, 0.975),
    (1, 16): (2.4, 0.088, 0.177, 1.69, 0.986, 0.983),
    (2, 1): (17.6, 0.23, 0.46, 6.41, 0.950, 0.944),
    (2, 2): (8.8, 0.163, 0.325, 3.94, 0.970, 0.966),
    (2, 4): (4.4, 0.115, 0.23, 2.43, 0.983, 0.981),
    (2, 8): (2.2, 0.081, 0.163, 1.49, 0.991, 0.989),
    (4, 1): (8.4, 0.151, 0.303, 3.70, 0.973, 0.970),
    (4, 2): (4.2, 0.107, 0.214, 2.28, 0.986, 0.985),
    (4, 4): (2.1, 0.076, 0.151, 1.40, 0.994, 0.993),
    (8, 1): (4.0, 0.1, 0.2, 2.11, 0.988, 0.987),
    (8, 2): (2.0, 0.071, 0.141, 1.30, 0.996, 0.995),
    (16, 1): (2.0, 0.071, 0.141, 1.30, 0.996, 0.995),
}
#: Table J2 (appendix H), in the order of its columns; its combined row is all three.
TABLE_J2 = {
    "GRIT alone": "38.40, 0.354, 0.707, 11.77, 8, 0.920, 0.908, 1.00",
    "M1 exponential mean": "22.90, 0.255, 0.520, 7.10, 4, 0.938, 0.930, 1.01",
    "M2 burn-in": "27.60, 0.285, 0.575, 8.35, 5, 0.934, 0.925, 1.00",
    "M3 batch-aware damping": "24.80, 0.268, 0.545, 7.65, 4, 0.940, 0.933, 1.00",
    "M1 exponential mean + M2 burn-in + M3 batch-aware damping": "15.20, 0.188, 0.385, 4.55, 1, 0.962, "
    "0.956, 1.02",
}
J1_HEADER = (
    "b",
    "a",
    "B",
    "n",
    "Var_F in use",
    "of the reference",
    "Var_F of a step",
    "eigenvalue CV",
    "drift",
    "jitter raw (deg)",
    "preconditioned (deg)",
    "rank changes",
    "their mean step, SD",
    "final rank, SD",
    "quality",
    "against LoRA, same B [95%]",
    "change from the reference [95%]",
    "retention",
    "verdict",
    "paper: Var_F, CV, drift, jitter, quality, retention",
)
J2_HEADER = (
    "setting",
    "n",
    "lost",
    "Var_F in use",
    "Var_F of a step",
    "eigenvalue CV",
    "drift",
    "jitter preconditioned (deg)",
    "quality",
    "retention",
    "overhead",
    "against GRIT alone [95%]",
    "paper (b = a = 1): Var_F, CV, drift, jitter, diverged %, quality, retention, runtime",
)
MATCHED_HEADER = ("B", "b x a", "Var_F in use", "drift", "jitter preconditioned (deg)", "quality")
NAMES = {
    "ema_decay": "M1 exponential mean",
    "ng_warmup_steps": "M2 burn-in",
    "damping_reference_batch": "M3 batch-aware damping",
}


def j1_rows(
    regimes: Sequence[Regime], reference: Regime | None, gone: Sequence[tuple[int, int]] = ()
) -> list[list[str]]:
    """Table J1, in the order of `J1_HEADER`; `gone` are the regimes of which every trial was lost."""
    rows = [
        [str(micro), str(passes), str(micro * passes), "0", *["-"] * (len(J1_HEADER) - 6), "unstable", "-"]
        for micro, passes in gone
    ]
    for regime in regimes:
        s, p = regime.stability, regime.stability.point
        ratio = "-" if reference is None else f"{s.variance_used / reference.stability.variance_used:.2f}"
        paper = TABLE_J1.get((regime.micro, regime.passes))
        rows.append(
            [
                str(regime.micro),
                str(regime.passes),
                str(regime.batch),
                str(len(p.seeds)),
                f"{s.variance_used:.3f}",
                ratio,
                f"{s.variance_batch:.3f}",
                f"{s.eigenvalue_cv:.3f}",
                f"{s.drift:.3f}",
                f"{s.jitter_raw:.1f}",
                f"{s.jitter_preconditioned:.1f}",
                f"{s.triggers:.1f}",
                f"{s.trigger_steps:.1f}",
                f"{s.final_rank:.2f}",
                f"{p.mean('quality'):.3f} ± {p.spread('quality'):.3f}",
                shown(regime.against),
                shown(None if regime.change is None else regime.change.quality),
                f"{p.mean('retention'):.3f} ± {p.spread('retention'):.3f}",
                regime.verdict,
                "-" if paper is None else ", ".join(f"{v:g}" for v in paper),
            ]
        )
    return rows


def matched_rows(regimes: Sequence[Regime]) -> list[list[str]]:
    """Pairs of equal effective batch, the most and the least accumulated.

    Does accumulation recover what the micro-batch lost?
    """
    rows = []
    for batch in sorted({regime.batch for regime in regimes}):
        mine = sorted((r for r in regimes if r.batch == batch), key=lambda r: r.micro)
        if len(mine) > 1:
            for r in (mine[0], mine[-1]):
                s = r.stability
                rows.append(
                    [
                        str(batch),
                        f"{r.micro} x {r.passes}",
                        f"{s.variance_used:.4f}",
                        f"{s.drift:.4f}",
                        f"{s.jitter_preconditioned:.2f}",
                        f"{s.point.mean('quality'):.4f}",
                    ]
                )
    return rows


def setting_name(p: PointSummary) -> str:
    """The mitigations of a setting in words."""
    overrides = p.records[0].plan.overrides
    named = [name for field, name in NAMES.items() if field in overrides]
    if overrides.get("accumulated_statistics") is False:
        named.append("first micro-batch only (M4 off)")
    elif "accumulation" in p.designs:
        named.append("M4 accumulation-aware")
    return " + ".join(named) or "GRIT alone"


def j2_rows(data: StudyData, settings: Sequence[PointSummary], base: PointSummary | None) -> list[list[str]]:
    """Table J2, in the order of `J2_HEADER`: the base first."""
    rows = []
    for p in settings:
        s = stability_of(data, p)
        if s is None:
            continue
        rows.append(
            [
                setting_name(p),
                str(len(p.seeds)),
                str(p.lost),
                f"{s.variance_used:.3f}",
                f"{s.variance_batch:.3f}",
                f"{s.eigenvalue_cv:.3f}",
                f"{s.drift:.3f}",
                f"{s.jitter_preconditioned:.1f}",
                f"{p.mean('quality'):.3f} ± {p.spread('quality'):.3f}",
                f"{p.mean('retention'):.3f}",
                f"{p.mean('overhead'):.1%}",
                "the reference"
                if p is base
                else "-"
                if base is None
                else shown(paired_quality(data, p, base)),
                TABLE_J2.get(setting_name(p), "-"),
            ]
        )
    return rows


def boundary(regimes: Sequence[Regime], gone: Sequence[tuple[int, int]] = ()) -> str:
    """Where stability begins, in words."""
    verdicts = [(r.batch, r.verdict) for r in regimes] + [
        (micro * passes, "unstable") for micro, passes in gone
    ]
    said = {
        name: sorted({batch for batch, word in verdicts if word == name})
        for name in ("stable", "degraded", "unstable", "not told")
    }
    counts = ", ".join(f"{sum(word == name for _, word in verdicts)} {name}" for name in said if said[name])
    text = f"Of {len(verdicts)} regimes: {counts}."
    bad = sorted({*said["degraded"], *said["unstable"]})
    if bad:
        least = next(
            (
                b
                for b in sorted({batch for batch, _ in verdicts})
                if not any(batch >= b and batch in bad for batch, _ in verdicts)
            ),
            None,
        )
        rule = (
            "no effective batch is found from which on none is"
            if least is None
            else f"use an effective batch of at least {least}"
        )
        text += f" Degraded or unstable at effective batches {', '.join(map(str, bad))}: {rule}."
    else:
        text += " No boundary was found: no regime is degraded or unstable by the stated rule."
    if said["not told"]:
        text += (
            f" At effective batches {', '.join(map(str, said['not told']))} the interval of the change in "
            "quality reaches beyond the tolerance: "
            "more seeds would tell."
        )
    return text


def findings(regimes: Sequence[Regime], reference: Regime | None) -> list[str]:
    """What was measured, against what the paper's tables say."""
    low, high = min(regimes, key=lambda r: r.batch), max(regimes, key=lambda r: r.batch)
    order = [
        mean_of([r.stability.variance_used for r in regimes if r.batch == b])
        for b in sorted({r.batch for r in regimes})
    ]
    falls = sum(b <= a for a, b in zip(order, order[1:], strict=False))
    said = [
        "Var_F of the factors in use, a mean over steps that must shrink, is "
        f"{low.stability.variance_used:.3g} at B = {low.batch} and "
        f"{high.stability.variance_used:.3g} at B = {high.batch}; it falls in {falls} of {len(order) - 1} "
        "steps of B. Of one step's factors it "
        f"is {low.stability.variance_batch:.3g} and {high.stability.variance_batch:.3g}."
    ]
    if reference is not None and low.batch == 1:
        used, single = (
            getattr(low.stability, name) / getattr(reference.stability, name)
            for name in ("variance_used", "variance_batch")
        )
        said.append(
            f"Against the paper's main setting (8 x 4) B = 1 has {used:.1f} times its Var_F in use and "
            f"{single:.1f} times that of a step; "
            f"the paper's Table J1 (appendix H) prints {TABLE_J1[1, 1][0]:g}, and there exactly half of "
            "that at twice the batch."
        )
    return said


def j1_figure(regimes: Sequence[Regime]) -> Figure | None:
    """Each diagnostic over the effective batch, one line per micro-batch."""
    if len(regimes) < 3:
        return None
    panels = (
        ("variance_used", "Var_F in use"),
        ("variance_batch", "Var_F of one step"),
        ("drift", "principal-angle drift (0 to 1)"),
        ("jitter_preconditioned", "jitter, preconditioned (degrees)"),
    )
    figure, axes = new_figure(4, width=2.6, height=3.0)
    for axis, (name, label) in zip(axes, panels, strict=True):
        for number, micro in enumerate(sorted({r.micro for r in regimes})):
            mine = sorted((r for r in regimes if r.micro == micro), key=lambda r: r.batch)
            axis.plot(
                [r.batch for r in mine],
                [getattr(r.stability, name) for r in mine],
                color=SHADES[number % len(SHADES)],
                marker="os^vD"[number % 5],
                linestyle=STROKES[number % len(STROKES)],
                markersize=3.5,
                label=f"b = {micro}",
            )
        axis.set_xscale("log", base=2)
        axis.set_xlabel("effective batch B (sequences)")
        axis.set_ylabel(label)
        if "variance" in name:
            axis.set_yscale("log")
    axes[0].legend(frameon=False, fontsize=7)
    figure.suptitle(
        f"means over modules, both factors and n = {min(len(r.stability.point.seeds) for r in regimes)} "
        "seeds",
        fontsize=8,
    )
    return figure


def j2_figure(data: StudyData, regimes: Sequence[Regime]) -> Figure | None:
    """Leading eigenvalues over steps at the smallest and the largest batch.

    And how eigenspaces rotate with the lag in every regime.
    """
    if len(regimes) < 2:
        return None
    low, high = min(regimes, key=lambda r: r.batch), max(regimes, key=lambda r: r.batch)
    figure, axes = new_figure(3, width=3.2, height=3.2)
    for axis, regime in zip(axes[:2], (low, high), strict=True):
        rows = [
            row
            for record in regime.stability.point.records
            for row in data.table("stability", record)
            if row["kind"] == "spectrum" and row["side"] == "a" and row["estimate"] == "used"
        ]
        steps = sorted({row["step"] for row in rows})
        values = np.array(
            [[row["eigenvalues"] for row in rows if row["step"] == step] for step in steps]
        )  # (steps, seeds, k)
        for k in range(values.shape[2]):
            axis.plot(steps, values[:, :, k].mean(axis=1), color=SHADES[k], label=f"eigenvalue {k + 1}")
            axis.fill_between(
                steps,
                values[:, :, k].min(axis=1),
                values[:, :, k].max(axis=1),
                color=SHADES[k],
                alpha=0.2,
                linewidth=0,
            )
        axis.set_xlabel("optimizer step")
        axis.set_ylabel("share of the mean trace (activation factor)")
        axis.set_title(
            f"B = {regime.batch} (b = {regime.micro}), n = {values.shape[1]} seeds; band: range", fontsize=7
        )
    axes[1].legend(frameon=False, fontsize=6)
    order = sorted(regimes, key=lambda r: (r.batch, r.micro))
    lags = sorted({row["lag"] for r in order for row in _lags(data, r)})
    grid = np.array(
        [
            [mean_of([row["drift"] for row in _lags(data, r) if row["lag"] == lag]) for lag in lags]
            for r in order
        ]
    )
    image = axes[2].imshow(grid, aspect="auto", cmap=SEQUENTIAL, vmin=0)
    axes[2].set_yticks(range(len(order)), [f"{r.micro} x {r.passes}" for r in order], fontsize=5)
    axes[2].set_xticks(range(len(lags)), [str(lag) for lag in lags], fontsize=6)
    axes[2].set_xlabel("lag (snapshots)")
    axes[2].set_title("principal-angle distance, both factors in use", fontsize=7)
    axes[2].grid(False)
    figure.colorbar(image, ax=axes[2], shrink=0.8)
    return figure


def _metric(p: PointSummary) -> str:
    """The quality metric as axes name it."""
    return METRICS.get(p.quality_metric, p.quality_metric)


def _lags(data: StudyData, regime: Regime) -> list[dict[str, Any]]:
    return [
        row
        for record in regime.stability.point.records
        for row in data.table("stability", record)
        if row["kind"] == "lag" and row["estimate"] == "used"
    ]


def j3_figure(data: StudyData, points: Sequence[PointSummary], regimes: Sequence[Regime]) -> Figure | None:
    """Quality and retention over the effective batch, GRIT by micro-batch and LoRA."""
    if len(regimes) < 3:
        return None
    figure, axes = new_figure(2, width=3.4, height=3.0)
    controls = sorted(
        (p for p in points if "first-order" in p.designs and p.records),
        key=lambda p: int(np.prod(batch_of(data, p))),
    )
    for axis, name in zip(axes, ("quality", "retention"), strict=True):
        for number, micro in enumerate(sorted({r.micro for r in regimes})):
            mine = sorted((r for r in regimes if r.micro == micro), key=lambda r: r.batch)
            axis.errorbar(
                [r.batch for r in mine],
                [r.stability.point.mean(name) for r in mine],
                yerr=[r.stability.point.spread(name) for r in mine],
                color=SHADES[number % len(SHADES)],
                marker="os^vD"[number % 5],
                markersize=3.5,
                elinewidth=0.6,
                label=f"GRIT, b = {micro}",
            )
        axis.errorbar(
            [np.prod(batch_of(data, p)) for p in controls],
            [p.mean(name) for p in controls],
            yerr=[p.spread(name) for p in controls],
            color=COLOURS["control"],
            linestyle="--",
            marker="X",
            markersize=4,
            elinewidth=0.6,
            label="LoRA",
        )
        axis.set_xscale("log", base=2)
        axis.set_xlabel("effective batch B (sequences)")
        axis.set_ylabel(_metric(regimes[0].stability.point) if name == "quality" else name)
    axes[0].legend(frameon=False, fontsize=6)
    figure.suptitle(
        f"same steps for all, n = {min(len(r.stability.point.seeds) for r in regimes)} seeds; bars: "
        "standard deviation",
        fontsize=8,
    )
    return figure


def j4_figure(data: StudyData, settings: Sequence[PointSummary]) -> Figure | None:
    """Mitigations in the smallest regime: stability, and what comes of it."""
    found = [(setting_name(p), s) for p in settings if (s := stability_of(data, p)) is not None]
    if len(found) < 2:
        return None
    figure, axes = new_figure(4, width=2.4, height=2.8)
    panels: tuple[tuple[str, list[float], list[float]], ...] = (
        ("Var_F in use", [s.variance_used for _, s in found], []),
        ("drift", [s.drift for _, s in found], []),
        ("jitter, preconditioned (deg)", [s.jitter_preconditioned for _, s in found], []),
        (
            _metric(found[0][1].point),
            [s.point.mean("quality") for _, s in found],
            [s.point.spread("quality") for _, s in found],
        ),
    )
    for axis, (label, values, errors) in zip(axes, panels, strict=True):
        axis.barh(
            range(len(found)),
            values,
            xerr=errors or None,
            color=[SHADES[0] if i == 0 else SHADES[1] for i in range(len(found))],
            height=0.7,
        )
        axis.set_yticks(
            range(len(found)),
            [name.replace(" + ", "\n+ ") for name, _ in found] if axis is axes[0] else [""] * len(found),
            fontsize=5,
        )
        axis.invert_yaxis()
        axis.set_xlabel(label)
    figure.suptitle(
        f"smallest regime, n = {len(settings[0].seeds)} seeds; bars on quality: standard deviation",
        fontsize=8,
    )
    return figure


def _planned_extreme(
    regimes: Sequence[Regime], gone: Sequence[tuple[int, int]], *, deepest: bool
) -> PointSummary | None:
    """The setting with the smallest planned micro-batch and no accumulation (or the most of it).

    None where every trial of it was lost.
    """
    known = {(r.micro, r.passes): r.stability.point for r in regimes}
    planned = [*known, *gone]
    if not planned:
        return None
    micro = min(micro for micro, _ in planned)
    return known.get(
        (micro, (max if deepest else min)(passes for other, passes in planned if other == micro))
    )


def build(data: StudyData, folder: Path) -> FamilyReport:
    """Writes the page, its tables and figures in the study's folder."""
    points, left_out = of_one_regime(summarize_points(data.records))
    regimes, gone = regimes_of(data, points), lost_regimes(data, points)
    reference = next((r for r in regimes if "reference" in r.stability.point.designs), None)
    base = _planned_extreme(regimes, gone, deepest=False)
    deepest = _planned_extreme(regimes, gone, deepest=True)
    settings = ([] if base is None else [base]) + [
        p for p in points if "mitigation" in p.designs and p.records
    ]
    aware = ([] if deepest is None else [deepest]) + [
        p for p in points if "accumulation" in p.designs and p.records
    ]
    rule = (
        "Unstable: a lost trial, or factors in use that vary by more than their own size (Var_F > "
        f"{SEVERE_VARIANCE:g}) and rotate by more than "
        f"{SEVERE_DRIFT:g}. Degraded: GRIT loses against LoRA at the same batch, beyond noise, more than "
        "the tolerance more quality or "
        "forgetting than it does in the reference regime; or preconditioned updates turn by "
        f"{JITTER_LIMIT:g} degrees more than raw ones. "
        "Stable: the interval of that change in quality lies within the tolerance. Else not told."
    )
    sections = [
        Section(
            name="j1",
            title="Table J1: stability over batch regimes",
            header=J1_HEADER,
            rows=j1_rows(regimes, reference, gone),
            columns=(0, 1, 2, 4, 6, 8, 9, 10, 16, 18),
            said=[
                rule,
                "Var_F: variance of a factor over the run after its first quarter, over its own size; of "
                "the factors that GRIT uses "
                "(means over all steps so far, A.7), and of single steps. Quality is compared with LoRA's "
                "at the same batch, since fewer "
                "sequences teach less.",
            ],
            figure=partial(j1_figure, regimes),
            caption="J1: each diagnostic over the effective batch. "
            "Lines of different b lie on one another where splitting a batch changes nothing.",
        ),
        Section(
            name="matched",
            title="Matched effective batches",
            header=MATCHED_HEADER,
            rows=matched_rows(regimes),
            said=[
                "Statistics are gathered over all micro-batches of a step, weighted by tokens (M4 is on by "
                "default), so pairs of one effective batch "
                "agree but for rounding."
            ],
        ),
        Section(
            name="j2_spectra",
            title="Spectra over time",
            figure=partial(j2_figure, data, regimes),
            caption="J2: leading eigenvalues at the smallest and the largest batch; rotation of the "
            "leading eigenspaces over lags in every "
            "regime.",
        ),
        Section(
            name="j3",
            title="What comes of it",
            figure=partial(j3_figure, data, points, regimes),
            caption="J3: quality and retention over the effective batch.",
        ),
        Section(
            name="j2",
            title="Table J2: mitigations in the smallest regime",
            header=J2_HEADER,
            rows=j2_rows(data, settings, base),
            columns=(0, 3, 5, 6, 7, 8, 9, 11),
            figure=partial(j4_figure, data, settings),
            caption="J4: mitigations alone and combined.",
        ),
        Section(
            name="m4",
            title="M4: accumulation-aware statistics",
            header=J2_HEADER,
            rows=j2_rows(data, aware, deepest),
            said=[
                "In the regime with the smallest micro-batch and the most accumulation: off, only the "
                "first micro-batch of a step is seen."
            ],
        ),
    ]
    answer = (
        ["No regime has been measured yet."]
        if not regimes
        else [boundary(regimes, gone), *findings(regimes, reference)]
    )
    return write_family(
        FamilyReport(
            title="Small batches: is the curvature still worth its name?",
            answer=answer,
            sections=sections,
            limits=[
                *left_out,
                "All regimes take the same number of optimizer steps at one learning rate: small batches "
                "see fewer examples.",
                "Jitter is measured on the gradients that reach the optimizer, before AdamW's own moments "
                "smooth them.",
            ],
        ),
        [data],
        folder,
    )
