"""The one-sided report and the switches from made-up records.

Who is compared with whom, and what is said of it.
"""

import csv
from collections import Counter
from dataclasses import replace

import pytest
from builders import ended, planned, study, study_folder

from analysis.evidence.corrected import CorrectedContrast, joint_verdict
from analysis.evidence.load import load_study
from analysis.evidence.point_summary import summarize_points
from analysis.report import rebuild
from analysis.stats.pooled_noise import Contrast
from analysis.studies.ablation.claims import claim_rows
from analysis.studies.ablation.family import family_rows
from analysis.studies.ablation.heatmap import metric_map
from analysis.studies.ablation.page import build
from analysis.studies.ablation.switches import switch_rows
from ray_jobs.design.points import Point
from ray_jobs.records.study_file import read_study

POINTS = (
    Point.of("family", {}, "grit"),
    Point.of("family", {"two_sided": False}, "grit"),
    Point.of("family", {}, "lora"),
    Point.of("switch", {"preconditioner": "none"}),
    Point.of("switch", {"T": None}),
    Point.of("grid", {"rank": 8}),
)
OPTIONS = {"seeds": (41, 42, 43), "regimes": ("step",)}


def _folder(folder, outcome):
    records = [outcome(record) for record in planned(replace(study(**OPTIONS), points=POINTS))]
    study_folder(folder, records, **OPTIONS)
    read_study(folder).model_copy(update={"name": "ablation"}).write(folder)
    return folder


def _measured(folder, outcome):
    data = load_study(_folder(folder, outcome))
    return data, [point for point in summarize_points(data.records) if point.records]


def _outcome(record):
    if record.plan.overrides.get("two_sided") is False:
        return ended(record, quality=0.3, forgetting=0.1, reprojections=1)
    if record.plan.overrides.get("preconditioner") == "none":
        return ended(record, quality=0.5, forgetting=0.4, reprojections=1)
    if record.method == "lora":
        return ended(record, quality=0.5, forgetting=0.3, reprojections=0)
    return ended(record, quality=0.5, forgetting=0.1, footprint=0.5, reprojections=1)


def test_one_sided_is_judged_against_two_sided(tmp_path):
    family = {row.title: row for row in family_rows(*_measured(tmp_path, _outcome))}
    assert list(family) == ["LoRA", "GRIT-uni", "GRIT"]
    assert family["GRIT"].is_reference
    assert family["GRIT-uni"].verdict == family["LoRA"].verdict == "worse"
    assert family["GRIT-uni"].quality.contrast.mean == pytest.approx(-0.2)
    assert family["GRIT"].own_basis_step == 10
    assert family["LoRA"].own_basis_step is None


def test_switches_are_judged_against_the_default(tmp_path):
    switches = {row.point.overrides_label(): row for row in switch_rows(*_measured(tmp_path, _outcome))}
    assert set(switches) == {"preconditioner = none", "T = none", "rank = 8"}
    assert switches["preconditioner = none"].verdict == "worse"
    assert switches["rank = 8"].verdict == "changed nothing"


def test_settings_are_marked_with_the_pages_words(tmp_path):
    """What MLflow shows on them."""
    marks = build(load_study(_folder(tmp_path, _outcome)), tmp_path).marks()
    by_word = Counter(setting.verdict for setting in marks.settings)
    assert by_word["the reference"] == 1
    assert by_word["worse"] >= 2
    assert by_word["changed nothing"] == 2  # rank, and T = none
    assert (marks.decided, marks.undecided) == (sum(by_word.values()) - by_word[None], 0)


def test_claims_can_be_confirmed(tmp_path):
    claims = claim_rows(*_measured(tmp_path, _outcome))
    assert [claim.verdict for claim in claims] == [
        "confirmed",
        "confirmed",
        "confirmed",
        "not above 10%",
        "not tested here: T is set, not found",
    ]


def test_claims_can_fail(tmp_path):
    def outcome(record):
        if record.method == "lora":
            return ended(record, quality=0.6, forgetting=0.0, reprojections=0)
        return ended(record, quality=0.4, forgetting=0.3, footprint=0.9, overhead=0.3, reprojections=1)

    verdicts = [claim.verdict for claim in claim_rows(*_measured(tmp_path, outcome))]
    assert verdicts[:4] == [
        "not confirmed",
        "not confirmed",
        "not confirmed: it forgets more",
        "not confirmed",
    ]


def test_the_map_shades_each_column_from_worst_to_best(tmp_path):
    _, points = _measured(tmp_path, _outcome)
    metrics = metric_map(points)
    assert metrics.metrics == ("exact match", "retention", "footprint")
    one_sided = metrics.settings.index("GRIT: two_sided = False")
    assert metrics.values[one_sided, 0] == pytest.approx(0.3)
    assert metrics.shades[one_sided, 0] == 0  # the lowest quality
    assert metrics.shades[metrics.settings.index("LoRA"), 2] == 0  # the largest footprint
    assert metrics.shades.max() == 1


def test_the_report_is_rebuilt_by_the_studys_name(tmp_path):
    def outcome(record):
        if record.plan.overrides.get("rank"):
            return ended(record, status="failed", error="<b>lost</b>")
        return _outcome(record)

    rebuild(_folder(tmp_path, outcome))
    page = (tmp_path / "report.html").read_text()
    assert "One-sided against two-sided" in page
    assert "&lt;b&gt;lost" in page
    assert "<b>lost" not in page + (tmp_path / "report.md").read_text()
    for name in ("family", "switches", "claims"):
        rows = list(csv.reader((tmp_path / "tables" / f"{name}.csv").read_text().splitlines()))
        assert len(rows) > 1
        assert {len(row) for row in rows} == {len(rows[0])}
        assert (tmp_path / "tables" / f"{name}.tex").exists()


@pytest.mark.parametrize(
    "quality, forgetting, verdict",
    [
        ((0.1, 0.2), (-0.1, 0.1), "better"),
        ((-0.2, -0.1), (0.1, 0.2), "worse"),
        ((0.1, 0.2), (0.1, 0.2), "mixed"),
        ((-0.1, 0.1), (-0.1, 0.1), "inconclusive"),
        ((-0.01, 0.02), (-0.01, 0.01), "equivalent"),
        ((-0.01, 0.02), (-0.1, 0.1), "inconclusive"),
        ((0.001, 0.02), (-0.01, 0.01), "better"),
        ((-0.1, 0.1), (0.1, 0.2), "worse"),
        ((-0.9, 0.1), (-0.2, -0.1), "inconclusive"),
        ((-0.1, 0.9), (0.1, 0.2), "inconclusive"),
        ((0.0, 0.0), (0.0, 0.0), "changed nothing"),
    ],
)
def test_verdicts_join_quality_and_forgetting(quality, forgetting, verdict):
    def over(ends):
        contrast = Contrast(
            mean=sum(ends) / 2,
            error=(ends[1] - ends[0]) / (2 * 1.96),
            freedom=1e6,
            seed_variance=0.0,
            item_variance=0.0,
            seeds=3,
        )
        not_equivalent = contrast.p_not_within(0.02)
        return CorrectedContrast(contrast=contrast, p_value=contrast.p_value, not_equivalent=not_equivalent)

    assert joint_verdict(over(quality), over(forgetting)) == verdict


def test_words_follow_the_corrected_p_values(tmp_path):
    """What is better by its own interval, and not after correction for the others, is inconclusive."""

    def outcome(record):
        odd = record.plan.seed % 2
        gain = {"none": 0.03, None: 0.0}.get(record.plan.overrides.get("preconditioner"), 0.0)
        return ended(record, quality=0.5 + gain + 0.025 * odd * (gain > 0))

    for row in switch_rows(*_measured(tmp_path, outcome)):
        told = row.quality.p_value <= 0.05 or row.forgetting.p_value <= 0.05
        assert (row.verdict in ("better", "worse")) <= told
