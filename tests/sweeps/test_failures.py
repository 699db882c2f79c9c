"""The failure matrix.

Each failure is made to happen, and records, Optuna and MLflow must tell the same truth afterwards.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from launching import (
    COMMAND,
    FIVE,
    THREE,
    after_trials,
    assert_nothing_lies,
    descendants,
    environment,
    launching,
    runs,
    workers,
)

from grit.training.trainer import train
from ray_jobs.execution.interrupts import PATIENCE_SECONDS
from ray_jobs.records.trial_tables import read_columns
from ray_jobs.records.trials_file import read_trials
from sweeps.common.study_status import study_status

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings(
        "ignore::DeprecationWarning",
        "ignore::ResourceWarning",
        "ignore::pytest.PytestUnraisableExceptionWarning",
    ),
]


def _alone(record, bench):
    """The same trial, run whole in this process."""
    return train(record.config, bench)


def _losses(study, record):
    """Step by step, as the study kept them."""
    return read_columns(study, "telemetry", record.trial_id)["loss"]


ONE_SLOT = ("--max-concurrent", "1")


@dataclass(frozen=True, kw_only=True)
class Hurt:
    """A study to which everything happened that may happen to a trial, and what came of it."""

    study: Path
    errors: str
    records: list


@pytest.fixture(scope="module")
def hurt(tmp_path_factory):
    """One trial raises, one asks for more memory than there is, and the worker of a third is killed.

    A rank per layer that the model does not have raises; an adapter of a petabyte cannot be allocated.
    """
    folder = tmp_path_factory.mktemp("hurt")
    study = folder / "study"
    bad = ("--point", "layer_ranks=[4]", "--point", "rank=1000000000000")
    with launching(folder) as launch:
        process = launch(*THREE, *ONE_SLOT, *bad, "--set", "checkpoint_steps=5")
        after_trials(study, process=process)
        deadline = time.time() + 60
        while time.time() < deadline and not list((study / "checkpoints").glob("*/run.pt")):
            time.sleep(0.02)
        time.sleep(0.3)  # some steps past the checkpoint
        killed = workers(process)
        assert len(killed) == 1
        os.kill(killed[0], signal.SIGKILL)
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 3, errors
    statuses = ["completed"] * 3 + ["failed"] * 2
    records = assert_nothing_lies(study, uri=f"sqlite:///{folder / 'mlflow.db'}", statuses=statuses)
    return Hurt(study=study, errors=errors, records=records)


def _asked_for(hurt, name):
    return next(record for record in hurt.records if name in record.plan.overrides)


def test_a_trial_that_raises_says_so_and_takes_nobody_with_it(hurt):
    raised = _asked_for(hurt, "layer_ranks")
    assert raised.status == "failed"
    assert "one rank for each of the model's" in raised.error
    assert (hurt.study / f"traceback-{raised.trial_id}.txt").exists()
    assert hurt.errors.count("failed:") == 2
    assert "2 trial(s) were lost: the same command with --output" in hurt.errors


def test_a_trial_that_runs_out_of_memory_says_what_to_lower(hurt):
    starved = _asked_for(hurt, "rank")
    assert starved.status == "failed"
    assert "out of memory" in starved.error
    assert "lower micro_batch" in starved.error


def test_a_worker_that_is_killed_mid_trial_goes_on_from_its_checkpoint_bit_for_bit(hurt, bench):
    attempts = sorted(record.place.attempts for record in hurt.records)
    assert attempts == [1, 1, 1, 1, 2]
    hit = next(record for record in hurt.records if record.place.attempts == 2)
    first, second = hit.place.deliveries
    assert first.began_at < first.lost_at
    assert second.began_at - first.lost_at > 1  # it was missed at once: a fresh process takes longer to start
    assert second.lost_at is None
    assert hit.measured.resumed_from_step >= 5
    whole = _alone(hit, bench)
    for name in ("quality", "forgetting", "final_ranks"):
        assert getattr(hit.measured, name) == getattr(whole.measured, name), name
    assert _losses(hurt.study, hit) == [row["loss"] for row in whole.telemetry]
    assert not list((hurt.study / "checkpoints").glob("*"))


def _ended(records):
    return {trial_id: record for trial_id, record in records.items() if record.ended}


def test_ctrl_c_leaves_valid_records_and_says_how_to_go_on(interrupted):
    assert interrupted.code == 130, interrupted.parting
    assert "interrupted: the same command with --output" in interrupted.parting
    records = interrupted.after_ctrl_c
    assert {record.status for record in records.values()} == {"completed", "planned"}
    assert 0 < len(_ended(records)) < len(records) == 10


def test_a_driver_that_is_killed_loses_no_finished_trial(interrupted):
    """SIGKILL: its Ray dies with it, and its workers notice and end by themselves."""
    assert interrupted.lost.state == "lost" and "was last heard of" in interrupted.lost.note
    assert interrupted.lost.running == ()
    done = _ended(interrupted.after_kill)
    assert len(done) >= 6
    assert all(interrupted.finished[trial_id] == record for trial_id, record in done.items())
    assert not [name for name in interrupted.lingering if "RayTrainWorker" in name]


def test_resuming_finishes_and_repeats_nothing(interrupted):
    """Every trial once, those of the search too, and nothing left running in Optuna or MLflow."""
    assert_nothing_lies(interrupted.study, uri=interrupted.uri, statuses=["completed"] * 12)
    done = _ended(interrupted.after_ctrl_c)
    assert all(interrupted.finished[trial_id] == record for trial_id, record in done.items())


@pytest.mark.slow
def test_two_studies_at_once_on_one_store(launch, tmp_path):
    """Both create the same fresh MLflow database, side by side; each keeps its own trials.

    A second run in the same folder is refused.
    """
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    both = [
        launch(*FIVE, "--max-concurrent", "1", "--budget-steps", "12", "--tau", tau, name=name)
        for name, tau in (("a", "0.9"), ("b", "0.95"))
    ]
    after_trials(tmp_path / "a", process=both[0])
    third = launch(
        *FIVE, "--max-concurrent", "1", "--budget-steps", "12", "--tau", "0.9", "--resume", name="a"
    )
    _, refused = third.communicate(timeout=120)
    assert third.returncode == 2
    assert "being written by another run" in refused
    for process in both:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    for name in "ab":
        assert_nothing_lies(tmp_path / name, uri=uri, statuses=["completed"] * 5)
    assert sum(run.data.tags["kind"] != "setting" for run in runs(uri)) == 12


@pytest.mark.slow
def test_a_second_study_pays_for_nothing_that_the_first_has_run(launch, tmp_path):
    """Beside it in the same store: what both ask for is taken over, adapters too, and said; the rest runs."""
    first = launch(*FIVE, "--budget-steps", "12", name="one")
    assert first.wait(timeout=300) == 0
    second = launch(
        "--regimes", "step", "--budget-steps", "12", "--search-points", "0", "--tau", "0.8", name="two"
    )
    said, errors = second.communicate(timeout=300)
    assert second.returncode == 0, errors
    records = assert_nothing_lies(
        tmp_path / "two", uri=f"sqlite:///{tmp_path / 'mlflow.db'}", statuses=["completed"] * 5
    )
    # the default is scored once more at its end at the sweep's other tau, which differs
    assert sorted(r.place.reused_from or "" for r in records) == ["", "", "one", "one", "one"]
    assert "3 reused" in said
    kept = json.loads((tmp_path / "two" / "adapters.json").read_text())
    assert all(row["folder"] and row["problem"] is None for row in kept)
    assert "taken over from other studies" in (tmp_path / "two" / "report.md").read_text()


FULL_DISK = """
mount -t tmpfs -o size=4m tmpfs {disk} || exit 77
{command} > {out}/first.out 2> {out}/first.err &
pid=$!
until grep -q '"status":"completed"' {disk}/study/trials.jsonl 2>/dev/null; do
    sleep 0.1; kill -0 $pid || exit 3
done
dd if=/dev/zero of={disk}/filler bs=4k 2>/dev/null
wait $pid; echo $? > {out}/first.rc
cp {disk}/study/trials.jsonl {out}/between.jsonl
rm {disk}/filler
{command} > {out}/second.out 2> {out}/second.err
echo $? > {out}/second.rc
cp -r {disk}/study {out}/study
"""


@pytest.mark.slow
def test_a_full_disk_stops_the_study_and_spoils_nothing(tmp_path):
    """A real one: a file system of 4 MB in a namespace of its own. With room again, the command finishes."""
    if (
        shutil.which("unshare") is None
        or subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode
    ):
        pytest.skip("this machine lets nobody mount a file system of their own")
    disk, out = tmp_path / "disk", tmp_path / "out"
    disk.mkdir()
    out.mkdir()
    uri = f"sqlite:///{out / 'mlflow.db'}"
    command = " ".join(
        [
            *(*COMMAND, "--preset", "smoke", *FIVE, "--max-concurrent", "1"),
            *("--tracking-uri", uri, "--output", str(disk / "study")),
        ]
    )
    script = FULL_DISK.format(disk=disk, out=out, command=command)
    process = subprocess.Popen(
        ["unshare", "-rm", "bash", "-c", script], cwd=tmp_path, env=environment(), start_new_session=True
    )
    try:
        code = process.wait(timeout=400)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if code == 77:
        pytest.skip("this machine lets nobody mount a file system of their own")
    assert (out / "first.rc").read_text().strip() == "1"
    assert "No space left on device" in (out / "first.err").read_text()
    assert "the same command with --output" in (out / "first.err").read_text()
    (out / "half").mkdir()
    shutil.copy(out / "between.jsonl", out / "half" / "trials.jsonl")
    between = {r.trial_id: r for r in read_trials(out / "half")}
    assert {r.status for r in between.values()} == {"completed", "planned"}
    assert len(between) == 5
    assert (out / "second.rc").read_text().strip() == "0", (out / "second.err").read_text()
    records = assert_nothing_lies(out / "study", uri=uri, statuses=["completed"] * 5)
    assert all(record == between[record.trial_id] for record in records if between[record.trial_id].ended)


@pytest.mark.slow
def test_sigterm_is_an_interrupt_and_leaves_no_run_running(launch, tmp_path):
    """`ray job stop` sends it, and kills three seconds later."""
    process = launch(*FIVE, "--max-concurrent", "1")
    after_trials(tmp_path / "study", process=process)
    process.send_signal(signal.SIGTERM)
    deadline = time.time() + 3
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    while time.time() < deadline and any(run.info.status == "RUNNING" for run in runs(uri)):
        time.sleep(0.1)
    assert not [run for run in runs(uri) if run.info.status == "RUNNING"]
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "interrupted: the same command with --output" in errors
    assert {record.status for record in read_trials(tmp_path / "study")} == {"completed", "planned"}


@pytest.mark.slow
def test_sigterm_to_everything_ends_in_order_although_ray_is_gone(launch, tmp_path):
    """As a service or a container ends: the driver's own Ray is told as well, and never answers again."""
    process = launch(*FIVE, "--max-concurrent", "1")
    after_trials(tmp_path / "study", process=process)
    for each in (*descendants(process.pid), psutil.Process(process.pid)):
        with contextlib.suppress(psutil.NoSuchProcess):
            each.terminate()
    _, errors = process.communicate(timeout=PATIENCE_SECONDS + 60)
    assert process.returncode == 130, errors
    assert "the same command with --output" in errors and "goes on" in errors
    assert {record.status for record in read_trials(tmp_path / "study")} == {"completed", "planned"}
    assert not [run for run in runs(f"sqlite:///{tmp_path / 'mlflow.db'}") if run.info.status == "RUNNING"]
    assert study_status(tmp_path / "study").state == "interrupted"


@pytest.mark.slow
def test_two_workers_for_one_trial_train_as_one(launch, tmp_path, bench):
    """Gloo under Ray Train: the same trial with `--workers-per-trial 2` as alone, up to the order of sums."""
    process = launch(
        *FIVE,
        "--workers-per-trial",
        "2",
        "--max-concurrent",
        "1",
        "--budget-steps",
        "12",
        "--set",
        "accumulation=2",
        "dropout=0.1",
        "evaluations=3",
        "kfac_update_freq=12",
        "reprojection_freq=12",
    )
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    records = assert_nothing_lies(
        tmp_path / "study", uri=f"sqlite:///{tmp_path / 'mlflow.db'}", statuses=["completed"] * 5
    )
    for record in (records[0], records[1]):
        whole = _alone(record, bench)
        losses = _losses(tmp_path / "study", record)
        assert losses == pytest.approx([row["loss"] for row in whole.telemetry], rel=1e-4)
        assert record.measured.final_ranks == whole.measured.final_ranks
        assert record.measured.quality == pytest.approx(whole.measured.quality, rel=1e-3)


@pytest.mark.slow
def test_two_workers_go_on_from_a_shared_beginning(launch, tmp_path, bench):
    """A trunk that two workers trained, forked by trials that two workers train.

    What one process makes alone, up to the order of sums.
    """
    process = launch(
        *FIVE,
        "--workers-per-trial",
        "2",
        "--max-concurrent",
        "1",
        "--budget-steps",
        "40",
        "--set",
        "accumulation=2",
        "dropout=0.1",
        "kfac_update_freq=20",
        "reprojection_freq=20",
    )
    _, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors
    records = assert_nothing_lies(
        tmp_path / "study", uri=f"sqlite:///{tmp_path / 'mlflow.db'}", statuses=["completed"] * 5
    )
    forked = [record for record in records if record.place.forked_from is not None]
    assert forked
    assert all(record.place.forked_at_step >= 10 for record in forked)
    whole = _alone(forked[0], bench)
    losses = _losses(tmp_path / "study", forked[0])
    assert losses == pytest.approx([row["loss"] for row in whole.telemetry], rel=1e-3)
