"""The sensitivity study's report as its readers meet it.

Written whole, the answer first, the same from the same records.
"""

import csv
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from builders import ended, planned, study, study_folder, without_drawing
from conftest import ROOT

from analysis.evidence.load import load_study
from analysis.page.glossary import explanation
from analysis.report import main, rebuild
from analysis.studies.compare import unequal_steps
from analysis.studies.sensitivity.figures.all_figures import sensitivity_figures
from analysis.studies.sensitivity.front_tables import priority_rows
from analysis.studies.sensitivity.results import analyse
from analysis.studies.shared_settings import shared_settings
from grit.errors import ConfigError
from ray_jobs.records.study_file import Caps

#: What a folder holds before its report is made.
RECORDED = ("study.json", "trials.jsonl", "telemetry", "events", "predictions", "geometry", "spectra")


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """A study of made-up records with its report."""
    folder = tmp_path_factory.mktemp("reported")
    study_folder(folder)
    rebuild(folder)
    return folder


@pytest.fixture
def undrawn(monkeypatch):
    """Figures are computed and not drawn: `reported` has them all, and drawing takes most of the time."""
    without_drawing(monkeypatch)


def _copy(reported, folder):
    """The same study without its report."""
    for name in RECORDED:
        source = reported / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
    return folder


def test_everything_promised_is_written(reported):
    data = load_study(reported)
    result = analyse(data)
    for figure in sensitivity_figures(data, result.points, result.bands):
        for kind in ("svg", "png", "pdf"):
            drawn = (reported / "figures" / f"{figure.name}.{kind}").exists()
            assert drawn == (figure.compute() is not None), figure.name
    rows = list(csv.DictReader((reported / "pareto.csv").read_text().splitlines()))
    assert [row["point_id"] for row in rows] == [point.point_id for point in result.front]
    assert {row["regime"] for row in rows} == {"step", "time"}
    advice = json.loads((reported / "recommendation.json").read_text())
    assert set(advice["knobs"]) == {"tau", "T", "lambda"}
    assert advice["regime"] == "time"


def test_the_page_needs_no_network_and_answers_first(reported):
    page = (reported / "report.html").read_text()
    fetched = re.findall(r'(?:src|href)="(?!#|data:)([^"]{1,80})', page)
    fetched += re.findall(r"url\((?!#)([^)]+)\)", page)
    assert fetched == []
    assert "<script" not in page
    assert page.index('id="answer"') < page.index('id="front"') < page.index('id="limits"')


def test_the_front_and_the_recommendation_are_on_the_terminal_too(reported, tmp_path, undrawn):
    written = rebuild(_copy(reported, tmp_path))
    answer = written.terminal().splitlines()
    advice = written.result.recommendation
    assert answer[0] == advice.comparisons[0].headline()
    assert f"T = {advice.knobs[1].shown()}: {advice.knobs[1].confidence}" in answer
    settings = [s for band in written.result.bands for s in band.settings]
    strips = [line for line in answer if line.split()[:1] in (["tau"], ["T"], ["lambda"]) and "=" not in line]
    assert len(strips) == len(settings)
    lines = answer[[line.split()[:2] for line in answer].index(["regime", "method"]) :]
    assert lines[0].split()[:5] == ["regime", "method", "tau", "T", "lambda"]
    assert len(lines) == 2 + len(written.result.front)
    qualities = [float(line.split()[5]) for line in lines[2:] if line.startswith("step")]
    assert qualities == sorted(qualities, reverse=True)


def test_same_records_same_report(reported, tmp_path):
    """From disk, or as who ran the study holds them."""
    _copy(reported, tmp_path)
    rebuild(tmp_path, records=load_study(reported).records)
    kinds = (".html", ".md", ".csv", ".json", ".svg")
    for path in reported.rglob("*.*"):
        if path.suffix in kinds:
            assert (tmp_path / path.relative_to(reported)).read_bytes() == path.read_bytes(), path


def test_names_and_messages_from_runs_are_escaped(tmp_path, undrawn):
    records = [ended(record) for record in planned(study())]
    records[1] = ended(records[1], status="failed", error="<script>alert('x')</script> | & \"quoted\"")
    study_folder(tmp_path, records)
    rebuild(tmp_path)
    page, text = ((tmp_path / name).read_text() for name in ("report.html", "report.md"))
    assert "<script" not in page + text
    assert "&lt;script&gt;alert" in page
    assert r"&lt;/script&gt; \| &amp;" in text


def test_an_unfinished_study_is_reported_as_such(tmp_path, undrawn):
    records = planned(study())
    records = [ended(record) if number < 7 else record for number, record in enumerate(records)]
    records[3] = ended(records[3], status="diverged", error="loss")
    study_folder(tmp_path, records)
    rebuild(tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "not finished" in text
    assert "1 trial(s) did not complete" in text


def test_one_seed_is_said_to_be_one_seed_and_has_no_spread(tmp_path, undrawn):
    study_folder(tmp_path, seeds=(41,))
    written = rebuild(tmp_path)
    assert {point.spread("quality") for point in written.result.usable} == {None}
    text = (tmp_path / "report.md").read_text()
    assert "One seed" in text
    assert "±" not in text.split("## Sensitivity table")[1].split("## Figures")[0]


def test_caps_are_those_of_the_call_or_of_the_command_line(tmp_path, undrawn):
    study_folder(tmp_path)
    rebuild(tmp_path, Caps(overhead=0.04))
    assert "overhead at most 4%" in (tmp_path / "report.html").read_text()


def test_the_sensitivity_table_is_the_same_in_three_forms(reported):
    rows = list(csv.reader((reported / "tables" / "sensitivity.csv").read_text().splitlines()))
    bands = analyse(load_study(reported)).bands
    assert len(rows) == 1 + sum(len(band.settings) for band in bands)
    markdown, latex = ((reported / "tables" / f"sensitivity.{kind}").read_text() for kind in ("md", "tex"))
    assert markdown.count("\n") == len(rows) + 1
    control = rows[0].index("control's sd (quality)")  # beside every spread
    assert {bool(float(row[control])) for row in rows[1:]} == {True}
    assert latex.count("\\\\") == len(rows)
    assert r"\toprule" in latex
    assert "%" not in latex.replace(r"\%", "")  # escaped, or LaTeX takes it for a comment
    assert "±" not in latex


def _command(*arguments):
    command = [sys.executable, "-m", "analysis.report", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def test_command_line(tmp_path):
    study_folder(tmp_path, [ended(record) for record in planned(study(seeds=(41,), regimes=("step",)))[:2]])
    done = _command(tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "report.html")


def test_two_studies_side_by_side(reported, tmp_path, capsys):
    study_folder(tmp_path / "two", rank=8)
    assert main(["compare", str(reported), str(tmp_path / "two"), "--output", str(tmp_path / "c.html")]) == 0
    *answer, page_line = capsys.readouterr().out.splitlines()
    assert page_line == f"page: {tmp_path / 'c.html'}"
    assert answer[:2] == [f"1: {reported}", f"2: {tmp_path / 'two'}"]
    assert [line.partition(", study 2 against study 1: ")[0] for line in answer[2:]] == [
        "Step-matched, exact match",
        "Step-matched, forgetting",
        "Time-matched, exact match",
        "Time-matched, forgetting",
    ]
    page = (tmp_path / "c.html").read_text()
    assert '<td class="text">rank</td>' in page and "config." not in page
    assert page.count("<tr>") > 10
    assert page.count("paired [95%]") == page.count(", alone") == 2
    assert "They differ in" not in page
    assert main(["compare", str(reported)]) == 2


def test_two_studies_are_judged_by_one_model_of_the_noise(reported, tmp_path):
    """The mean is that of the seeds that both have; what is uncertain in it is known from all settings."""
    noise = np.random.default_rng(1)
    records = [
        ended(record, quality=0.6 + 0.05 * noise.normal(), forgetting=0.1 + 0.02 * noise.normal())
        for record in planned(study(rank=8))
    ]
    study_folder(tmp_path / "two", records, rank=8)
    settings = shared_settings(load_study(reported), load_study(tmp_path / "two"))
    assert len(settings) >= 10
    widths = {"pooled": 0.0, "alone": 0.0}
    for row in settings:
        pooled, alone = row.forgetting.contrast, row.forgetting_alone
        assert pooled.mean == pytest.approx(alone.mean)
        assert row.quality.contrast.mean == pytest.approx(row.quality_alone.mean)
        assert row.forgetting.p_value >= pooled.p_value
        widths["pooled"] += pooled.high - pooled.low
        widths["alone"] += alone.high - alone.low
    assert widths["pooled"] < 0.7 * widths["alone"]


def test_studies_that_share_their_trials_are_not_compared_with_themselves(reported, tmp_path, capsys):
    """One study twice is refused; what was taken over is left out, and it is said."""
    assert main(["compare", str(reported), str(reported)]) == 2
    assert "is one study twice" in capsys.readouterr().err
    shutil.copytree(reported, tmp_path / "again")
    assert main(["compare", str(reported), str(tmp_path / "again")]) == 0
    out = capsys.readouterr().out
    assert "study 2 against study 1" not in out
    assert "Trainings that are the same in both (taken over), " in out
    assert "Nothing else was trained by both." in out


def test_every_heading_explains_itself(reported, tmp_path):
    """A tooltip on each, in the report and in a comparison; and a term that is none has none."""
    study_folder(tmp_path / "two", rank=8)
    assert main(["compare", str(reported), str(tmp_path / "two"), "--output", str(tmp_path / "c.html")]) == 0
    for page in (reported / "report.html", tmp_path / "c.html"):
        text = page.read_text()
        assert re.findall(r"<th>(.*?)</th>", text) == []
        assert len(re.findall(r'<th title="[^"]{5,}">', text)) > 8
    assert explanation("no such heading") is None
    assert explanation("log-likelihood (nats/token) 2 - 1") == explanation("log-likelihood (nats/token)")


@pytest.mark.parametrize("arguments", [["none"], ["a", "b"], ["compare"]])
def test_bad_input_is_one_line(tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_a_folder_without_a_study_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="holds no study.json"):
        rebuild(tmp_path)


def test_what_to_use_if_one_thing_matters_most(tmp_path, undrawn):
    """The best mean of each, and never a setting that the verdicts exclude."""

    def outcome(record):
        footprint = {0.9: 0.3, 0.99: 0.8}.get(record.tau, 1.0)
        quality = 0.2 if record.tau == 0.9 else 0.5
        return ended(record, quality=quality, forgetting=0.1, footprint=footprint)

    options = {"seeds": (41, 42, 43), "regimes": ("step",)}
    records = [outcome(record) for record in planned(study(**options))]
    study_folder(tmp_path, records, **options)
    result = analyse(load_study(tmp_path))
    excluded = {s.point_id for s in result.marks().settings if s.verdict == "unsafe"}
    rows = {row.priority: row for row in priority_rows(result)}
    assert set(rows) == {"quality", "forgetting", "size"}
    assert len(excluded) == 1  # tau = 0.9 is smallest, and far worse
    assert rows["size"].point.tau == 0.99
    assert all(row.point.point_id not in excluded for row in rows.values())
    assert rows["quality"].quality.mean == pytest.approx(0.0)
    assert rows["quality"].shown_lead() == "not told from the next"
    written = rebuild(tmp_path)
    assert "if this matters most" in written.terminal()
    assert "If one thing matters most" in (tmp_path / "report.html").read_text()


def test_unequal_steps_of_equal_seconds_are_said(reported, tmp_path):
    """A busy machine once looked like a difference between two studies."""
    records = [
        ended(record, steps=20 if record.plan.regime == "step" else 9) for record in planned(study(rank=8))
    ]
    study_folder(tmp_path / "two", records, rank=8)
    settings = shared_settings(load_study(reported), load_study(tmp_path / "two"))
    timed = sum(row.point.regime == "time" for row in settings)
    (sentence,) = unequal_steps(settings)
    assert sentence.startswith(f"In {timed} of {timed} time-matched settings")
    assert "(20 against 9 on average)" in sentence
    assert unequal_steps([row for row in settings if row.point.regime == "step"]) == []
