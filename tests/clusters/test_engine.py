"""Ray's own engine on fake nodes to which something happens: nothing is lost, doubled or false afterwards."""

import sys
from collections import Counter
from pathlib import Path

import pytest
from launching import assert_nothing_lies, run_script

from ray_jobs.execution.nodes.admission import processor_name
from ray_jobs.records.faults import NODE_PATIENCE
from ray_jobs.records.study_file import read_study
from ray_jobs.records.trials_file import read_trials

pytestmark = [
    pytest.mark.ray,
    pytest.mark.cluster,
    pytest.mark.filterwarnings(
        "ignore::DeprecationWarning",
        "ignore::ResourceWarning",
        "ignore::pytest.PytestUnraisableExceptionWarning",
    ),
]


def _run(name, folder, expected=0):
    """A scenario to its end; its records, and what it said."""
    script = Path(__file__).with_name("scenarios.py")
    code, said = run_script([sys.executable, str(script), name, str(folder)], folder, 400)
    assert code == expected, said
    records = read_trials(folder / "study")
    faults = Counter(attempt.fault or "none" for r in records for attempt in r.place.deliveries)
    statuses = Counter(record.status for record in records)
    print(f"{name}: {len(records)} trials, {dict(statuses)}; attempts by fault {dict(faults)}")
    return records, said


def _whole(folder, count):
    return assert_nothing_lies(
        folder / "study", uri=f"sqlite:///{folder / 'mlflow.db'}", statuses=["completed"] * count
    )


def test_the_only_node_dies_and_another_one_comes(tmp_path):
    records, _ = _run("node_lost_without_spare", tmp_path)
    _whole(tmp_path, len(records))
    (hit,) = [record for record in records if record.place.attempts > 1]
    assert [attempt.fault for attempt in hit.place.deliveries] == ["preemption", None]
    assert hit.measured.resumed_from_step >= 5
    assert len({attempt.worker for attempt in hit.place.deliveries}) == 2
    assert all(attempt.admission["device"] == "cpu" for attempt in hit.place.deliveries)


def test_a_notice_leaves_a_checkpoint_and_costs_no_attempt(tmp_path):
    records, _ = _run("node_drained", tmp_path)
    _whole(tmp_path, len(records))
    (hit,) = [record for record in records if record.place.attempts > 1]
    assert [attempt.fault for attempt in hit.place.deliveries] == ["preemption", None]
    assert hit.measured.resumed_from_step > 0  # no cadence was set: the notice left it


def test_a_driver_that_is_killed_is_replaced_by_the_same_command(tmp_path):
    records, said = _run("driver_killed", tmp_path)
    _whole(tmp_path, len(records))
    assert "continuing the study in" in said
    assert max(record.measured.resumed_from_step for record in records) >= 5
    assert all(record.place.attempts == 1 for record in records)


def test_a_step_that_hangs_is_ended_with_its_stacks_and_tried_elsewhere(tmp_path):
    records, _ = _run("step_hangs", tmp_path)
    _whole(tmp_path, len(records))
    (hit,) = [record for record in records if record.place.attempts > 1]
    first, second = hit.place.deliveries
    assert first.fault == "infrastructure"
    assert first.error.startswith("hung: no progress for")
    assert first.worker.partition(",")[0] != second.worker.partition(",")[0]  # another node
    assert hit.measured.resumed_from_step == 15
    (stacks,) = (tmp_path / "study/ray/stacks").glob("*.txt")
    assert "take_step" in stacks.read_text()


def test_unfit_nodes_cost_no_trial_and_are_put_aside(tmp_path):
    records, _ = _run("unfit_nodes", tmp_path)
    _whole(tmp_path, len(records))
    attempts = [attempt for record in records for attempt in record.place.deliveries]
    refused = [attempt for attempt in attempts if attempt.fault == "node"]
    assert refused and all("the storage is not shared" in attempt.error for attempt in refused)
    died = [attempt for attempt in attempts if attempt.fault == "infrastructure"]
    good = {record.place.worker.partition(",")[0] for record in records}
    assert len(good) == 1
    assert good.isdisjoint(attempt.worker.partition(",")[0] for attempt in [*refused, *died])
    assert 1 <= len(died) <= NODE_PATIENCE
    assert 1 <= len(refused) <= NODE_PATIENCE


def test_a_worker_that_is_told_to_end_leaves_a_checkpoint_beside_another_study(tmp_path):
    records, _ = _run("worker_terminated", tmp_path)
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    # At 150 steps T = 15 is the default; at 300 it is a setting of its own.
    for name, count in (("study", 4), ("other", 3)):
        assert_nothing_lies(tmp_path / name, uri=store, statuses=["completed"] * count)
    (hit,) = [record for record in records if record.place.attempts > 1]
    first, second = hit.place.deliveries
    assert (first.fault, second.fault) == ("preemption", None)
    assert "SIGTERM" in first.error
    assert second.began_at - first.lost_at < 60  # it took no grace, and no backoff
    assert hit.measured.resumed_from_step >= 50  # no cadence was set: the signal left it


def test_a_slow_boot_burns_nothing_and_time_budgets_are_for_one_kind_of_device(tmp_path):
    """The budget is measured on the node that comes; one of another kind gets no trial under it."""
    records, said = _run("boots_slowly", tmp_path)
    _whole(tmp_path, len(records))
    made = read_study(tmp_path / "study")
    assert made.device == processor_name()
    assert f"measured on {made.device}" in said
    assert {record.device for record in records} == {made.device}
    faults = [attempt.fault for record in records for attempt in record.place.deliveries]
    assert set(faults) == {"device", None}
    assert f"workers have {made.device} and Another CPU" in said or "Another CPU and" in said


def test_nodes_without_their_gpu_train_nothing_and_the_study_pauses(tmp_path):
    records, said = _run("gpu_missing", tmp_path, expected=1)
    assert {record.status for record in records} <= {"failed", "planned"}
    assert "paused: 4 of the last 4 trials failed alike (node: no node is left that could run it" in said
    attempts = [attempt for record in records for attempt in record.place.deliveries]
    assert attempts and {attempt.fault for attempt in attempts} == {"node"}
    assert all("GPU that torch cannot use" in attempt.error for attempt in attempts)
