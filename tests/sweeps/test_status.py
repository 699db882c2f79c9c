"""Where a study stands, as its folder says it: while it runs, after its driver is gone, and at its end."""

import json
import os
import subprocess
import time

import pytest
from builders import ended, planned, study, study_folder

from analysis.report import main as report
from grit.cli.run_file import RUN_FILE
from ray_jobs.execution.running_file import GONE_SECONDS, RUNNING_FILE, RunningWriter, read_running
from ray_jobs.records.study_file import STUDY_FILE, read_study
from sweeps.common.study_status import STARTING_SECONDS, study_status
from sweeps.status import main


@pytest.fixture
def half(tmp_path):
    """A study of which some trials have ended, and its records."""
    records = planned(study(seeds=(41, 42)))
    records = [ended(r) if number < 6 else r for number, r in enumerate(records)]
    return tmp_path, study_folder(tmp_path, records, seeds=(41, 42))


def progress(record, **where):
    """As a worker tells it."""
    who = {"method": record.method, "regime": record.plan.regime, "seed": record.plan.seed}
    return {**who, "since": time.time() - 30, "place": "here, process 7", **where}


def test_running_trials_are_there_with_their_standing_and_place(half, capsys):
    folder, records = half
    trains, begins = records[6], records[7]
    running = {
        trains.trial_id: progress(trains, step=10, share=0.25, left=12.0, loss=0.5, mean_rank=7.0),
        begins.trial_id: progress(begins, phase="scoring the untuned model", loss=None),
        "a-trunk": progress(begins, step=1, share=0.1, left=None, loss=1.0, mean_rank=8.0),
    }
    RunningWriter(folder).write(len(records) + 2, running)
    stands = study_status(folder)
    assert stands.state == "running" and stands.expected == len(records) + 2
    assert stands.trials == {"completed": 6, "planned": len(records) - 6}
    first, second, third = stands.running
    assert first.standing == "step 10 (25%, 12 s left), loss 0.500, rank 7.0"
    assert second.standing == "scoring the untuned model" and second.place == "here, process 7"
    assert 29 < second.seconds < 90
    assert third.trial.startswith("a trunk of")
    own = sum(r.measured.train_seconds + r.measured.eval_seconds for r in records[:6])
    assert stands.hours == pytest.approx(own / 3600)
    at_once = read_study(folder).last_call.execution.concurrent
    assert stands.seconds_left == pytest.approx(own / 6 * (len(records) - 6) / at_once)
    assert main([str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["running"][1]["standing"] == "scoring the untuned model"
    assert main([str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("running ") for line in lines) == 3


def test_a_driver_that_is_gone_is_said_to_be(half):
    """By its process, on its own host; by its silence, on another."""
    folder, _ = half
    writer = RunningWriter(folder)
    writer.write(10, {})
    file = folder / RUNNING_FILE
    fresh = json.loads(file.read_text())
    process = subprocess.Popen(["true"])
    process.wait()
    for changes in ({"pid": process.pid}, {"host": "another", "written": fresh["written"] - GONE_SECONDS}):
        file.write_text(json.dumps({**fresh, **changes}))
        stands = study_status(folder)
        assert stands.state == "lost" and f" --output {folder}" in stands.note.split("goes on:")[1]
    file.write_text(json.dumps({**fresh, "host": "another"}))
    assert study_status(folder).state == "running"
    writer.remove()
    assert read_running(folder) is None
    assert study_status(folder).state == "interrupted"


def test_watching_ends_with_the_study(tmp_path, capsys):
    study_folder(tmp_path)
    assert main([str(tmp_path), "--watch"]) == 0
    assert "finished after" in capsys.readouterr().out
    assert main([str(tmp_path / "nothing")]) == 2
    assert capsys.readouterr().err.startswith("error: study folder = ")


def test_a_study_without_a_planned_trial_is_beginning(tmp_path, capsys):
    """It was once said to be finished."""
    study_folder(tmp_path, [])
    stands = study_status(tmp_path)
    assert stands.state == "starting" and "no trial is planned yet" in stands.note
    assert main([str(tmp_path)]) == 0
    assert "finished" not in capsys.readouterr().out
    long_ago = time.time() - 2 * STARTING_SECONDS
    os.utime(tmp_path / STUDY_FILE, (long_ago, long_ago))
    assert study_status(tmp_path).state == "interrupted"


def test_a_single_run_is_said_to_be_one(tmp_path, capsys):
    (tmp_path / RUN_FILE).write_text("{}")
    assert main([str(tmp_path)]) == report([str(tmp_path)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all("is a single run's: " in line for line in lines)
