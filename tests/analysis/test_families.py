"""Pages of baselines, compression and audits from studies that were trained here.

Who is compared with whom, and that each page is whole.
"""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from analysis.studies.batch_stability import Change, stability_of, verdict
from trained import trained_study

from analysis.data.load import load_study
from analysis.data.points import summarize_points
from analysis.report import rebuild
from analysis.stats.estimates import Estimate
from analysis.studies.audits import build as build_audit
from analysis.studies.audits import main as audit_main
from analysis.studies.baselines import tune
from analysis.studies.compression import all_arms, best_arms
from analysis.studies.small_batch import boundary
from grit.config.sections import Budget
from ray_jobs.design.points import Point
from ray_jobs.design.study_presets import preset
from ray_jobs.records.trials_file import read_trials, write_trials
from sweeps import baselines, compression, forgetting_law, overhead, small_batch


@pytest.fixture(scope="module")
def base():
    """The smoke preset, as short as it can be with everything acting."""
    from grit.training.run_presets import configuration

    found = configuration("smoke", "grit", steps=12)
    grit = replace(found.grit, cov_update_freq=1, kfac_update_freq=2, reprojection_freq=3, kfac_min_samples=8)
    return found.changed(
        rank=8, alpha=16.0, micro_batch=2, eval_examples=8, retention_documents=4, evaluations=1, grit=grit
    )


def _points(script, base, steps=12, **own):
    chosen = replace(preset("smoke", "grit", steps), base=base)
    return script.points(
        chosen, SimpleNamespace(own=own, budget_steps=steps, regimes=("step",), preset=chosen)
    )


def _whole(folder, report):
    page = (folder / "report.html").read_text()
    assert all(f'id="{section.name}"' in page for section in report.sections) and (
        folder / "report.md"
    ).read_text().startswith(f"# {report.title}")
    for section in report.sections:
        if section.rows:
            assert all(len(row) == len(section.header) for row in section.rows)
            assert (folder / "tables" / f"{section.name}.tex").exists()
    return page


def test_baselines(tmp_path, base, bench):
    points = [
        p
        for p in _points(baselines, base, methods=["lora", "grit", "ia3"], learning_rates=[2e-3, 8e-3])
        if p.design == "baseline"
    ]
    trained_study(tmp_path / "s", "baselines", base, points, bench)
    data = load_study(tmp_path / "s")
    tuned = tune(data, summarize_points(data.records), "step")
    assert (
        list(tuned) == ["lora", "grit", "ia3"]
        and tuned["grit"].rates == (2e-3, 8e-3)
        and tuned["lora"].trials == 4
    )
    for found in tuned.values():  # chosen on the even half, by nothing else
        means = [
            np.mean([data.quality_values(r).values[::2].mean() for r in p.records]) for p in found.settings
        ]
        assert found.chosen is found.settings[int(np.argmax(means))]
    report = rebuild(tmp_path / "s")
    page = _whole(tmp_path / "s", report)
    assert "LoRA&#39;s frontier" in page and "the reference" in page and "frontier_step" in report.figures
    assert report.terminal().startswith("Step-matched. GRIT at its best learning rate")


def test_compression(tmp_path, base, bench):
    base = base.changed(exported=True)
    trained_study(
        tmp_path / "s",
        "compression",
        base,
        _points(compression, base, ranks=[2], learning_rates=[4e-3]),
        bench,
    )
    best = best_arms(all_arms(load_study(tmp_path / "s")))
    ways = {way for k, way in best if k == "2"}
    assert ways == {
        "trained at k",
        "reprojected: two-sided",
        "reprojected: one-sided",
        "reprojected: balanced",
        *(f"truncated after training: {way}" for way in ("svd", "one_sided", "two_sided", "balanced")),
    }
    assert len({best["2", way].parameters for way in ways}) == 1  # equal exported parameters
    assert (
        max(best["2", way].size for way in ways) / min(best["2", way].size for way in ways) < 1.05
    )  # but for the names in a file's header
    assert {("tau", "GRIT"), ("r", "LoRA, whole"), ("tau", "truncated after training: peft")} <= set(best)
    report = rebuild(tmp_path / "s")
    assert "against LoRA trained at 2" in _whole(tmp_path / "s", report) and "against_k" in report.figures


@pytest.fixture(scope="module")
def audits(tmp_path_factory, base, bench):
    """The three audits, as short as they can be."""
    folder = tmp_path_factory.mktemp("audits")
    short = base.changed(eval_examples=4, retention_documents=2)
    timed = [
        p for p in _points(overhead, short, methods=["lora", "qgrit"]) if p.design in ("cadence", "curve")
    ]
    session = [
        Point.of("session", {"beside": ("lora", "qlora", "qgrit")}),
        Point.of("long", {"beside": ("lora",)}, budget=2.0),
        *(Point.of("rank", {"rank": r, "alpha": 2.0 * r, "beside": ("lora",)}) for r in (4, 8, 16)),
        Point.of("layers", {"last_layers": 2, "beside": ("lora",)}),
    ]
    trained_study(folder / "overhead", "overhead", short, [*session, *timed], bench, seeds=(41,))
    watched = short.changed(stability=True, budget=Budget(regime="step", amount=6))
    trained_study(
        folder / "small_batch",
        "small_batch",
        watched,
        _points(small_batch, watched, steps=6, sizes=[1, 2]),
        bench,
    )
    eager = short.changed(learning_rate=1.6e-2)
    law = [p for p in _points(forgetting_law, eager) if p.budget <= 1]
    trained_study(folder / "forgetting_law", "forgetting_law", eager, law, bench, seeds=(41,))
    return folder


def _rows(report, name):
    return next(section.rows for section in report.sections if section.name == name)


@pytest.mark.slow
def test_the_runtime_audit(audits):
    report = rebuild(audits / "overhead")
    _whole(audits / "overhead", report)
    components = {row[0]: row for row in _rows(report, "components")}
    assert (
        {"LoRA", "QLoRA", "GRIT", "Q-GRIT"} == set(components)
        and components["LoRA"][-1] == "0.0%"
        and components["GRIT"][-1] != "0.0%"
    )
    cadence = _rows(report, "cadence")
    assert [row[0] for row in cadence] == ["1", "3", "6", "12", "none"] and cadence[-1][2] == "0"
    assert len(_rows(report, "scaling")) == 4 and len(_rows(report, "long")) == 8
    assert {"steps", "components", "score"} <= set(
        report.figures
    ) and "Q-GRIT's mean step takes" in report.answer[1]


@pytest.mark.slow
def test_the_audit_of_small_batches(audits):
    report = rebuild(audits / "small_batch")
    _whole(audits / "small_batch", report)
    matched = {row[1]: row[2:] for row in _rows(report, "matched")}
    assert [float(x) for x in matched["1 x 2"]] == pytest.approx(
        [float(x) for x in matched["2 x 1"]], rel=0.02
    )
    assert (
        len(_rows(report, "j1")) == 5
        and len(_rows(report, "j2")) == 8
        and {"j1", "j2", "j2_spectra", "j3"} <= set(report.figures)
    )
    assert report.answer[0].startswith("Of 5 regimes:")


@pytest.mark.slow
def test_the_law_from_records(audits):
    report = rebuild(audits / "forgetting_law")
    _whole(audits / "forgetting_law", report)
    rows = _rows(report, "law")
    assert [row[0] for row in rows][:4] == [
        "log c, rank 4",
        "log c, rank 8",
        "beta (unique tokens)",
        "alpha (parameters)",
    ]
    assert "set by convention" in rows[3][-1]
    runs = _rows(report, "runs")
    assert {row[-1] for row in runs} == {"yes", "no"} and {row[1] for row in runs} == {
        "GRIT",
        "LoRA, watched",
    }
    assert all(
        float(row[10]) == 1.0 for row in runs if row[1] == "LoRA, watched"
    )  # nothing is projected, so all of the mass is kept
    assert {"law", "profiles"} <= set(report.figures) and report.answer[0].startswith(
        "Forgetting grows as D^"
    )


@pytest.mark.slow
def test_one_page_for_what_there_is(audits, tmp_path, capsys):
    (tmp_path / "small_batch").symlink_to(audits / "small_batch")
    page = build_audit(tmp_path).read_text()
    assert "overhead was not run" in page and "Small batches" in page and 'id="j1"' in page
    assert audit_main([str(tmp_path / "nothing")]) == 2 and "holds none of" in capsys.readouterr().err


def test_the_stated_rule(tmp_path, base, bench):
    watched = base.changed(stability=True, budget=Budget(regime="step", amount=6))
    trained_study(
        tmp_path / "s", "small_batch", watched, [Point.of("batch", {"micro_batch": 1})], bench, seeds=(41,)
    )
    data = load_study(tmp_path / "s")
    found = next(s for p in summarize_points(data.records) if (s := stability_of(data, p)) is not None)
    calm = replace(found, variance_used=0.1, drift=0.1, jitter_raw=50.0, jitter_preconditioned=52.0)

    def change(mean, forgetting=0.0):
        around = [Estimate(mean=m, low=m - 0.01, high=m + 0.01, seeds=2, items=8) for m in (mean, forgetting)]
        return Change(quality=around[0], forgetting=around[1])

    assert (
        verdict(calm, change(-0.02)) == "stable"
        and verdict(calm, None) == "not told"
        and verdict(calm, change(-0.045)) == "not told"
    )
    assert verdict(calm, change(-0.2)) == verdict(calm, change(0.0, 0.1)) == "degraded"
    assert verdict(replace(calm, jitter_preconditioned=61.0), change(0.0)) == "degraded"
    assert verdict(replace(calm, variance_used=1.5, drift=0.6), change(0.0)) == "unstable"
    assert verdict(replace(calm, variance_used=1.5), change(0.0)) == "stable"
    assert verdict(replace(calm, point=replace(calm.point, lost=1)), change(0.0)) == "unstable"
    assert boundary([], [(1, 1)]).startswith(
        "Of 1 regimes: 1 unstable. Degraded or unstable at effective batches 1: no effective batch"
    )


@pytest.mark.slow
def test_a_regime_of_which_nothing_is_left_is_unstable(audits, tmp_path):
    shutil.copytree(audits / "small_batch", tmp_path / "s")
    records = read_trials(tmp_path / "s")
    write_trials(
        tmp_path / "s",
        [
            replace(r, status="diverged")
            if r.design == "batch" and r.overrides == {"micro_batch": 1, "accumulation": 1}
            else r
            for r in records
        ],
    )
    report = rebuild(tmp_path / "s")
    assert "unstable" in report.answer[0] and "effective batches 1:" in report.answer[0]
    row = next(row for row in _rows(report, "j1") if row[:2] == ["1", "1"])
    assert row[3] == "0" and row[-2] == "unstable"
    assert all(
        row[-2] != "the reference" for row in _rows(report, "j2")
    )  # what mitigations are compared with is gone, and nothing takes its place
