import csv
import json
import re
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from builders import ended, study, study_folder
from conftest import ROOT

from analysis.data.load import load_study
from analysis.data.points import paired_quality, summarize_points
from analysis.report import analyse, build_report
from analysis.studies.sensitivity.bands import band, sweep_of
from grit.errors import ConfigError
from ray_jobs.design.plan import plan


def test_everything_promised_is_written(tmp_path):
    study_folder(tmp_path)
    report = build_report(tmp_path)
    for name in (
        "report.html",
        "report.md",
        "pareto.csv",
        "recommendation.json",
        "figures/front.svg",
        "figures/front.png",
        "figures/knob_tau.svg",
        "figures/knob_T.png",
        "figures/knob_lambda.pdf",
        "figures/ranks.png",
        "figures/capacity.pdf",
        "figures/parallel_step.svg",
        "figures/rank_map.png",
        "figures/spectra.png",
        "figures/updates.png",
        "figures/update_plane.png",
        "figures/step_times.png",
        "tables/sensitivity.md",
        "tables/sensitivity.tex",
        "tables/sensitivity.csv",
    ):
        assert (tmp_path / name).stat().st_size > 100, name
    rows = list(csv.DictReader((tmp_path / "pareto.csv").read_text().splitlines()))
    assert len(rows) == len(report.front) and {row["regime"] for row in rows} == {"step", "time"}
    advice = json.loads((tmp_path / "recommendation.json").read_text())
    assert set(advice["knobs"]) == {"tau", "T", "lambda"} and advice["regime"] == "time"


def test_the_page_needs_no_network_and_answers_first(tmp_path):
    study_folder(tmp_path)
    build_report(tmp_path)
    page = (tmp_path / "report.html").read_text()
    fetched = re.findall(r'(?:src|href)="(?!#|data:)([^"]{1,80})', page) + re.findall(
        r"url\((?!#)([^)]+)\)", page
    )
    assert fetched == [] and "<script" not in page
    assert page.index('id="answer"') < page.index('id="front"') < page.index('id="limits"')


def test_names_and_messages_from_runs_are_escaped(tmp_path):
    records = [ended(t.record) for t in plan(study())]
    records[1] = ended(records[1], status="failed", error="<script>alert('x')</script> | & \"quoted\"")
    study_folder(tmp_path, records)
    build_report(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page and "&lt;script&gt;alert" in page


def test_same_records_same_report(tmp_path):
    study_folder(tmp_path)
    build_report(tmp_path)
    first = {
        p.name: p.read_bytes()
        for p in tmp_path.rglob("*.*")
        if p.suffix in (".html", ".md", ".csv", ".json", ".svg")
    }
    build_report(tmp_path)
    assert {
        p.name: p.read_bytes()
        for p in tmp_path.rglob("*.*")
        if p.suffix in (".html", ".md", ".csv", ".json", ".svg")
    } == first


def test_an_unfinished_study_is_reported_as_such(tmp_path):
    records = [t.record for t in plan(study())]
    done = [ended(r) if i < 7 else r for i, r in enumerate(records)]
    done[3] = ended(records[3], status="diverged", error="loss")
    study_folder(tmp_path, done)
    build_report(tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "not finished" in text and "1 trial(s) did not complete" in text


def test_one_seed_is_said_to_be_one_seed(tmp_path):
    study_folder(tmp_path, seeds=(41,))
    build_report(tmp_path)
    assert "One seed" in (tmp_path / "report.md").read_text()


def _bands(tmp_path, outcome):
    records = [outcome(t.record) for t in plan(study(regimes=("step",)))]
    study_folder(tmp_path, records, regimes=("step",))
    data = load_study(tmp_path)
    points = summarize_points(data.records)
    return data, points, {knob: band(data, points, knob, "step") for knob in ("tau", "T", "lambda")}


def test_equal_settings_are_all_safe(tmp_path):
    _, _, bands = _bands(tmp_path, ended)
    assert {b.verdict for b in bands.values()} == {"robust"}


def test_each_criterion_fails_by_its_own_cause(tmp_path):
    def outcome(record):
        if record.tau == 0.9:
            return ended(record, footprint=0.95)
        if record.T == 5:
            return ended(record, forgetting=0.3)
        if record.lambda_ == 0.1:
            return (
                ended(record, quality=0.2)
                if record.seed == 41
                else ended(record, status="diverged", quality=0.2)
            )
        return ended(record)

    _, _, bands = _bands(tmp_path, outcome)
    failed = {knob: {s.value: s.failed for s in b.settings} for knob, b in bands.items()}
    assert failed["tau"] == {0.9: ("footprint",), 0.99: ()}
    assert failed["T"] == {5: ("retention",), 10: ()}
    assert failed["lambda"] == {0.001: (), 0.1: ("stability", "near-best quality")}


def test_seed_spread_fails_only_when_seeds_can_tell(tmp_path):
    def outcome(record):
        swing = (
            {0.9: 0.05, 0.99: 0.0}.get(record.tau, 0.0) if record.T == 10 else 0.3 if record.T == 5 else 0.0
        )
        return ended(record, quality=0.5 + swing * (record.seed - 41.5) * 2)

    _, _, bands = _bands(tmp_path, outcome)
    spread = {
        (knob, s.value): c.outcome
        for knob, b in bands.items()
        for s in b.settings
        for c in s.criteria
        if c.name == "seed spread"
    }
    assert spread["tau", 0.99] == "pass" and spread["tau", 0.9] == "inconclusive" and spread["T", 5] == "fail"


def test_what_was_not_measured_is_not_advised(tmp_path):
    records = [
        ended(t.record) if t.record.T != 5 and t.record.lambda_ != 0.1 else t.record
        for t in plan(study(regimes=("step",)))
    ]
    study_folder(tmp_path, records, regimes=("step",))
    advice = analyse(load_study(tmp_path)).recommendation["knobs"]
    assert advice["T"]["value"] == 10 and advice["lambda"]["value"] == 1e-3


def test_a_sweep_holds_the_other_knobs_at_the_default(tmp_path):
    _, points, _ = _bands(tmp_path, ended)
    for knob in ("tau", "T", "lambda"):
        assert len(sweep_of(points, knob, "step")) == 2


def test_pairing_is_by_seed_and_example(tmp_path):
    def outcome(record):
        return ended(record, quality=0.75 if record.tau == 0.9 else 0.5)

    data, points, _ = _bands(tmp_path, outcome)
    low, center = sweep_of(points, "tau", "step")
    assert paired_quality(data, low, center).mean == pytest.approx(0.25)
    lonely = replace(low, records=low.records[:1])
    other = replace(center, records=center.records[1:])
    assert paired_quality(data, lonely, other) is None


def test_front_means_and_probabilities(tmp_path):
    def outcome(record):
        return ended(record, quality=0.3) if record.T == 5 else ended(record, quality=0.6)

    records = [outcome(t.record) for t in plan(study(regimes=("step",)))]
    study_folder(tmp_path, records, regimes=("step",))
    report = analyse(load_study(tmp_path))
    worse = next(p for p in report.points if p.T == 5)
    assert worse not in report.front and report.standings["step"][worse.point_id].probability < 0.5
    assert report.hypervolume["step"] > 0
    assert set(report.front_trials) <= {r.trial_id for r in records}


def test_caps_knee_and_two_stage_are_reported(tmp_path):
    """A cheap setting of equal quality and retention comes first.

    A cap takes the dear ones out of the running.
    """

    def outcome(record):
        return ended(record, footprint=0.3, overhead=0.02) if record.tau == 0.9 else ended(record)

    study_folder(tmp_path, [outcome(t.record) for t in plan(study(regimes=("step",)))], regimes=("step",))
    report = analyse(load_study(tmp_path), {"overhead": None, "footprint": 0.5})
    assert report.knees["step"].tau == 0.9 and [p.tau for p in report.two_stage["step"]] == [0.9]
    free = analyse(load_study(tmp_path))
    assert free.two_stage["step"][0].tau == 0.9 and len(free.two_stage["step"]) == len(
        [p for p in free.points if p.records]
    )
    build_report(tmp_path, {"overhead": 0.04, "footprint": None})
    page = (tmp_path / "report.html").read_text()
    assert "overhead at most 4%" in page and "knee" in page


def test_failure_modes_are_named(tmp_path):
    def outcome(record):
        if record.tau == 0.9:
            return ended(record, footprint=0.5, quality=0.1)
        if record.T == 5:
            return ended(record, overhead=0.3)
        if record.lambda_ == 0.1:
            return ended(record, skipped_steps=4)
        return ended(record)

    _, _, bands = _bands(tmp_path, outcome)
    named = {
        (knob, s.value): [mode.name for mode in s.modes] for knob, b in bands.items() for s in b.settings
    }
    assert (
        named["tau", 0.9] == ["under-triggering"]
        and named["T", 5] == ["overhead domination"]
        and named["T", 10] == []
    )
    assert named["lambda", 0.1] == ["instability", "washed-out geometry"] and named["tau", 0.99] == []


def test_drift_and_over_triggering_need_evidence(tmp_path):
    def outcome(record):
        return (
            ended(record, forgetting=0.4)
            if record.T is None and record.tau is not None
            else (ended(record, footprint=1.0) if record.tau == 0.999 else ended(record, footprint=0.8))
        )

    records = [
        outcome(t.record)
        for t in plan(study(regimes=("step",), oat={"tau": (0.999,), "T": (None,), "lambda": (1e-2,)}))
    ]
    study_folder(tmp_path, records, regimes=("step",), oat={"tau": (0.999,), "T": (None,), "lambda": (1e-2,)})
    data = load_study(tmp_path)
    points = summarize_points(data.records)
    named = {
        (knob, s.value): [m.name for m in s.modes]
        for knob in ("tau", "T", "lambda")
        for s in band(data, points, knob, "step").settings
    }
    assert (
        named["T", None] == ["drift"]
        and named["tau", 0.999] == ["over-triggering"]
        and named["lambda", 1e-2] == []
    )


def test_the_sensitivity_table_is_the_same_in_three_forms(tmp_path):
    study_folder(tmp_path)
    report = build_report(tmp_path)
    rows = list(csv.reader((tmp_path / "tables" / "sensitivity.csv").read_text().splitlines()))
    assert len(rows) == 1 + sum(len(b.settings) for b in report.bands)
    markdown, latex = ((tmp_path / "tables" / f"sensitivity.{kind}").read_text() for kind in ("md", "tex"))
    assert markdown.count("\n") == len(rows) + 1 and latex.count("\\\\") == len(rows) and r"\toprule" in latex
    assert (
        "%" not in re.sub(r"\\%", "", latex) and "±" not in latex
    )  # escaped, or LaTeX takes it for a comment


def test_two_studies_side_by_side(tmp_path):
    study_folder(tmp_path / "one")
    study_folder(tmp_path / "two", rank=8)
    done = subprocess.run(
        [sys.executable, "-m", "analysis.report", "compare", str(tmp_path / "one"), str(tmp_path / "two")],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "one" / "compare-two.html").read_text()
    assert "config.adapter.rank" in page and page.count("<tr>") > 10 and "<script" not in page
    bad = subprocess.run(
        [sys.executable, "-m", "analysis.report", "compare", str(tmp_path / "one")],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert bad.returncode == 2 and bad.stderr.count("\n") == 1


def test_command_line(tmp_path):
    study_folder(tmp_path)
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "analysis.report", str(tmp_path)], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0 and done.stdout.strip().endswith("report.html")
    assert time.perf_counter() - began < 60
    bad = subprocess.run(
        [sys.executable, "-m", "analysis.report", str(tmp_path / "none")],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert (
        bad.returncode == 2 and bad.stderr.startswith("error: study folder") and bad.stderr.count("\n") == 1
    )


def test_a_folder_without_a_study_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no readable study.json"):
        build_report(tmp_path)


def test_the_report_says_where_the_time_went_and_what_was_saved(tmp_path):
    from analysis.data.compute import compute_of, sentences
    from ray_jobs.records.study_file import read_study

    records = study_folder(tmp_path)
    own = [
        replace(r, train_seconds=10.0, eval_seconds=1.0, setup_seconds=0.5, started_at=100.0, ended_at=112.0)
        for r in records
    ]
    own[0] = replace(own[0], reused_from="other", train_seconds=7.0)
    own[1:3] = [
        replace(
            r,
            forked_from="trunk-a",
            forked_at_step=5,
            fork_seconds=4.0,
            fork_eval_seconds=1.0,
            ended_at=107.0,
        )
        for r in own[1:3]
    ]
    trunk = {"trunk_id": "trunk-a", "parent": None, "members": [], "steps": 5, "train_seconds": 4.5}
    (tmp_path / "trunks.jsonl").write_text(json.dumps(trunk) + "\n")
    study = {**read_study(tmp_path), "calls": [{"seconds": 60.0}, {"seconds": 60.0}]}
    ran = len(own) - 1
    found = compute_of(study, own, tmp_path)
    assert found.shared == 2 * 4.0 - 4.5
    assert found.training == ran * 10.0 - found.shared and found.evaluation == ran - 2
    assert found.setup == ran * 0.5 and found.dispatch == ran * 0.5
    assert found.orchestration == max(0.0, 1 - (found.training + found.evaluation) / (120 * 2))
    said = " ".join(sentences(found))
    assert "1 trials were taken over" in said and "training seconds saved" in said
    assert compute_of({**study, "calls": [{}]}, own, tmp_path).orchestration is None  # a call that was killed
