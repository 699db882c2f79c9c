import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from builders import ended, study
from conftest import ROOT

from grit.errors import ConfigError
from ray_jobs.design.plan import plan
from ray_jobs.records.reuse import Neighbours
from ray_jobs.records.store import StudyStore
from ray_jobs.records.trial_record import TrialRecord
from ray_jobs.records.trials_file import read_trials, write_trials
from ray_jobs.schedule.scheduler import Elsewhere, StudyScheduler


def _records():
    return [trial.record for trial in plan(study())]


def test_a_record_survives_a_round_trip_and_uses_the_contract_names():
    record = ended(_records()[2])
    values = json.loads(record.to_json())
    assert TrialRecord.from_json(record.to_json()) == record
    assert {
        "trial_id",
        "point_id",
        "design",
        "regime",
        "seed",
        "method",
        "tau",
        "T",
        "lambda",
        "status",
        "error",
        "steps",
        "train_seconds",
        "quality",
        "retention",
        "forgetting",
        "overhead",
        "footprint",
        "step_time_ms",
        "peak_memory_bytes",
        "final_ranks",
    } <= set(values)


def test_not_finite_becomes_null_and_is_not_usable():
    record = ended(_records()[2], quality=float("nan"), step_time_ms={"mean": float("inf")})
    assert json.loads(record.to_json())["quality"] is None and json.loads(record.to_json())[
        "step_time_ms"
    ] == {"mean": None}
    assert not TrialRecord.from_json(record.to_json()).usable and not record.usable


def test_malformed_lines_are_named(tmp_path):
    write_trials(tmp_path, _records())
    path = tmp_path / "trials.jsonl"
    path.write_text(path.read_text() + '{"trial_id": 1}\n')
    with pytest.raises(ConfigError, match=f"line {len(_records()) + 1} is not a trial record"):
        read_trials(tmp_path)
    with pytest.raises(ConfigError, match="no readable trials.jsonl"):
        read_trials(tmp_path / "nowhere")


def test_a_writer_that_is_killed_leaves_a_whole_file(tmp_path):
    """SIGKILLs a process that rewrites the records without pause, again and again.

    Every time the file reads.
    """
    code = (
        "import sys; sys.path.insert(0, 'tests'); from builders import *; from pathlib import Path\n"
        "records = [t.record for t in plan(study(seeds=range(40)))]\n"
        "while True: write_trials(Path(sys.argv[1]), records); print('x', flush=True)"
    )
    for wait in (0.0, 0.013, 0.031):
        child = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE
        )
        child.stdout.readline()
        time.sleep(wait)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        child.stdout.close()
        assert len(read_trials(tmp_path)) == 40 * 5 * 2


def test_store_refuses_what_is_not_its_own(tmp_path):
    StudyStore(tmp_path / "a", "one", resume=False).open({"name": "x"}, {})
    with pytest.raises(ConfigError, match="holds another study"):
        StudyStore(tmp_path / "a", "two", resume=True)
    with pytest.raises(ConfigError, match="--resume"):
        StudyStore(tmp_path / "a", "one", resume=False)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.tex").write_text("precious")
    with pytest.raises(ConfigError, match="is not empty and holds no study"):
        StudyStore(tmp_path / "b", "one", resume=False)
    with pytest.raises(ConfigError, match="is a file"):
        StudyStore(tmp_path / "b" / "thesis.tex", "one", resume=False)
    with pytest.raises(ConfigError, match="no study to resume"):
        StudyStore(tmp_path / "c", "one", resume=True)


def test_a_later_call_is_added_and_the_first_stays(tmp_path):
    first = StudyStore(tmp_path / "s", "one", resume=False)
    first.open({"name": "x"}, {"git_commit": "aaa"})
    first.release()
    second = StudyStore(tmp_path / "s", "one", resume=True)
    second.open({"name": "x"}, {"git_commit": "bbb"})
    kept = json.loads((tmp_path / "s" / "study.json").read_text())
    assert kept["git_commit"] == "aaa" and [call["git_commit"] for call in kept["calls"]] == ["aaa", "bbb"]
    assert kept["study_id"] == first.study_id == second.study_id


def test_two_runs_of_one_study_never_write_one_folder(tmp_path):
    first = StudyStore(tmp_path / "s", "one", resume=False)
    second = StudyStore(
        tmp_path / "s", "one", resume=False
    )  # begun at the same moment: the folder was still empty
    first.open({"name": "x"}, {})
    with pytest.raises(ConfigError, match="being written by another run"):
        second.open({"name": "x"}, {})
    third = StudyStore(tmp_path / "s", "one", resume=True)
    with pytest.raises(ConfigError, match="being written by another run"):
        third.open({"name": "x"}, {})
    first.release()
    third.open({"name": "x"}, {})


CALL = {
    "platform": "p",
    "cpu_count": 2,
    "python": "3",
    "versions": {"torch": "2"},
    "execution": {"concurrent": 2},
}


def _neighbour(folder, call, status="completed"):
    """A study in `folder` with one trial of `status`, and the rows it left."""
    store = StudyStore(folder, "one", resume=False)
    store.open({"name": "x"}, call)
    record = ended(plan(study())[1].record, status=status)
    store.write_rows("telemetry", record.trial_id, [{"step": 1}])
    store.put(record)
    store.release()
    return record


def test_a_trial_that_another_study_has_run_is_taken_over(tmp_path):
    record = _neighbour(tmp_path / "a", CALL)
    store = StudyStore(tmp_path / "b", "two", resume=False)
    store.open({"name": "y"}, CALL)
    neighbours = Neighbours(store.folder, CALL)
    planned = replace(plan(study())[1].record, design="other", also_designs=["grid"])
    taken = store.adopt(*neighbours.find(planned))
    assert (taken.status, taken.quality, taken.design, taken.also_designs) == (
        "completed",
        record.quality,
        "other",
        ["grid"],
    )
    assert taken.reused_from == "a" and store.read_rows("telemetry", taken.trial_id) == [{"step": 1}]
    assert neighbours.find(plan(study())[2].record) is None


@pytest.mark.parametrize(
    "changes",
    [{"cpu_count": 4}, {"versions": {"torch": "3"}}, {"execution": {"concurrent": 1}}, {"platform": "q"}],
)
def test_what_was_measured_elsewhere_does_not_count(tmp_path, changes):
    _neighbour(tmp_path / "a", {**CALL, **changes})
    assert Neighbours(tmp_path / "b", CALL).find(plan(study())[1].record) is None


def test_failed_trials_and_damaged_folders_are_no_neighbours(tmp_path):
    _neighbour(tmp_path / "a", CALL, status="failed")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "study.json").write_text("{")
    assert Neighbours(tmp_path / "b", CALL).find(plan(study())[1].record) is None


def test_a_scheduler_does_not_run_what_it_can_take_over():
    made = study(seeds=(41,), regimes=("step",))
    known = {trial.trial_id: ended(trial.record) for trial in plan(made)[:3]}
    scheduler = StudyScheduler(made, elsewhere=Elsewhere(result=lambda record: known.get(record.trial_id)))
    started = []
    while (job := scheduler.next()) is not None:
        started.append(job.job_id)
    assert len(started) == 2 and not set(started) & set(known) and scheduler.ended == 3


def test_a_refused_study_is_withdrawn_unless_it_was_there_before(tmp_path):
    first = StudyStore(tmp_path / "s", "one", resume=False)
    first.open({"name": "x"}, {})
    first.release()
    again = StudyStore(tmp_path / "s", "one", resume=True)
    again.open({"name": "x"}, {})
    again.withdraw()
    assert (tmp_path / "s" / "study.json").exists()
    first.withdraw()
    assert not (tmp_path / "s").exists()


def test_a_study_with_an_ended_trial_is_never_withdrawn(tmp_path):
    store = StudyStore(tmp_path / "s", "one", resume=False)
    store.open({"name": "x"}, {})
    store.put(ended(_records()[0]))
    store.withdraw()
    assert len(read_trials(tmp_path / "s")) == 1


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    store = StudyStore(tmp_path / "file" / "below", "one", resume=False)
    with pytest.raises(ConfigError, match="cannot be written"):
        store.open({}, {})


def test_ended_records_are_on_disk_at_once(tmp_path):
    store = StudyStore(tmp_path / "s", "one", resume=False)
    store.open({"name": "x"}, {})
    records = _records()
    for record in records:
        store.put(record)
    assert not (tmp_path / "s" / "trials.jsonl").exists()
    store.put(ended(records[0]))
    assert [r.status for r in read_trials(tmp_path / "s")].count("completed") == 1
    again = StudyStore(tmp_path / "s", "one", resume=True)
    assert len(again.records) == len(records)
