"""The one-sided report and the switches from made-up records.

Who is compared with whom, and what is said of it.
"""

import csv
import json
from dataclasses import replace

import pytest
from builders import ended, study, study_folder

from analysis.data.load import load_study
from analysis.report import rebuild
from analysis.stats.estimates import Estimate
from analysis.studies.ablation import analyse, verdict
from ray_jobs.design.plan import make_trial
from ray_jobs.design.points import Point

POINTS = [
    Point.of("family", {}, "grit"),
    Point.of("family", {"two_sided": False}, "grit"),
    Point.of("family", {}, "lora"),
    Point.of("switch", {"preconditioner": "none"}),
    Point.of("switch", {"T": None}),
    Point.of("grid", {"rank": 8}),
]


def _folder(tmp_path, outcome, seeds=(41, 42, 43)):
    made = replace(study(seeds=seeds, regimes=("step",)), points=())
    records = [
        outcome(make_trial(made, point, seed, made.budgets[0]).record) for seed in seeds for point in POINTS
    ]
    study_folder(tmp_path, records, seeds=seeds, regimes=("step",))
    path = tmp_path / "study.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "name": "ablation"}))
    return tmp_path


def _outcome(record):
    if record.overrides.get("two_sided") is False:
        return ended(record, quality=0.3, forgetting=0.1, reprojections=1)
    if record.overrides.get("preconditioner") == "none":
        return ended(record, quality=0.5, forgetting=0.4, reprojections=1)
    if record.method == "lora":
        return ended(record, quality=0.5, forgetting=0.3, reprojections=0)
    return ended(record, quality=0.5, forgetting=0.1, footprint=0.5, reprojections=1)


def test_one_sided_is_judged_against_two_sided_and_switches_against_the_default(tmp_path):
    report = analyse(load_study(_folder(tmp_path, _outcome)))
    family = {row[0]: row for row in report.family}
    assert list(family) == ["LoRA", "GRIT-uni", "GRIT"]
    assert (
        family["GRIT"][9] == "the reference"
        and family["GRIT-uni"][9] == "worse"
        and family["LoRA"][9] == "worse"
    )
    assert family["GRIT-uni"][7].startswith("-0.200")
    switches = {row[0]: row for row in report.switches}
    assert set(switches) == {"preconditioner = none", "T = none", "rank = 8"}
    assert switches["preconditioner = none"][-1] == "worse" and switches["rank = 8"][-1] == "changed nothing"
    claims = {row[0]: row[2] for row in report.claims}
    assert [claims[name] for name in claims] == [
        "confirmed",
        "confirmed",
        "confirmed",
        "not above 10%",
        "not tested here: T is set, not found",
    ]


def test_claims_can_fail(tmp_path):
    def outcome(record):
        return (
            ended(record, quality=0.6, forgetting=0.0, reprojections=0)
            if record.method == "lora"
            else ended(record, quality=0.4, forgetting=0.3, footprint=0.9, overhead=0.3, reprojections=1)
        )

    said = [row[2] for row in analyse(load_study(_folder(tmp_path, outcome))).claims]
    assert said[:4] == ["not confirmed", "not confirmed", "not confirmed: it forgets more", "not confirmed"]


def test_the_report_is_rebuilt_by_the_studys_name(tmp_path):
    rebuild(
        _folder(
            tmp_path,
            lambda r: (
                ended(r, status="failed", error="<b>lost</b>") if r.overrides.get("rank") else _outcome(r)
            ),
        )
    )
    page = (tmp_path / "report.html").read_text()
    assert "One-sided against two-sided" in page and "&lt;b&gt;lost" in page and "<b>lost" not in page
    for name in ("family", "switches", "claims"):
        rows = list(csv.reader((tmp_path / "tables" / f"{name}.csv").read_text().splitlines()))
        assert len(rows) > 1 and all(len(row) == len(rows[0]) for row in rows)
        assert (tmp_path / "tables" / f"{name}.tex").exists()


@pytest.mark.parametrize(
    "quality, forgetting, said",
    [
        ((0.1, 0.2), (-0.1, 0.1), "better"),
        ((-0.2, -0.1), (0.1, 0.2), "worse"),
        ((0.1, 0.2), (0.1, 0.2), "mixed"),
        ((-0.1, 0.1), (-0.1, 0.1), "inconclusive"),
        ((-0.1, 0.1), (0.1, 0.2), "worse"),
        ((-0.9, 0.1), (-0.2, -0.1), "inconclusive"),
        ((-0.1, 0.9), (0.1, 0.2), "inconclusive"),
        ((0.0, 0.0), (0.0, 0.0), "changed nothing"),
    ],
)
def test_verdicts_join_quality_and_forgetting(quality, forgetting, said):
    def over(pair):
        return Estimate(mean=sum(pair) / 2, low=pair[0], high=pair[1], seeds=3, items=10)

    assert verdict(over(quality), over(forgetting)) == said
