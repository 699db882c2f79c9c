"""Pages of baselines, compression and audits, from studies that were trained here.

Who is compared with whom, and that each page is whole.
"""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from trained import trained_study

from analysis.evidence.load import load_study
from analysis.evidence.point_summary import summarize_points
from analysis.report import main, rebuild
from analysis.stats.estimates import Estimate
from analysis.stats.frontier_gap import gap_values
from analysis.studies.baselines.areas import area_rows
from analysis.studies.baselines.field_figure import field_of
from analysis.studies.baselines.frontier import frontiers
from analysis.studies.baselines.tuning import gaps_to_frontier, held_out_quality, setting_values, tune
from analysis.studies.compression.arms import ALL_DIRECTIONS, AT_K, BY_TAU, GRIT, WHOLE, BestArms, all_arms
from analysis.studies.small_batch.diagnostics import diagnostics_of
from analysis.studies.small_batch.regimes import BatchRegimes, GapChange, LostRegime, batch_verdict
from analysis.studies.small_batch.tables import boundary
from grit.config.sections import Budget
from ray_jobs.design.points import Point
from ray_jobs.records.trials_file import read_trials, write_trials
from sweeps import baselines, compression, forgetting_law, overhead, small_batch


@pytest.fixture(scope="module")
def base(half_backbone):
    """The smoke preset on half its backbone, as short as it can be with everything acting."""
    from grit.presets.run_presets import configuration

    smoke = configuration("smoke", "grit", steps=12)
    grit = replace(smoke.grit, cov_update_freq=1, kfac_update_freq=2, reprojection_freq=3, kfac_min_samples=8)
    return smoke.changed(
        model=half_backbone,
        rank=8,
        alpha=16.0,
        micro_batch=2,
        eval_examples=8,
        retention_documents=4,
        evaluations=1,
        grit=grit,
    )


def _points(script, base, *options):
    """What a script measures with these options, around our base."""
    line, _ = script.SCRIPT.read(["--preset", "smoke", "--regimes", "step", *options])
    request = script.SCRIPT.request(line)
    request = replace(
        request, preset=replace(request.preset, base=base), budget_steps=int(base.budget.amount)
    )
    return script.points(request)


def _of_design(points, *designs):
    return [point for point in points if point.design in designs]


def _whole(folder, written):
    """The page's text, once it is seen to hold every section and the files of every table."""
    text = (folder / "report.html").read_text()
    assert (folder / "report.md").read_text().startswith(f"# {written.page.title}")
    for section in written.page.sections:
        assert f'id="{section.name}"' in text
        if section.table:
            assert (folder / "tables" / f"{section.table.name}.tex").exists()
    return text


def _table(written, name):
    """The rows of one of a page's tables, as values."""
    (table,) = [s.table for s in written.page.sections if s.table is not None and s.table.name == name]
    return table.rows


def test_baselines(tmp_path, base, bench):
    options = ("--methods", "lora", "grit", "ia3", "--learning-rates", "2e-3", "8e-3")
    points = _of_design(_points(baselines, base, *options), "baseline")
    trained_study(tmp_path / "s", "baselines", base, points, bench)
    data = load_study(tmp_path / "s")
    tuned = tune(data, summarize_points(data.records), "step")
    assert list(tuned) == ["lora", "grit", "ia3"]
    assert tuned["grit"].rates == [2e-3, 8e-3]
    assert tuned["lora"].trials == 4
    for found in tuned.values():  # the even half chooses, and nothing else
        means = []
        for point in found.settings:
            means.append(np.mean([data.quality_values(r).values[::2].mean() for r in point.records]))
        assert found.best is found.settings[int(np.argmax(means))]
    written = rebuild(tmp_path / "s")
    text = _whole(tmp_path / "s", written)
    assert "LoRA&#39;s frontier" in text
    drawn = frontiers(data, tuned, "step")
    for method, curve in drawn.curves.items():
        assert len(curve.paths) == (0 if method == "ia3" else 2)
        assert (np.diff(curve.reached_by_all) >= 0).all()
        assert (curve.reached_by_one >= curve.reached_by_all).all()
    field = field_of(data, tuned, "step")
    assert [dot.title for dot in field.dots] == ["LoRA", "GRIT", "IA3"]
    assert [dot.share for dot in field.dots][0] == 1.0
    assert (np.diff(field.frontier_forgetting) > 0).all()
    areas = {row.tuned.method: row for row in area_rows(data, tuned)}
    assert areas["lora"].area is None
    assert areas["grit"].settings == 2 * (1 + len(baselines.SCALES))
    assert areas["ia3"].settings == 2
    assert "the reference" in text
    assert "frontier_step" in written.figures
    assert written.terminal().startswith("Step-matched. GRIT at its best learning rate")
    _check_paths(data, tuned, _table(written, "paths_step"))


def _check_paths(data, tuned, rows):
    """LoRA's and GRIT's updates scaled; LoRA's paths can only raise the frontier that others are beside."""
    at = {(row.tuned.method, row.factor): row for row in rows}
    assert {method for method, _ in at} == {"lora", "grit"}
    assert sorted(factor for method, factor in at if method == "lora") == [0.25, 0.5, 0.75, 1.0]
    assert at["lora", 0.25].forgetting < at["lora", 1.0].forgetting
    assert at["lora", 1.0].quality == held_out_quality(data, tuned["lora"].best)
    point, reference = tuned["grit"].best, tuned["lora"]
    ends = [setting_values(data, p) for p in reference.settings]
    untuned = data.untuned_values(point.records[0]).values[1::2]
    by_ends = gap_values(setting_values(data, point), ends, untuned).chord.mean()
    assert gaps_to_frontier(data, tuned, reference)["grit"].chord.mean <= by_ends + 1e-12


def test_compression(tmp_path, base, bench):
    base = base.changed(exported=True)
    points = _points(compression, base, "--ranks", "2", "--learning-rates", "4e-3")
    trained_study(tmp_path / "s", "compression", base, points, bench)
    best = BestArms(all_arms(load_study(tmp_path / "s")))
    arms = {arm.way: arm for arm in best.at("2")}
    ways_after = [
        f"truncated after training: {way}" for way in ("svd", "prefix", "one_sided", "two_sided", "balanced")
    ]
    nested = [f"trained nested: {way}" for way in ("svd", "prefix")]
    reprojected = [f"reprojected: {basis}" for basis in ("two-sided", "one-sided", "balanced")]
    assert set(arms) == {AT_K, *reprojected, *ways_after, *nested}
    assert len({arm.parameters for arm in arms.values()}) == 1  # equal exported parameters
    sizes = [arm.size for arm in arms.values()]
    assert max(sizes) / min(sizes) < 1.05  # but for the names in a file's header
    assert best.get(BY_TAU, GRIT) is not None
    assert best.get(ALL_DIRECTIONS, WHOLE) is not None
    assert best.get(BY_TAU, "truncated after training: peft") is not None
    written = rebuild(tmp_path / "s")
    assert "against LoRA trained at 2" in _whole(tmp_path / "s", written)
    assert "against_k" in written.figures
    areas = _table(written, "areas")
    assert [row.arm.way for row in areas] == [AT_K, *sorted({*reprojected, *ways_after, *nested})]
    assert areas[0].quality is None
    for row in areas:  # of one k the area is the score itself
        assert row.arm.test == pytest.approx(arms[row.arm.way].test)


@pytest.fixture(scope="module")
def audits(tmp_path_factory, base, bench):
    """The three audits, as short as they can be."""
    folder = tmp_path_factory.mktemp("audits")
    short = base.changed(eval_examples=4, retention_documents=2)
    planned = _points(overhead, short, "--methods", "lora", "qgrit")
    session = [
        Point.of("session", {"beside": ("lora", "qlora", "qgrit")}),
        Point.of("long", {"beside": ("lora",)}, budget=2.0),
        *(Point.of("rank", {"rank": r, "alpha": 2.0 * r, "beside": ("lora",)}) for r in (4, 8, 16)),
        Point.of("layers", {"last_layers": 2, "beside": ("lora",)}),
    ]
    timed = _of_design(planned, "cadence", "curve")
    trained_study(folder / "overhead", "overhead", short, [*session, *timed], bench, seeds=(41,))
    watched = short.changed(stability=True, budget=Budget(regime="step", amount=6))
    batches = _points(small_batch, watched, "--sizes", "1", "2")
    trained_study(folder / "small_batch", "small_batch", watched, batches, bench)
    eager = short.changed(learning_rate=1.6e-2)
    law = [point for point in _points(forgetting_law, eager) if point.budget <= 1]
    trained_study(folder / "forgetting_law", "forgetting_law", eager, law, bench, seeds=(41,))
    return folder


@pytest.mark.slow
def test_the_runtime_audit(audits):
    written = rebuild(audits / "overhead")
    _whole(audits / "overhead", written)
    shares = {row.title: row.share for row in _table(written, "components") if row.kind == "all"}
    assert set(shares) == {"LoRA", "QLoRA", "GRIT", "Q-GRIT"}
    assert shares["LoRA"] == 0
    assert shares["GRIT"] > 0
    cadence = _table(written, "cadence")
    assert [row.point.T for row in cadence] == [1, 3, 6, 12, None]
    assert cadence[-1].events == 0
    assert len(_table(written, "scaling")) == 4
    assert len(_table(written, "long")) == 8
    assert {"steps", "components", "score"} <= set(written.figures)
    assert "Q-GRIT's mean step takes" in written.page.answer[1]


@pytest.mark.slow
def test_the_audit_of_small_batches(audits):
    written = rebuild(audits / "small_batch")
    _whole(audits / "small_batch", written)
    split, whole = _table(written, "matched")[:2]
    assert (split.micro, split.passes, whole.micro, whole.passes) == (1, 2, 2, 1)
    for name in ("variance_used", "drift", "jitter_preconditioned"):
        assert getattr(split.diagnostics, name) == pytest.approx(getattr(whole.diagnostics, name), rel=0.02)
    assert len(_table(written, "j1")) == 5
    assert len(_table(written, "j2")) == 8
    assert {"j1", "j2", "j2_spectra", "j3"} <= set(written.figures)
    assert written.page.answer[0].startswith("Of 5 regimes:")


@pytest.mark.slow
def test_the_law_from_records(audits):
    written = rebuild(audits / "forgetting_law")
    _whole(audits / "forgetting_law", written)
    rows = _table(written, "law")
    names = ["log c, rank 4", "log c, rank 8", "beta (unique tokens)", "alpha (parameters)"]
    assert [row.name for row in rows][:4] == names
    assert "set by convention" in rows[3].identified
    runs = _table(written, "runs")
    assert {row.first.held_out for row in runs} == {True, False}
    watched = [row for row in runs if not row.first.acting]
    assert watched
    assert all(row.feature(2) == 1.0 for row in watched)  # nothing is projected: all of the mass is kept
    assert {"law", "profiles"} <= set(written.figures)
    assert written.page.answer[0].startswith("Forgetting grows as D^")


@pytest.mark.slow
def test_one_page_for_what_there_is(audits, tmp_path, capsys):
    shutil.copytree(audits / "small_batch", tmp_path / "small_batch")
    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "audit.html")
    text = (tmp_path / "audit.html").read_text()
    assert "overhead was not run" in text
    assert "Small batches" in text
    assert 'id="j1"' in text


@pytest.fixture(scope="module")
def calm(tmp_path_factory, base, bench):
    """Diagnostics of a trained setting, as if nothing in it moved."""
    folder = tmp_path_factory.mktemp("calm") / "s"
    watched = base.changed(stability=True, budget=Budget(regime="step", amount=6))
    points = [Point.of("batch", {"micro_batch": 1})]
    trained_study(folder, "small_batch", watched, points, bench, seeds=(41,))
    data = load_study(folder)
    (point,) = [p for p in summarize_points(data.records) if "batch" in p.designs]
    measured = diagnostics_of(data, point)
    return replace(measured, variance_used=0.1, drift=0.1, jitter_raw=50.0, jitter_preconditioned=52.0)


def _change(quality, forgetting=0.0):
    around = [Estimate(mean=m, low=m - 0.01, high=m + 0.01, seeds=2, items=8) for m in (quality, forgetting)]
    return GapChange(quality=around[0], forgetting=around[1])


def test_the_stated_rule(calm):
    assert batch_verdict(calm, _change(-0.02)) == "stable"
    assert batch_verdict(calm, None) == "not told"
    assert batch_verdict(calm, _change(-0.045)) == "not told"
    assert batch_verdict(calm, _change(-0.2)) == "degraded"
    assert batch_verdict(calm, _change(0.0, 0.1)) == "degraded"
    assert batch_verdict(replace(calm, jitter_preconditioned=61.0), _change(0.0)) == "degraded"
    assert batch_verdict(replace(calm, variance_used=1.5, drift=0.6), _change(0.0)) == "unstable"
    assert batch_verdict(replace(calm, variance_used=1.5), _change(0.0)) == "stable"


def test_a_lost_trial_makes_a_regime_unstable(calm):
    (record,) = calm.point.records
    lost = replace(calm.point, planned_trials=(record, record.changed(status="diverged")))
    assert batch_verdict(replace(calm, point=lost), _change(0.0)) == "unstable"
    said = boundary(BatchRegimes(measured=(), lost=(LostRegime(micro=1, passes=1),)))
    assert said.startswith(
        "Of 1 regimes: 1 unstable. Degraded or unstable at effective batches 1: no effective"
    )


@pytest.mark.slow
def test_a_regime_of_which_nothing_is_left_is_unstable(audits, tmp_path):
    shutil.copytree(audits / "small_batch", tmp_path / "s")
    smallest = {"micro_batch": 1, "accumulation": 1}
    records = []
    for record in read_trials(tmp_path / "s"):
        gone = record.plan.design == "batch" and record.plan.overrides == smallest
        records.append(record.changed(status="diverged") if gone else record)
    write_trials(tmp_path / "s", records)
    written = rebuild(tmp_path / "s")
    assert "unstable" in written.page.answer[0]
    assert "effective batches 1:" in written.page.answer[0]
    lost = next(row for row in _table(written, "j1") if row.regime.batch == 1)
    assert lost.measured is None
    assert lost.regime.verdict == "unstable"
    # what mitigations are compared with is gone, and nothing takes its place
    assert not any(row.is_base for row in _table(written, "j2"))
