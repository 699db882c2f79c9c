import json
import os
import signal
import subprocess
import sys
import time

import pytest
from builders import ended, planned, study, study_file, telemetry_rows
from conftest import ROOT

from grit.adapters.kept_adapter import ADAPTER_FILE
from grit.errors import ConfigError
from grit.io.versions import SCHEMA_VERSION
from ray_jobs.records.kept_adapters import adapter_folder
from ray_jobs.records.reuse import Neighbours
from ray_jobs.records.store import StudyStore
from ray_jobs.records.study_file import Execution, read_study
from ray_jobs.records.trial_record import Attempt, TrialRecord
from ray_jobs.records.trial_tables import read_rows, write_rows
from ray_jobs.records.trials_file import append_trials, read_trials, read_trials_and_damage, write_trials
from ray_jobs.schedule.scheduler import Elsewhere, StudyScheduler


def _records():
    return planned(study())


def _open(folder, *, resume=False, fingerprint=None, **call):
    """A store of the made-up study, open for writing."""
    made = study_file(study(), **call)
    made = made.model_copy(update={"fingerprint": fingerprint or made.fingerprint})
    store = StudyStore(folder, made.fingerprint, resume=resume)
    store.open(made)
    return store


def test_a_record_survives_a_round_trip():
    record = ended(_records()[2])
    assert TrialRecord.model_validate_json(record.to_json()) == record
    values = json.loads(record.to_json())
    assert values["schema_version"] == SCHEMA_VERSION
    assert (values["plan"]["regime"], values["config"]["grit"]["kfac_damping"]) == ("step", 1e-3)
    assert values["measured"]["quality"] == 0.5


def test_not_finite_becomes_null_and_is_not_usable():
    record = ended(_records()[2], quality=float("nan"), step_time_ms={"mean": float("inf")})
    assert not record.usable
    measured = json.loads(record.to_json())["measured"]
    assert measured["quality"] is None
    assert measured["step_time_ms"] == {"mean": None}
    assert not TrialRecord.model_validate_json(record.to_json()).usable


def test_malformed_lines_are_named(tmp_path):
    write_trials(tmp_path, _records())
    path = tmp_path / "trials.jsonl"
    path.write_text(path.read_text() + '{"schema_version":2,"trial_id":1}\n')
    with pytest.raises(ConfigError, match=rf"line {len(_records()) + 1}.* is no trial record"):
        read_trials(tmp_path)
    with pytest.raises(ConfigError, match="no readable trials.jsonl"):
        read_trials(tmp_path / "nowhere")


def test_a_writer_that_is_killed_leaves_a_whole_file(tmp_path):
    """SIGKILLs a process that rewrites the records without pause, again and again.

    Every time the file reads.
    """
    write_trials(tmp_path, planned(study(seeds=range(40))))
    code = (
        "import sys; from pathlib import Path; from ray_jobs.records.trials_file import *\n"
        "folder = Path(sys.argv[1]); records = read_trials(folder)\n"
        "while True: write_trials(folder, records); print('x', flush=True)"
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


def test_an_append_that_is_killed_costs_at_most_its_own_line(tmp_path):
    records = _records()
    write_trials(tmp_path, records)
    append_trials(tmp_path, [ended(records[0])])
    path = tmp_path / "trials.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    read, damage = read_trials_and_damage(tmp_path)
    assert [record.status for record in read] == ["planned"] * len(records)
    assert damage == ["trials.jsonl ends in a line that was cut while it was written"]


def test_the_last_line_of_a_trial_counts(tmp_path):
    records = _records()
    write_trials(tmp_path, records)
    append_trials(tmp_path, [ended(records[1], status="failed"), ended(records[0])])
    append_trials(tmp_path, [ended(records[1])])
    assert [record.status for record in read_trials(tmp_path)[:3]] == ["completed", "completed", "planned"]


def test_store_refuses_what_is_not_its_own(tmp_path):
    _open(tmp_path / "a", fingerprint="one")
    with pytest.raises(ConfigError, match="holds another study"):
        StudyStore(tmp_path / "a", "two", resume=True)
    assert StudyStore(tmp_path / "a", "one", resume=False).continues
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.tex").write_text("precious")
    with pytest.raises(ConfigError, match="is not empty and holds no study"):
        StudyStore(tmp_path / "b", "one", resume=False)
    with pytest.raises(ConfigError, match="is a file"):
        StudyStore(tmp_path / "b" / "thesis.tex", "one", resume=False)
    with pytest.raises(ConfigError, match="no study to resume"):
        StudyStore(tmp_path / "c", "one", resume=True)


def test_a_later_call_is_added_and_the_first_stays(tmp_path):
    first = _open(tmp_path / "s", git_commit="aaa")
    first.release()
    second = _open(tmp_path / "s", resume=True, git_commit="bbb")
    kept = read_study(tmp_path / "s")
    assert kept.made_by.git_commit == "aaa"
    assert [call.git_commit for call in kept.calls] == ["aaa", "bbb"]
    assert kept.study_id == second.study_id


def test_two_runs_of_one_study_never_write_one_folder(tmp_path):
    made = study_file(study())
    # begun at the same moment: the folder was still empty
    first, second = (StudyStore(tmp_path / "s", made.fingerprint, resume=False) for _ in range(2))
    first.open(made)
    with pytest.raises(ConfigError, match="being written by another run"):
        second.open(made)
    third = StudyStore(tmp_path / "s", made.fingerprint, resume=True)
    with pytest.raises(ConfigError, match="being written by another run"):
        third.open(made)
    first.release()
    third.open(made)


CALL = study_file(study()).made_by


def _neighbour(folder, status="completed", **call):
    """A study in `folder` with one trial of `status`, and the rows it left."""
    store = _open(folder, **call)
    record = ended(_records()[1], status=status)
    write_rows(folder, "telemetry", record.trial_id, telemetry_rows(record))
    store.put(record)
    store.release()
    return record


def test_a_trial_that_another_study_has_run_is_taken_over(tmp_path):
    record = _neighbour(tmp_path / "a")
    store = _open(tmp_path / "b")
    neighbours = Neighbours(store.folder, CALL)
    asked = _records()[1].changed(design="other", also_designs=("grid",))
    taken = store.adopt(*neighbours.find(asked))
    assert taken.status == "completed"
    assert taken.measured.quality == record.measured.quality
    assert taken.plan.designs == ("other", "grid")
    assert taken.place.reused_from == "a"
    rows = [read_rows(folder, "telemetry", taken.trial_id) for folder in (tmp_path / "a", store.folder)]
    assert rows[0] == rows[1]
    assert len(rows[1]) == len(telemetry_rows(record))
    assert neighbours.find(_records()[2]) is None


def _made_elsewhere(folder, changes):
    """The call that made the study in `folder`, changed."""
    kept = read_study(folder)
    kept.model_copy(update={"calls": (kept.made_by.model_copy(update=changes),)}).write(folder)


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"cpu_count": 4}, "cores 4 there, 2 here"),
        ({"versions": {"torch": "3"}}, "torch 3 there, 2 here"),
        ({"execution": Execution(concurrent=1)}, "trials at once 1 there, 2 here"),
        ({"platform": "q"}, "platform q there, p here"),
    ],
)
def test_what_was_measured_elsewhere_does_not_count_and_it_is_said_why(tmp_path, changes, reason):
    _neighbour(tmp_path / "a")
    _made_elsewhere(tmp_path / "a", changes)
    neighbours = Neighbours(tmp_path / "b", CALL)
    assert neighbours.declined() == []  # nobody asked for it
    assert neighbours.find(_records()[1]) is None
    assert neighbours.declined() == [f"not reused: 1 trial(s) of a: {reason}"]


def test_where_the_head_was_decides_of_time_matched_trials_alone(tmp_path):
    """Nor do versions of what plans and records decide what a step-matched trial computes."""
    execution = Execution(concurrent=2, address="10.0.0.1:6379")
    records = {record.plan.regime: ended(record) for record in _records()}
    store = _open(tmp_path / "a")
    for record in records.values():
        store.put(record)
    store.release()
    _made_elsewhere(tmp_path / "a", {"execution": execution, "versions": {"torch": "2", "mlflow": "1"}})
    here = CALL.model_copy(update={"versions": {"torch": "2", "mlflow": "2"}})
    neighbours = Neighbours(tmp_path / "b", here)
    assert neighbours.find(records["step"]) is not None
    assert neighbours.find(records["time"]) is None
    (sentence,) = neighbours.declined()
    assert "cluster 10.0.0.1:6379 there, this machine here, mlflow 1 there, 2 here" in sentence


def test_where_a_gpu_has_no_name_its_cluster_decides_of_all_trials():
    """Without `--accelerator` nobody knows that two heads have the same kind of nodes."""

    def environment(**resources):
        execution = Execution(address="10.0.0.1:6379", resources={"CPU": 8, "GPU": 1, **resources})
        return CALL.model_copy(update={"execution": execution}).environment("step")

    assert environment()["cluster"] == "10.0.0.1:6379"
    assert "cluster" not in environment(**{"accelerator_type:A100": 0.001})


def test_the_neighbour_that_has_the_adapter_is_the_one_that_counts(tmp_path):
    for name in ("a", "b"):
        _neighbour(tmp_path / name)
    trial_id = _records()[1].trial_id
    adapter = adapter_folder(tmp_path / "b", trial_id)
    adapter.mkdir(parents=True)
    (adapter / ADAPTER_FILE).write_text("{}")
    neighbours = Neighbours(tmp_path / "c", CALL, needs_adapter=lambda record: True)
    folder, _ = neighbours.find(_records()[1])
    assert folder.name == "b" and neighbours.declined() == []


def test_a_trial_whose_adapter_is_wanted_and_not_there_is_declined(tmp_path):
    _neighbour(tmp_path / "a")
    neighbours = Neighbours(tmp_path / "b", CALL, needs_adapter=lambda record: True)
    assert neighbours.find(_records()[1]) is None
    assert neighbours.declined() == [
        "not reused: 1 trial(s) of a: its adapter is wanted and was not kept there"
    ]


def test_failed_trials_and_damaged_folders_are_no_neighbours(tmp_path):
    _neighbour(tmp_path / "a", status="failed")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "study.json").write_text("{")
    assert Neighbours(tmp_path / "b", CALL).find(_records()[1]) is None


@pytest.mark.parametrize("status", ["planned", "failed"])
def test_what_has_run_elsewhere_since_is_taken_over_too(status):
    made = study(seeds=(41,), regimes=("step",))
    first = planned(made)[0]
    earlier = first if status == "planned" else ended(first, status=status)
    scheduler = StudyScheduler(
        made, [earlier], elsewhere=Elsewhere(result=lambda record: ended(record) if record == first else None)
    )
    assert scheduler.records[first.trial_id].status == "completed"


def test_a_scheduler_does_not_run_what_it_can_take_over():
    made = study(seeds=(41,), regimes=("step",))
    known = {record.trial_id: ended(record) for record in planned(made)[:3]}
    scheduler = StudyScheduler(made, elsewhere=Elsewhere(result=lambda record: known.get(record.trial_id)))
    started = []
    while (job := scheduler.next()) is not None:
        started.append(job.job_id)
    assert len(started) == 2
    assert not set(started) & set(known)
    assert scheduler.ended == 3


def test_a_refused_study_is_withdrawn_unless_it_was_there_before(tmp_path):
    first = _open(tmp_path / "s")
    first.release()
    _open(tmp_path / "s", resume=True).withdraw()
    assert (tmp_path / "s" / "study.json").exists()
    first.withdraw()
    assert not (tmp_path / "s").exists()


def test_a_study_with_an_ended_trial_is_never_withdrawn(tmp_path):
    store = _open(tmp_path / "s")
    store.put(ended(_records()[0]))
    store.withdraw()
    assert len(read_trials(tmp_path / "s")) == 1


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="cannot be written"):
        _open(tmp_path / "file" / "below")


def test_ended_records_are_on_disk_at_once_and_planned_ones_when_the_study_opens(tmp_path):
    made, records = study_file(study()), _records()
    store = StudyStore(tmp_path / "s", made.fingerprint, resume=False)
    for record in records:
        store.put(record)
    store.open(made)
    assert [record.status for record in read_trials(tmp_path / "s")] == ["planned"] * len(records)
    store.put(ended(records[0]))
    assert [record.status for record in read_trials(tmp_path / "s")].count("completed") == 1
    store.release()
    again = StudyStore(tmp_path / "s", made.fingerprint, resume=True)
    assert len(again.records) == len(records)


def test_seconds_of_another_device_do_not_count(tmp_path):
    """Nor of a second one beside the first that was taken over; steps are steps on any."""
    attempts = {
        name: Attempt(worker="w", began_at=0.0, admission={"name": name}) for name in ("A100", "H100")
    }
    timed = [record for record in _records() if record.plan.regime == "time"][:2]
    stepped = next(record for record in _records() if record.plan.regime == "step")
    store = _open(tmp_path / "a")
    for record, name in zip((*timed, stepped), ("A100", "H100", "H100"), strict=True):
        store.put(ended(record).changed(deliveries=(attempts[name],)))
    store.release()
    neighbours = Neighbours(tmp_path / "b", CALL)
    assert [neighbours.find(record) is not None for record in (*timed, stepped)] == [True, False, True]
    assert neighbours.declined() == [
        "not reused: 1 trial(s) of a: time budgets of this study are for a A100, and it ran on a H100"
    ]
    neighbours = Neighbours(tmp_path / "b", CALL, device="H100")
    assert [neighbours.find(record) is not None for record in (*timed, stepped)] == [False, True, True]


def test_where_the_device_counts_one_that_is_not_on_record_does_not(tmp_path):
    timed = next(record for record in _records() if record.plan.regime == "time")
    store = _open(tmp_path / "a")
    store.put(ended(timed))
    store.release()
    assert Neighbours(tmp_path / "b", CALL).find(timed) is not None
    neighbours = Neighbours(tmp_path / "b", CALL, device="A100")
    assert neighbours.find(timed) is None
    assert "for a A100, and it ran on what is not on record" in neighbours.declined()[0]
