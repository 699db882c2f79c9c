"""A dry run prints the plan, what it takes and what will not run, and launches nothing."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest
from builders import ended, study_file
from conftest import ROOT

from grit.io.provenance import provenance
from ray_jobs.design.plan import searched_trials
from ray_jobs.design.resources import TrialResources
from ray_jobs.design.study_presets import preset
from ray_jobs.records.store import STUDY_PACKAGES, StudyStore
from ray_jobs.records.study_file import Call, Execution
from sweeps.common.plan_forecast import forecast_plan, predicted_seconds
from sweeps.tau_T_lambda import SCRIPT


def _main(*argv):
    """Runs the script's own main in this process: fast, and Ray must not be touched."""
    return SCRIPT.main(argv)


def _planned(shown):
    """The rows of planned trials."""
    return [line for line in shown.splitlines() if re.match(r"[0-9a-f]{16} ", line)]


def test_dry_run_prints_every_trial_and_launches_nothing(tmp_path):
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "sweeps" / "tau_T_lambda.py"),
            "--preset",
            "embedded",
            "--dry-run",
            "--output",
            str(tmp_path / "o"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    lines = done.stdout.splitlines()
    assert len(_planned(done.stdout)) == (6 * 2 + 2 * 3) * 2
    assert "8 searched trials: 2 points x 2 regimes x 2 seeds" in done.stdout
    assert "one seed at a time where it decides most" in done.stdout
    assert "at most 56 trials; about" in done.stdout
    told = [line.split()[0] for line in lines if "assumed: as measured of this preset" in line]
    assert told == ["quality", "forgetting"]
    assert lines[-1].startswith("memory: ") and lines[-1].endswith("measured here")
    assert list(tmp_path.iterdir()) == []
    told = [line.partition("s  ")[2] for line in done.stderr.splitlines()]
    assert told in ([], ["measuring a step and an evaluation here, 2 at once ..."])


def test_a_dry_run_counts_what_is_taken_over_and_says_what_is_not(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    design = ("--preset", "smoke", "--seeds", "41", "--search-points", "0", "--max-concurrent", "1")
    call = Call(
        created="2026-01-01",
        execution=Execution(concurrent=1, resources={"CPU": 1.0}),
        **provenance(ROOT, STUDY_PACKAGES),
    )
    for name, at_once, seeds in (("one", 1, (0, 2)), ("two", 2, (2, 3))):
        execution = call.execution.model_copy(update={"concurrent": at_once})
        made = study_file(SCRIPT.study(design)).model_copy(
            update={"calls": (call.model_copy(update={"execution": execution}),)}
        )
        store = StudyStore(tmp_path / name, made.fingerprint, resume=False)
        store.open(made)
        for trial in SCRIPT.study(design).trials[slice(*seeds)]:
            store.put(ended(trial.record))
        store.release()
    shared = (*design, "--keep", "none", "--dry-run", "--no-measure", "--output", str(tmp_path / "new"))
    assert _main(*shared, "--no-reuse") == 0
    alone = capsys.readouterr().out
    assert "taken over" not in alone and "not reused" not in alone
    assert _main(*shared) == 0
    shown = capsys.readouterr().out
    assert "2 of these have been run by a study beside this one and are taken over" in shown
    assert sum(line.endswith(" reused") for line in shown.splitlines()) == 2
    assert "not reused: 1 trial(s) of two: trials at once 2 there, 1 here" in shown
    seconds = [float(re.search(r"about (\d+) s", text).group(1)) for text in (alone, shown)]
    assert seconds[1] < seconds[0]


def test_a_dry_run_of_a_continued_study_counts_what_is_left(tmp_path, capsys, monkeypatch):
    """Failed trials run again; searched ones that have ended do not."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    design = ("--preset", "smoke", "--seeds", "41", "--regimes", "step", "--search-points", "1")
    plan = SCRIPT.study(design)
    store = StudyStore(tmp_path / "s", plan.fingerprint(), resume=False)
    store.open(study_file(plan))
    first, second, *_ = plan.trials
    store.put(ended(first.record))
    store.put(ended(second.record, status="failed"))
    (searched,) = searched_trials(plan, {"tau": 0.93, "T": 7, "lambda": 0.01}, plan.budgets[0])
    store.put(ended(searched.record))
    store.release()
    assert _main(*design, "--dry-run", "--no-measure", "--output", str(tmp_path / "s")) == 0
    shown = capsys.readouterr().out
    assert "1 of these have ended already and will not run again" in shown
    assert "1 searched or added trials have ended already" in shown
    assert sum(line.endswith(" ended") for line in shown.splitlines()) == 1
    owed = [trial for trial in plan.trials if trial is not first]
    forecast = forecast_plan(
        plan,
        preset("smoke", "grit", None, None).costs,
        TrialResources(cpus=1),
        concurrent=2,
        workers=1,
        share=False,
        settled={first.trial_id},
        ended_beside=1,
    )
    assert forecast.trials == len(plan.trials) + 1
    each = [predicted_seconds(t.config, plan.base, preset("smoke", "grit", None, None).costs) for t in owed]
    startup = preset("smoke", "grit", None, None).costs.startup_seconds
    assert forecast.seconds == pytest.approx(sum(each) / 2 + startup)


def test_a_continued_study_keeps_the_time_budget_and_the_commit_it_was_begun_with(
    tmp_path, capsys, monkeypatch
):
    """Neither is in the command: the budget was measured, the commit was the hub's word."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    row = tmp_path / "r.jsonl"
    row.write_text(json.dumps({"question": "q", "answer": "#### 1", "text": "general"}) + "\n")
    files = [part for name in ("train", "eval", "retention") for part in (f"--{name}-file", str(row))]
    small = ("--preset", "smoke", "--task", "gsm8k", *files)
    on_the_hub = ("--preset", "llama-3.1-8b", *files)
    asked = SCRIPT.study(on_the_hub)
    of_a_commit = replace(asked, content={**asked.content, "model": "of its commit"})
    begun = {
        "measured": (small, SCRIPT.study((*small, "--budget-seconds", "7.5"))),
        "hub": (on_the_hub, of_a_commit),
    }
    for name, (design, study) in begun.items():
        store = StudyStore(tmp_path / name, study.fingerprint(), resume=False)
        store.open(study_file(study))
        store.put(ended(study.trials[0].record))
        store.release()
        dry = (*design, "--dry-run", "--no-measure", "--output", str(tmp_path / name))
        for more in ((), ("--resume",)):
            assert _main(*dry, *more) == 0
            assert "1 of these have ended already and will not run again" in capsys.readouterr().out
        assert _main(*dry, "--budget-seconds", "6000") == 2
        assert re.search(
            r"holds another study \(.*time budget \S+ there, 6000 here\)", capsys.readouterr().err
        )
        assert _main(*dry, "--set", "rank=4", "--seeds", "7") == 2
        assert re.search(r"seeds \S+ there, 7 here; .*rank \d+ there, 4 here", capsys.readouterr().err)


def test_the_coarse_grid_shares_its_trials_with_the_sweeps(capsys, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert (
        _main(
            "--preset",
            "embedded",
            "--grid",
            "--seeds",
            "41",
            "--regimes",
            "step",
            "--search-points",
            "0",
            "--dry-run",
            "--no-measure",
        )
        == 0
    )
    lines = _planned(capsys.readouterr().out)
    assert len(lines) == 1 + 27
    assert sum(" oat " in line for line in lines) == 7
    assert sum(" grid " in line for line in lines) == 20


def test_dry_run_of_an_a100_preset_counts_gpu_hours(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    row = tmp_path / "r.jsonl"
    row.write_text(json.dumps({"question": "q", "answer": "#### 1", "text": "general"}) + "\n")
    files = [part for name in ("train", "eval", "retention") for part in (f"--{name}-file", str(row))]
    assert _main("--preset", "llama-3.1-8b", "--method", "qgrit", "--dry-run", "--no-measure", *files) == 0
    said = capsys.readouterr().out
    assert "qlora" in said
    assert "GPU-hours" in said
    assert any(line.split()[1] == "qgrit" and " none " in line for line in _planned(said))
    assert "7800 s" in said


def test_a_dry_run_says_what_shared_beginnings_save(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    row = tmp_path / "r.jsonl"
    row.write_text(json.dumps({"question": "q", "answer": "#### 1", "text": "general"}) + "\n")
    files = [part for name in ("train", "eval", "retention") for part in (f"--{name}-file", str(row))]
    for more, expected in (([], True), (["--no-share"], False)):
        assert _main("--preset", "llama-3.1-8b", "--dry-run", "--no-measure", *files, *more) == 0
        said = capsys.readouterr().out
        assert ("trunks are trained once" in said) == expected
        assert "$" in said


def test_designs_are_summed(capsys, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    more = ("--small-batch", "2", "--point", "tau=0.7", "rank=8")
    assert (
        _main(
            "--preset",
            "smoke",
            "--regimes",
            "step",
            "--search-points",
            "0",
            *more,
            "--dry-run",
            "--no-measure",
        )
        == 0
    )
    lines = _planned(capsys.readouterr().out)
    counts = {
        design: sum(f" {design} " in line for line in lines)
        for design in ("control", "oat", "small-batch", "list")
    }
    assert counts == {"control": 1, "oat": 4, "small-batch": 5, "list": 1}
    assert sum("micro_batch=2" in line for line in lines) == 5
    assert sum("rank=8" in line for line in lines) == 1
