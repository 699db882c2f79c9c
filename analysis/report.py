"""The report: rebuilt from a study's folder alone. `python -m analysis.report DIR`."""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.data.compute import compute_of, sentences
from analysis.data.fronts import (
    Standing,
    costs,
    front,
    replicated_costs,
    standings,
    study_hypervolume,
    two_stage,
    within_caps,
)
from analysis.data.load import StudyData, load_study
from analysis.data.points import PointSummary, summarize_points
from analysis.page.family import FamilyReport
from analysis.page.render import render
from analysis.page.tables import tables
from analysis.stats.pareto import knee
from analysis.studies import ablation, baselines, compression, forgetting_law, overhead, small_batch
from analysis.studies.sensitivity.bands import Band, band, default_point
from analysis.studies.sensitivity.figures import METRICS, draw_all
from analysis.studies.sensitivity.further import further_rows
from analysis.studies.sensitivity.recommend import Comparison, compare_with_control, recommend
from analysis.studies.sensitivity.table import HEADER, sensitivity_rows
from grit.cli.options import OneLineParser
from grit.config.method import KNOBS
from grit.errors import ConfigError
from grit.io.files import write_atomically
from ray_jobs.records.study_file import STUDY_FILE
from ray_jobs.records.trial_record import TrialRecord

CAPTIONS = {
    "front": "Every setting: task quality against forgetting.",
    "knob_tau": "The energy threshold tau alone, all else at the default.",
    "knob_T": "The reprojection cadence T alone, all else at the default.",
    "knob_lambda": "The damping lambda alone, all else at the default.",
    "capacity": "F1: quality against footprint over tau; retention as colour, rank changes as numbers.",
    **{
        f"interactions_{regime}": "F4: each objective over T and lambda at the default tau, "
        f"{regime}-matched."
        for regime in ("step", "time")
    },
    **{
        f"parallel_{regime}": f"Every setting's knobs and objectives, {regime}-matched."
        for regime in ("step", "time")
    },
    "ranks": "Rank over training for each tau.",
    "rank_map": "Where capacity is kept and used: layers by kind of module.",
    "spectra": "Curvature spectra in rank space at the end of training.",
    "updates": "Where the weights change: by layer, against the first-order control.",
    "update_plane": "Weight updates of GRIT and of the control in one plane.",
    "step_times": "Step times, reprojection steps on their own.",
}


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a report says, before it is laid out."""

    data: StudyData
    points: list[PointSummary]
    front: list[PointSummary]
    standings: dict[str, dict[str, Standing]]
    knees: dict[str, PointSummary]
    two_stage: dict[str, list[PointSummary]]
    caps: dict[str, float | None]
    hypervolume: dict[str, float]
    bands: list[Band]
    comparisons: list[Comparison]
    recommendation: dict[str, Any]

    @property
    def front_trials(self) -> list[str]:
        """Trial ids of the front's points."""
        return [record.trial_id for point in self.front for record in point.records]


def analyse(data: StudyData, caps: dict[str, float | None] | None = None) -> Report:
    """All numbers of the report.

    `caps` (overhead, footprint) are as given, else as the study's last call had them.
    """
    points = summarize_points(data.records)
    known: dict[str, float | None] = (data.study.get("calls") or [{}])[-1].get("caps") or {}
    chosen = {name: (caps or {}).get(name) or known.get(name) for name in ("overhead", "footprint")}
    regimes = [regime for regime in ("step", "time") if any(p.regime == regime and p.records for p in points)]
    members: list[PointSummary] = []
    stand: dict[str, dict[str, Standing]] = {}
    knees: dict[str, PointSummary] = {}
    staged: dict[str, list[PointSummary]] = {}
    volume: dict[str, float] = {}
    bands: list[Band] = []
    comparisons: list[Comparison] = []
    for regime in regimes:
        mine = [p for p in points if p.regime == regime]
        candidates = front(mine)
        members += candidates
        full, draws = replicated_costs(data, mine)
        stand[regime] = standings(full, draws)
        allowed = [p for p in candidates if within_caps(p, chosen["overhead"], chosen["footprint"])]
        if (bend := knee(costs(allowed))) is not None:
            knees[regime] = allowed[bend]
        staged[regime] = [
            p for p in two_stage(full, draws) if within_caps(p, chosen["overhead"], chosen["footprint"])
        ]
        volume[regime] = study_hypervolume(mine)
        bands += [found for knob in KNOBS if (found := band(data, mine, knob, regime)) is not None]
        center = default_point(mine, regime)
        comparison = (
            compare_with_control(data, mine, center) if center is not None and center.records else None
        )
        if comparison is not None:
            comparisons.append(comparison)
    return Report(
        data=data,
        points=points,
        front=members,
        standings=stand,
        knees=knees,
        two_stage=staged,
        caps=chosen,
        hypervolume=volume,
        bands=bands,
        comparisons=comparisons,
        recommendation=recommend(bands, comparisons, points),
    )


def build_report(folder: Path, caps: dict[str, float | None] | None = None) -> Report:
    """Analyses the study in `folder` and writes `pareto.csv`, `tables/`, `figures/`, `recommendation.json`.

    `report.html`, `report.md` there.

    Raises:
        ConfigError: the folder holds no study, or a malformed one.
    """
    data = load_study(folder)
    report = analyse(data, caps)
    write_atomically(folder / "pareto.csv", pareto_csv(report))
    context = _context(report)
    (folder / "tables").mkdir(exist_ok=True)
    for name, text in tables("sensitivity", *context["sensitivity"]).items():
        write_atomically(folder / "tables" / name, text)
    write_atomically(
        folder / "recommendation.json", json.dumps(report.recommendation, indent=2, ensure_ascii=False)
    )
    figures = draw_all(data, report.points, folder / "figures")
    write_atomically(folder / "report.html", render("report.html.j2", **context, figures=figures))
    links = {name: f"figures/{name}.png" for name in figures}
    write_atomically(folder / "report.md", render("report.md.j2", **context, figures=links))
    return report


#: Studies that have a page of their own, by name.
FAMILIES: dict[str, Callable[[StudyData, Path], FamilyReport]] = {
    "ablation": ablation.build,
    "baselines": baselines.build,
    "compression": compression.build,
    "overhead": overhead.build,
    "small_batch": small_batch.build,
    "forgetting_law": forgetting_law.build,
}


def rebuild(folder: Path, caps: dict[str, float | None] | None = None) -> Report | FamilyReport:
    """The report that belongs to the study in `folder`, by its name.

    Raises:
        ConfigError: the folder holds no study, or a malformed one.
    """
    if not (folder / STUDY_FILE).exists() and any(folder.glob(f"*/{STUDY_FILE}")):  # one study per backbone
        return forgetting_law.build_joint(folder)
    data = load_study(folder)
    build = FAMILIES.get(data.study["name"])
    return build_report(folder, caps) if build is None else build(data, folder)


def pareto_csv(report: Report) -> str:
    """Every front point with its objectives; means over seeds."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        [
            "regime",
            "point_id",
            "method",
            "designs",
            "tau",
            "T",
            "lambda",
            "n_seeds",
            "quality_metric",
            "quality",
            "retention",
            "forgetting",
            "overhead",
            "footprint",
            "effective_parameters",
            "front_probability",
            "trial_ids",
        ]
    )
    for p in report.front:
        stands = report.standings[p.regime].get(p.point_id)
        probability = None if stands is None else stands.probability
        writer.writerow(
            [
                p.regime,
                p.point_id,
                p.method,
                "+".join(sorted(p.designs)),
                p.tau,
                "none" if p.T is None and p.tau is not None else p.T,
                p.lambda_,
                len(p.seeds),
                p.quality_metric,
                *(
                    p.mean(n)
                    for n in (
                        "quality",
                        "retention",
                        "forgetting",
                        "overhead",
                        "footprint",
                        "effective_parameters",
                    )
                ),
                probability,
                " ".join(r.trial_id for r in p.records),
            ]
        )
    return out.getvalue()


def _context(report: Report) -> dict[str, Any]:
    """What the templates show."""
    study, records = report.data.study, report.data.records
    usable = [p for p in report.points if p.records]
    metric = usable[0].quality_metric if usable else "quality"
    ended = [r for r in records if r.ended]
    return {
        "study": study,
        "metric": METRICS.get(metric, metric),
        "captions": CAPTIONS,
        "comparisons": [(c.headline(), c.sentence(METRICS.get(metric, metric))) for c in report.comparisons],
        "recommendation": report.recommendation,
        "bands": report.bands,
        "front": [_front_row(report, p) for p in report.front],
        "two_stage": _two_stage_rows(report),
        "candidates": {regime: len(found) for regime, found in report.two_stage.items()},
        "caps": _cap_words(report),
        "sensitivity": (HEADER, sensitivity_rows(report.bands)),
        "dominated": {
            regime: sum(s.dominated_by is not None for s in found.values())
            for regime, found in report.standings.items()
        },
        "hypervolume": report.hypervolume,
        "points": len(usable),
        "trials": [_trial_row(r) for r in records],
        "counts": {
            s: sum(r.status == s for r in records)
            for s in ("completed", "diverged", "failed", "stopped", "planned")
        },
        "compute": sentences(compute_of(study, records, report.data.folder)),
        "disturbance": max(
            (r.measured.disturbance for r in ended if r.measured.disturbance is not None and r.plan.regime == "time"), default=None
        ),
        "base": next(
            ((r.measured.base_quality, r.measured.base_retention_loss) for r in ended if r.measured.base_quality is not None), None
        ),
        "further": further_rows(report.points),
        "limits": _limits(report),
    }


def _front_row(report: Report, p: PointSummary) -> list[str]:
    stands = report.standings[p.regime].get(p.point_id)
    remarks = [
        name
        for name, holds in (
            ("knee", report.knees.get(p.regime) is p),
            ("above a cap", not within_caps(p, report.caps["overhead"], report.caps["footprint"])),
            (
                f"dominated beyond noise by {stands.dominated_by}" if stands else "",
                stands is not None and stands.dominated_by is not None,
            ),
        )
        if holds
    ]
    return [
        p.regime,
        p.method,
        *p.knob_texts(),
        f"{p.mean('quality'):.3f}",
        f"{p.mean('retention'):.3f}",
        f"{p.mean('forgetting'):+.3f}",
        f"{p.mean('overhead'):.1%}",
        f"{p.mean('footprint'):.0%}",
        f"{p.mean('steps'):.0f}",
        str(len(p.seeds)),
        "-" if stands is None else f"{stands.probability:.0%}",
        "; ".join(remarks),
    ]


def _two_stage_rows(report: Report) -> list[list[str]]:
    """The five cheapest of each regime that no other point beats in quality and retention beyond noise."""
    return [
        [
            p.regime,
            p.method,
            *p.knob_texts(),
            f"{p.mean('quality'):.3f}",
            f"{p.mean('retention'):.3f}",
            f"{p.mean('footprint'):.0%}",
            f"{p.mean('overhead'):.1%}",
        ]
        for found in report.two_stage.values()
        for p in found[:5]
    ]


def _cap_words(report: Report) -> str:
    """The caps in words; empty without any."""
    return " and ".join(
        f"{name} at most {value:.0%}" for name, value in report.caps.items() if value is not None
    )


def _trial_row(r: TrialRecord) -> list[str]:
    def number(value: float | None, style: str) -> str:
        return "-" if value is None else format(value, style)

    cadence = "-" if r.tau is None else "none" if r.T is None else str(r.T)
    return [
        r.trial_id,
        r.plan.design,
        r.plan.regime,
        str(r.plan.seed),
        r.method,
        number(r.tau, ".4g"),
        cadence,
        number(r.lambda_, ".3g"),
        r.status,
        number(r.measured.quality, ".3f"),
        number(r.measured.retention, ".3f"),
        number(r.measured.overhead, ".1%"),
        number(r.measured.footprint, ".0%"),
        number(r.measured.steps, "d"),
        number(r.measured.train_seconds, ".2f"),
        number(r.measured.disturbance, ".0%"),
        r.error or "",
    ]


def _limits(report: Report) -> list[str]:
    """What this study does not show, from its own records."""
    study, records = report.data.study, report.data.records
    seeds = {r.plan.seed for r in records}
    found = [
        f"One backbone ({study['config']['model']}) and one task ({study['config']['task']['name']}): "
        "nothing here speaks of others."
    ]
    if len(seeds) == 1:
        found.append("One seed: intervals cover the examples only, and seed variance is not known.")
    elif len(seeds) < 3:
        found.append(
            "2 seeds: their spread is hardly known, so that intervals are wide wherever seeds differ; "
            "three or more would tell more."
        )
    lost = [r for r in records if r.status in ("failed", "diverged", "stopped")]
    if lost:
        found.append(
            f"{len(lost)} trial(s) did not complete and are left out of means; they count against stability."
        )
    if any(not r.ended for r in records):
        found.append("The study is not finished: planned trials are missing here.")
    disturbed = [r for r in records if r.plan.regime == "time" and (r.measured.disturbance or 0) > 0.1]
    if disturbed:
        found.append(
            f"{len(disturbed)} time-matched trial(s) had less than 90% of their core to themselves: their "
            "budgets bought fewer steps."
        )
    found.append(
        "With four objectives most points are on a raw front; the bootstrap probability of being on it "
        "says more."
    )
    return found


def parser() -> argparse.ArgumentParser:
    """`DIR [--max-overhead S] [--max-footprint S]`, or `compare DIR1 DIR2`."""
    p = OneLineParser(
        prog="python -m analysis.report",
        description="Rebuilds the report and all it shows from the records in DIR. "
        "`python -m analysis.report compare DIR1 DIR2` lays two studies side by side.",
    )
    p.add_argument("folders", nargs="+", metavar="DIR", help="a study's folder, or: compare DIR1 DIR2")
    p.add_argument(
        "--max-overhead", type=float, metavar="SHARE", help="cap on the share of a step that geometry takes"
    )
    p.add_argument(
        "--max-footprint",
        type=float,
        metavar="SHARE",
        help="cap on the share of the full adapter's parameters",
    )
    p.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="where `compare` writes its page (default: DIR1/compare-<DIR2>.html)",
    )
    return p


def main(argv: Sequence[str]) -> int:
    """Command line: rebuild one report, or compare two; 2 for bad input."""
    arguments = parser().parse_args(list(argv))
    folders = arguments.folders
    try:
        if folders[0] == "compare":
            if len(folders) != 3:
                raise ConfigError("compare", " ".join(folders[1:]), "needs two folders")
            from analysis.studies.compare import build_comparison

            first, second = Path(folders[1]), Path(folders[2])
            page = arguments.output or first / f"compare-{second.resolve().name}.html"
            print(build_comparison(first, second, page))
            return 0
        if len(folders) != 1:
            raise ConfigError("DIR", " ".join(folders), "must be one folder (or: compare DIR1 DIR2)")
        rebuild(Path(folders[0]), {"overhead": arguments.max_overhead, "footprint": arguments.max_footprint})
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(Path(folders[0]) / "report.html")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
