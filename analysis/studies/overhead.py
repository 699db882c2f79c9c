"""The report of `sweeps/overhead.py`.

The runtime audit of paper appendix F, with the paper's Tables 8, 14 and 15 beside what was measured here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from analysis.data.load import StudyData
from analysis.data.points import PointSummary, summarize_points
from analysis.page.family import FamilyReport, Section, write_family
from analysis.page.style import SHADES, STROKES, new_figure, plain_log_axis
from analysis.stats.arrays import Floats
from analysis.stats.step_times import (
    WINDOWS,
    ScalingFit,
    amortized,
    creep,
    ratio_interval,
    scaling_fit,
    tail,
    window_of,
)
from grit.config.registry import METHODS, Method
from grit.runtime.sections import GEOMETRY_SECTIONS, SECTIONS
from ray_jobs.records.trial_record import TrialRecord

Row = dict[str, Any]
#: Table 8 (instruction following, LLaMA-3-8B on A100): mean and P99 step in ms, peak memory in GB,
#: reprojections per 1,000 steps.
TABLE_8: dict[Method, tuple[float, float, float, float | None]] = {
    "lora": (215, 290, 38.6, None),
    "qlora": (228, 305, 32.4, None),
    "orthogonal": (223, 298, 38.9, None),
    "ia3": (205, 282, 31.7, None),
    "dora": (240, 325, 36.1, None),
    "shampoo": (268, 360, 40.2, None),
    "qgrit": (236, 318, 33.1, 2.1),
}
#: Table 14: tokens/s is lost; mean, P95, P99 step (s), reprojection event mean and P95 (s), its amortized
#: share, memory delta (GB).
TABLE_14 = {
    "qlora": "0.229, 0.267, 0.306 s",
    "qgrit": "0.237, 0.278, 0.319 s; event 0.082, P95 0.100 s; overhead 0.034; +0.7 GB",
}
#: Table 15: (rank, layers) to overhead share and memory delta in GB, Q-GRIT; None: all layers.
TABLE_15: dict[tuple[int, int | None], tuple[float, float]] = {
    (4, None): (0.012, 0.08),
    (8, None): (0.020, 0.15),
    (16, None): (0.028, 0.30),
    (32, None): (0.033, 0.60),
    (32, 4): (0.009, 0.16),
    (32, 8): (0.015, 0.27),
    (32, 16): (0.023, 0.42),
}
#: Windows into which the long run is cut; steps that a run must have for its times to be read.
LONG_WINDOWS, MIN_STEPS = 8, 10
STEP_HEADER = (
    "method",
    "window",
    "n",
    "mean (ms)",
    "P50",
    "P95",
    "P99",
    "against LoRA [95%]",
    "tokens/s",
    "reprojections per 1,000",
)
COST_HEADER = (
    "method",
    "peak memory (MB)",
    "against the same without GRIT (MB)",
    "geometry, share of a step",
    "paper's Table 8: mean, P99, GB, per 1,000",
    "paper: mean against QLoRA",
    "here: mean against QLoRA",
)
TABLE_14_HEADER = (
    "method",
    "tokens/s",
    "mean (ms)",
    "P95",
    "P99",
    "reprojection event mean (ms)",
    "event P95",
    "amortized (ms/step)",
    "overhead",
    "memory delta (MB)",
    "paper's Table 14",
)
COMPONENT_HEADER = ("method", "steps", "n", *(f"{name} (ms)" for name in SECTIONS), "step (ms)", "geometry")
CADENCE_HEADER = (
    "T",
    "n",
    "events",
    "event (ms)",
    "event / T (ms)",
    "measured amortized (ms/step)",
    "geometry, share of a step",
    "against the control [95%]",
    "quality",
)
SCALING_HEADER = (
    "r",
    "layers",
    "n",
    "step (ms)",
    "geometry (ms)",
    "share of a step",
    "fit (ms)",
    "residual (ms)",
    "memory delta (MB)",
    "paper's Table 15: share, GB",
)
LONG_HEADER = (
    "steps",
    "control mean (ms)",
    "mean (ms)",
    "P95",
    "P99",
    "against the control",
    "amortized reprojection (ms/step)",
)
SCORE_HEADER = (
    "regime",
    "method",
    "n",
    "steps",
    "training s",
    "quality",
    "quality per training hour",
    "quality in the middle of the budget",
)


@dataclass(frozen=True, kw_only=True)
class Session:
    """Interleaved step rows by method, over all seeds of one setting.

    Each list holds one run's rows in order.
    """

    runs: dict[Method, list[list[Row]]]

    def other(self, method: Method) -> Method:
        """The method beside this one in a session of two."""
        return next(m for m in self.runs if m != method)

    def steady(self, method: Method) -> list[Row]:
        """Rows of the steady window, of all runs."""
        return [row for rows in self.runs[method] for row in rows[window_of(len(rows))["steady"]]]

    def times(self, method: Method, window: str = "steady") -> Floats:
        """Milliseconds per step in a window, run after run."""
        return np.array(
            [row["ms_step"] for rows in self.runs[method] for row in rows[window_of(len(rows))[window]]],
            dtype=float,
        )


def session_of(data: StudyData, records: Sequence[TrialRecord]) -> Session:
    """The interleaved tables of some trials of one setting."""
    runs: dict[Method, list[list[Row]]] = {}
    for record in records:
        by_method: dict[Method, list[Row]] = {}
        for row in data.table("interleaved", record):
            by_method.setdefault(row["method"], []).append(row)
        for method, rows in by_method.items():
            runs.setdefault(method, []).append(rows)
    return Session(runs=runs)


def geometry_ms(rows: Sequence[Row]) -> float:
    """Mean milliseconds of GRIT's sections."""
    return amortized(rows, GEOMETRY_SECTIONS)


def share(rows: Sequence[Row]) -> float:
    """Overhead: GRIT's sections over the whole step."""
    return geometry_ms(rows) / float(np.mean([row["ms_step"] for row in rows]))


def tokens_per_second(session: Session, method: Method) -> float:
    """Over the steady window."""
    tokens = seconds = 0.0
    for rows in session.runs[method]:
        chosen = rows[window_of(len(rows))["steady"]]
        tokens += chosen[-1]["tokens"] - rows[window_of(len(rows))["steady"].start - 1]["tokens"]
        seconds += sum(row["ms_step"] for row in chosen) / 1e3
    return tokens / seconds


def measured(data: StudyData, p: PointSummary, others: int) -> Session | None:
    """The session of a setting in which at least so many other methods took turns.

    With enough steps for a steady window; None otherwise.
    """
    session = session_of(data, p.records)
    enough = p.method in session.runs and len(session.runs) > others
    return (
        session
        if enough and all(len(rows) >= MIN_STEPS for runs in session.runs.values() for rows in runs)
        else None
    )


def step_rows(session: Session) -> list[list[str]]:
    """Every method in every window, in the order of `STEP_HEADER`."""
    rows = []
    for method in session.runs:
        for window in WINDOWS:
            times = session.times(method, window)
            found, against = tail(times), "-"
            if window == "steady" and "lora" in session.runs and method != "lora":
                against = "{:.3f} [{:.3f}, {:.3f}]".format(*ratio_interval(times, session.times("lora")))
            steady = session.steady(method)
            rate = 1000 * sum(row["reprojected"] for row in steady) / len(steady)
            rows.append(
                [
                    METHODS[method].title,
                    window,
                    str(found.n),
                    f"{found.mean:.1f}",
                    f"{found.p50:.1f}",
                    f"{found.p95:.1f}",
                    f"{found.p99:.1f}",
                    against,
                    f"{tokens_per_second(session, method):,.0f}" if window == "steady" else "-",
                    f"{rate:.1f}" if window == "steady" and METHODS[method].geometry else "-",
                ]
            )
    return rows


def plain_twin(method: Method) -> Method:
    """The same backbone without GRIT."""
    return "qlora" if METHODS[method].quantized else "lora"


def memory_of(records: Sequence[TrialRecord]) -> dict[str, float]:
    """Mean peak over trials, by method, in bytes."""
    found: dict[str, list[int]] = {}
    for record in records:
        for method, size in (record.measured.memory_bytes or {}).items():
            found.setdefault(method, []).append(size)
    return {method: float(np.mean(sizes)) for method, sizes in found.items()}


def cost_rows(session: Session, memory: dict[str, float]) -> list[list[str]]:
    """Memory, overhead and the paper's Table 8, in the order of `COST_HEADER`."""
    rows = []
    for method in session.runs:
        twin, printed = plain_twin(method), TABLE_8.get(method)
        delta = (
            f"{(memory[method] - memory[twin]) / 1e6:+.1f}"
            if METHODS[method].geometry and method in memory and twin in memory
            else "-"
        )
        against = (
            f"{session.times(method).mean() / session.times('qlora').mean():.3f}"
            if "qlora" in session.runs
            else "-"
        )
        paper = (
            "-" if printed is None else ", ".join("-" if value is None else f"{value:g}" for value in printed)
        )
        rows.append(
            [
                METHODS[method].title,
                f"{memory[method] / 1e6:.0f}" if method in memory else "-",
                delta,
                f"{share(session.steady(method)):.1%}" if METHODS[method].geometry else "-",
                paper,
                "-" if printed is None else f"{printed[0] / TABLE_8['qlora'][0]:.3f}",
                against,
            ]
        )
    return rows


def event_ms(rows: Sequence[Row]) -> Floats:
    """Milliseconds of reprojection and rank on the steps that reprojected."""
    return np.array(
        [row["ms_reprojection"] + row["ms_rank"] for row in rows if row["reprojected"]], dtype=float
    )


def table_14_rows(session: Session, memory: dict[str, float]) -> list[list[str]]:
    """The paper's Report A, in the order of `TABLE_14_HEADER`."""
    rows = []
    for method in (m for m in ("lora", "grit", "qlora", "qgrit") if m in session.runs):
        steady, found, twin = session.steady(method), tail(session.times(method)), plain_twin(method)
        head = [
            METHODS[method].title,
            f"{tokens_per_second(session, method):,.0f}",
            f"{found.mean:.1f}",
            f"{found.p95:.1f}",
            f"{found.p99:.1f}",
        ]
        if METHODS[method].geometry:
            events = tail(event_ms(steady))
            delta = (
                f"{(memory[method] - memory[twin]) / 1e6:+.1f}"
                if method in memory and twin in memory
                else "-"
            )
            head += [
                f"{events.mean:.1f}",
                f"{events.p95:.1f}",
                f"{amortized(steady, ('reprojection', 'rank')):.2f}",
                f"{share(steady):.3f}",
                delta,
            ]
        else:
            head += ["-", "-", "-", "-", "0"]
        rows.append([*head, TABLE_14.get(method, "-")])
    return rows


def component_rows(session: Session) -> list[list[str]]:
    """Mean breakdown over steady steps, and over those that reprojected.

    In the order of `COMPONENT_HEADER`.
    """
    rows = []
    for method in session.runs:
        steady = session.steady(method)
        for name, chosen in (
            ("all", steady),
            ("reprojection steps", [row for row in steady if row["reprojected"]]),
        ):
            if chosen:
                means = [float(np.mean([row[f"ms_{section}"] for row in chosen])) for section in SECTIONS]
                rows.append(
                    [
                        METHODS[method].title,
                        name,
                        str(len(chosen)),
                        *(f"{value:.2f}" for value in means),
                        f"{sum(means):.1f}",
                        f"{share(chosen):.1%}",
                    ]
                )
    return rows


def cadence_rows(data: StudyData, points: Sequence[PointSummary]) -> list[list[str]]:
    """Amortized reprojection cost against T, in the order of `CADENCE_HEADER`."""
    rows = []
    for p in sorted((p for p in points if "cadence" in p.designs and p.records), key=lambda p: p.T or 10**9):
        session = measured(data, p, 1)
        if session is None:
            continue
        steady, events = session.steady(p.method), event_ms(session.steady(p.method))
        mean = float(events.mean()) if len(events) else 0.0
        ratio = ratio_interval(session.times(p.method), session.times(session.other(p.method)))
        rows.append(
            [
                "none" if p.T is None else str(p.T),
                str(len(p.seeds)),
                str(len(events)),
                f"{mean:.2f}",
                f"{mean / p.T:.3f}" if p.T else "0",
                f"{amortized(steady, ('reprojection', 'rank')):.3f}",
                f"{share(steady):.1%}",
                "{:.3f} [{:.3f}, {:.3f}]".format(*ratio),
                f"{p.mean('quality'):.3f}",
            ]
        )
    return rows


def scaling_rows(
    data: StudyData, points: Sequence[PointSummary]
) -> tuple[list[list[str]], ScalingFit | None]:
    """Geometry over rank and adapted layers, in the order of `SCALING_HEADER`.

    With the descriptive fit where there are cells enough for one.
    """
    cells = []
    for p in (p for p in points if p.designs & {"rank", "layers"} and p.records):
        overrides, session = p.records[0].plan.overrides, measured(data, p, 1)
        if session is None:
            continue
        layers = len({layer_number(name) for name in p.records[0].measured.modules or []})
        memory, control = memory_of(p.records), session.other(p.method)
        cells.append(
            (
                int(overrides.get("rank", data.study["config"]["rank"])),
                layers,
                "last_layers" not in overrides,
                p,
                session,
                memory.get(p.method, np.nan) - memory.get(control, np.nan),
            )
        )
    geometry = np.array([geometry_ms(session.steady(p.method)) for _, _, _, p, session, _ in cells])
    fit = (
        None
        if len(cells) < 5
        else scaling_fit(
            np.array([float(r) for r, *_ in cells]), np.array([float(n) for _, n, *_ in cells]), geometry
        )
    )
    rows = []
    for number, ((rank, layers, whole, p, session, delta), found) in enumerate(
        zip(cells, geometry, strict=True)
    ):
        printed, left = (
            TABLE_15.get((rank, None if whole else layers)),
            None if fit is None else float(fit.residuals[number]),
        )
        rows.append(
            [
                str(rank),
                f"{layers}{' (all)' if whole else ''}",
                str(len(p.seeds)),
                f"{session.times(p.method).mean():.1f}",
                f"{found:.2f}",
                f"{share(session.steady(p.method)):.1%}",
                "-" if left is None else f"{found - left:.2f}",
                "-" if left is None else f"{left:+.2f}",
                "-" if np.isnan(delta) else f"{delta / 1e6:+.1f}",
                "-" if printed is None else f"{printed[0]:.3f}, +{printed[1]:g}",
            ]
        )
    return rows, fit


def layer_number(name: str) -> int | None:
    """The first number in a module's path: the layer it belongs to."""
    return next((int(part) for part in name.split(".") if part.isdigit()), None)


def long_rows(
    session: Session, method: Method
) -> tuple[list[list[str]], tuple[float, float, float], tuple[float, float]]:
    """Windows of the long run in the order of `LONG_HEADER`; the creep of its ratio to the control.

    P99 in the first and the second half.
    """
    control = session.other(method)
    steps = min(len(rows) for rows in session.runs[method])
    places = np.arange(steps)[window_of(steps)["steady"]]
    rows, ratios = [], []
    for part in np.array_split(places, min(LONG_WINDOWS, len(places))):
        mine, theirs = ([run[i] for run in session.runs[m] for i in part] for m in (method, control))
        found, plain = tail([row["ms_step"] for row in mine]), tail([row["ms_step"] for row in theirs])
        ratios.append(found.mean / plain.mean)
        rows.append(
            [
                f"{part[0] + 1} to {part[-1] + 1}",
                f"{plain.mean:.1f}",
                f"{found.mean:.1f}",
                f"{found.p95:.1f}",
                f"{found.p99:.1f}",
                f"{ratios[-1]:.3f}",
                f"{amortized(mine, ('reprojection', 'rank')):.3f}",
            ]
        )
    halves = [
        tail([run[i]["ms_step"] for run in session.runs[method] for i in half]).p99
        for half in np.array_split(places, 2)
    ]
    return rows, creep(ratios), (halves[0], halves[1])


def score_rows(points: Sequence[PointSummary]) -> list[list[str]]:
    """Quality per training hour, in the order of `SCORE_HEADER`; a log-likelihood has no rate."""
    rows = []
    for p in (p for p in points if p.designs & {"curve", "control"} and p.records):
        hours = p.mean("train_seconds") / 3600
        curves = [r.measured.curve or [] for r in p.records]
        middle = float(np.mean([curve[len(curve) // 2]["quality"] for curve in curves if curve]))
        rate = "-" if p.quality_metric == "answer_logprob" else f"{p.mean('quality') / hours:.0f}"
        rows.append(
            [
                p.regime,
                METHODS[p.method].title,
                str(len(p.seeds)),
                f"{p.mean('steps'):.0f}",
                f"{p.mean('train_seconds'):.1f}",
                f"{p.mean('quality'):.3f} ± {p.spread('quality'):.3f}",
                rate,
                f"{middle:.3f}",
            ]
        )
    return rows


def breakdown_figure(session: Session) -> Figure:
    """Stacked bars: mean step, and reprojection steps alone."""
    figure, axes = new_figure(2, width=3.6, height=3.2)
    for axis, only, title in ((axes[0], False, "mean step"), (axes[1], True, "reprojection steps")):
        chosen = {
            m: [row for row in session.steady(m) if row["reprojected"] or not only] for m in session.runs
        }
        chosen = {m: rows for m, rows in chosen.items() if rows}
        bottom = np.zeros(len(chosen))
        for number, section in enumerate(SECTIONS):
            heights = np.array([np.mean([row[f"ms_{section}"] for row in rows]) for rows in chosen.values()])
            axis.bar(
                range(len(chosen)),
                heights,
                bottom=bottom,
                color=SHADES[number % len(SHADES)],
                label=section,
                width=0.7,
                hatch="///" if section in GEOMETRY_SECTIONS else None,
                edgecolor="white",
                linewidth=0.3,
            )
            bottom += heights
        axis.set_xticks(
            range(len(chosen)),
            [f"{METHODS[m].title}\nn={len(rows)}" for m, rows in chosen.items()],
            fontsize=6,
        )
        axis.set_title(title)
    axes[0].set_ylabel("time per step (ms)")
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside lower center", ncol=7, frameon=False, fontsize=7
    )
    figure.suptitle("steady steps, methods in turn in one process; hatched: GRIT's own", fontsize=8)
    return figure


def ecdf_figure(session: Session) -> Figure:
    """Distribution of step times, reprojection steps marked."""
    figure, (axis,) = new_figure(1, width=5.0, height=3.2)
    for number, method in enumerate(session.runs):
        rows = sorted(session.steady(method), key=lambda row: float(row["ms_step"]))
        times = [row["ms_step"] for row in rows]
        shares = np.arange(1, len(rows) + 1) / len(rows)
        axis.step(
            times,
            shares,
            where="post",
            color=SHADES[number % len(SHADES)],
            linestyle=STROKES[number % len(STROKES)],
            label=f"{METHODS[method].title} (n = {len(rows)})",
        )
        spikes = [(t, s) for t, s, row in zip(times, shares, rows, strict=True) if row["reprojected"]]
        axis.scatter(
            [t for t, _ in spikes], [s for _, s in spikes], color=SHADES[number % len(SHADES)], s=16, zorder=3
        )
    plain_log_axis(axis)
    axis.set_xlabel("step time (ms)")
    axis.set_ylabel("share of steps at most this long")
    axis.set_title("steady steps; dots: steps that reprojected")
    axis.legend(frameon=False, fontsize=6, loc="lower right")
    return figure


def curves_figure(points: Sequence[PointSummary]) -> Figure | None:
    """Quality over training seconds (time-matched) and over steps (step-matched)."""
    panels = [
        (regime, [p for p in points if p.regime == regime and p.designs & {"curve", "control"} and p.records])
        for regime in ("time", "step")
    ]
    panels = [(regime, mine) for regime, mine in panels if mine]
    if not panels:
        return None
    figure, axes = new_figure(len(panels), width=3.6, height=3.0)
    for axis, (regime, mine) in zip(axes, panels, strict=True):
        for number, p in enumerate(mine):
            curves = [r.measured.curve or [] for r in p.records]
            length = min(len(curve) for curve in curves)
            x = [
                np.mean([curve[i]["train_seconds" if regime == "time" else "step"] for curve in curves])
                for i in range(length)
            ]
            y = np.array([[curve[i]["quality"] for i in range(length)] for curve in curves])
            axis.errorbar(
                x,
                y.mean(axis=0),
                yerr=y.std(axis=0, ddof=1) if len(y) > 1 else None,
                color=SHADES[number],
                linestyle=STROKES[number],
                marker="o",
                markersize=3,
                elinewidth=0.7,
                label=METHODS[p.method].title,
            )
        axis.set_xlabel("training time (s)" if regime == "time" else "optimizer step")
        axis.set_ylabel(mine[0].quality_metric)
        axis.set_title(
            f"{regime}-matched, n = {len(mine[0].seeds)} seeds; bars: standard deviation", fontsize=8
        )
        axis.legend(frameon=False)
    return figure


def build(data: StudyData, folder: Path) -> FamilyReport:
    """Writes the page, its tables and figures in the study's folder."""
    points = summarize_points(data.records)
    said: list[str] = []
    sections: list[Section] = []
    main = next((p for p in points if "session" in p.designs and p.records), None)
    session = None if main is None else measured(data, main, 0)
    if main is not None and session is not None:
        sections += _session_sections(session, memory_of(main.records), said)
    cadence = cadence_rows(data, points)
    scaling, fit = scaling_rows(data, points)
    sections += [
        Section(
            name="cadence",
            title="Reprojection over its cadence",
            header=CADENCE_HEADER,
            rows=cadence,
            columns=(0, 3, 4, 5, 6, 7),
            said=[
                "Event / T is what the definition of the amortized cost predicts from the mean event; "
                "beside it, what was measured over all steps."
            ],
        ),
        Section(
            name="scaling",
            title="Over rank and adapted layers",
            header=SCALING_HEADER,
            rows=scaling,
            columns=(0, 1, 4, 5, 6, 7),
            said=[
                "Too few cells for a fit."
                if fit is None
                else f"Descriptive fit of GRIT's milliseconds per step: {fit.shown()} (r rank, L layers; no "
                f"claim of complexity). Largest residual {np.abs(fit.residuals).max():.2f} ms."
            ],
        ),
    ]
    long = next((p for p in points if "long" in p.designs and p.records), None)
    run = None if long is None else measured(data, long, 1)
    if long is not None and run is not None:
        rows, (slope, low, high), (early, late) = long_rows(run, long.method)
        creeps = "no creep can be told" if low <= 0 <= high else "it creeps up" if low > 0 else "it falls"
        said.append(
            f"Over a run of {long.mean('steps'):.0f} steps the ratio to the control moves by {slope:+.4f} "
            f"a window [{low:+.4f}, {high:+.4f}]"
            f", so that {creeps}; P99 is {early:.0f} ms in its first half and {late:.0f} ms in its second."
        )
        sections.append(
            Section(
                name="long",
                title="A long run",
                header=LONG_HEADER,
                rows=rows,
                columns=(0, 1, 2, 4, 5),
                said=said[-1:],
            )
        )
    sections.append(
        Section(
            name="score",
            title="Score for time",
            header=SCORE_HEADER,
            rows=score_rows(points),
            columns=(0, 1, 3, 5, 6),
            figure=partial(curves_figure, points),
            caption="Quality over training time at equal seconds, and over steps at equal steps.",
        )
    )
    concurrent = data.study.get("execution", {}).get("concurrent", 1)
    page = FamilyReport(
        title="What geometry costs: the runtime audit",
        answer=said or ["No session of methods has ended yet."],
        sections=sections,
        limits=[
            f"Times are of this machine ({data.study['platform']}), {concurrent} trial(s) at once; the "
            "paper's are of an A100 "
            "with an 8B model. Compare ratios, not milliseconds.",
            "Resident memory of a CPU process holds its libraries too: read differences, and those of a "
            "few MB as noise.",
        ],
    )
    return write_family(page, [data], folder)


def _session_sections(session: Session, memory: dict[str, float], said: list[str]) -> list[Section]:
    """What the session of all methods shows; its headline goes to `said`."""
    for method in (m for m in ("grit", "qgrit") if m in session.runs):
        twin = plain_twin(method)
        if twin in session.runs:
            ratio, low, high = ratio_interval(session.times(method), session.times(twin))
            paper = (
                "; the paper's text says 6 to 10% for Q-GRIT against QLoRA, its Table 8 3.5%"
                if method == "qgrit"
                else ""
            )
            said.append(
                f"{METHODS[method].title}'s mean step takes {ratio - 1:+.1%} [{low - 1:+.1%}, "
                f"{high - 1:+.1%}] against "
                f"{METHODS[twin].title}'s beside it, and its own sections are "
                f"{share(session.steady(method)):.1%} of a step{paper}."
            )
    return [
        Section(
            name="steps",
            title="Step times",
            header=STEP_HEADER,
            rows=step_rows(session),
            columns=(0, 1, 3, 5, 6, 7),
            figure=partial(ecdf_figure, session),
            caption="How step times are distributed, and where reprojection steps lie.",
            said=[
                "All methods took turns step by step in one process; the first and the last tenth of the "
                "steps are not measured. Of "
                "fewer than 100 steps the P99 is their maximum."
            ],
        ),
        Section(
            name="costs",
            title="Memory and the paper's Table 8",
            header=COST_HEADER,
            rows=cost_rows(session, memory),
            columns=(0, 1, 2, 3, 5, 6),
            said=["Memory is the peak over a few training steps in a fresh process for each method."],
        ),
        Section(
            name="table14",
            title="The paper's Table 14",
            header=TABLE_14_HEADER,
            rows=table_14_rows(session, memory),
        ),
        Section(
            name="components",
            title="Where a step's time goes",
            header=COMPONENT_HEADER,
            rows=component_rows(session),
            figure=partial(breakdown_figure, session),
            caption="Mean milliseconds by component, over all steady steps and over those that reprojected.",
        ),
    ]
