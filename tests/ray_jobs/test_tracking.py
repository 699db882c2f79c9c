import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from functools import partial

import pytest
from builders import ended, planned, study, telemetry_rows
from conftest import ROOT
from mlflow.tracking import MlflowClient

from grit.errors import ConfigError
from ray_jobs.tracking.mlflow_tracker import CURVE_POINTS, MlflowTracker

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory):
    """A database that MLflow has made once: making one takes seconds."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def uri(empty_store, tmp_path):
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


def _open(uri):
    return MlflowTracker(uri, "tau_T_lambda", "print", params={"model": "embedded"})


def _all_runs(uri):
    client = MlflowClient(tracking_uri=uri)
    return client, client.search_runs(
        [client.get_experiment_by_name("tau_T_lambda").experiment_id], max_results=1000
    )


def _ended_trials(uri):
    runs = _all_runs(uri)[1]
    return [run for run in runs if run.data.tags["kind"] == "trial" and run.info.status != "RUNNING"]


def test_a_study_is_a_parent_with_one_nested_run_per_trial(uri, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    records = [ended(record) for record in planned(study(seeds=(41,)))]
    records[3] = ended(records[3], status="diverged", error="too high")
    tracker = _open(uri)
    for record in records:
        tracker.log_trial(record, partial(telemetry_rows, record))
    report = tmp_path / "report.md"
    report.write_text("# hello")
    tracker.finish([records[0].trial_id], [report], interrupted=False)
    assert tracker.failure is None
    client, runs = _all_runs(uri)
    parents = [r for r in runs if r.data.tags["kind"] == "study"]
    trials = {r.data.tags["trial_id"]: r for r in runs if r.data.tags["kind"] == "trial"}
    assert len(parents) == 1
    assert len(trials) == len(records)
    assert {r.data.tags["mlflow.parentRunId"] for r in trials.values()} == {parents[0].info.run_id}
    for record in records:
        run = trials[record.trial_id]
        assert run.data.metrics["quality"] == record.measured.quality
        assert run.data.metrics["footprint"] == record.measured.footprint
        assert run.info.status == ("FAILED" if record.status == "diverged" else "FINISHED")
        assert run.data.tags["pareto"] == str(record is records[0]).lower()
        if record.tau is not None:
            assert (run.data.params["tau"], run.data.params["T"], run.data.params["lambda"]) == (
                str(record.tau),
                str(record.T),
                str(record.lambda_),
            )
    history = client.get_metric_history(trials[records[2].trial_id].info.run_id, "loss")
    assert sorted({(m.step, m.value) for m in history}) == [(s, 1.0 / s) for s in range(1, 21)]
    assert [a.path for a in client.list_artifacts(parents[0].info.run_id)] == ["report.md"]
    assert {r.info.status for r in runs} <= {"FINISHED", "FAILED"}


def test_resuming_doubles_nothing_and_leaves_nothing_running(uri, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    records = [ended(record) for record in planned(study(seeds=(41,)))]
    first = _open(uri)
    for record in records[:4]:
        first.log_trial(record, list)
    first.finish([], [], interrupted=True)
    second = _open(uri)
    for record in records:
        second.log_trial(record, list)
    second.finish([], [], interrupted=False)
    _, runs = _all_runs(uri)
    assert len(runs) == len(records) + 1
    assert {r.info.status for r in runs} == {"FINISHED"}


def test_a_later_attempt_replaces_the_failed_one_and_half_written_runs_go(uri, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    records = planned(study(seeds=(41,)))
    first = _open(uri)
    first.log_trial(ended(records[0], status="failed", error="oom"), list)
    first.finish([], [], interrupted=True)
    client, runs = _all_runs(uri)
    half = client.create_run(
        runs[0].info.experiment_id,
        tags={
            "mlflow.parentRunId": first.parent_id,
            "trial_id": records[1].trial_id,
            "kind": "trial",
            "status": "completed",
            "design": "oat",
        },
    )
    second = _open(uri)
    for record in records[:2]:
        second.log_trial(ended(record), partial(telemetry_rows, record))
    second.finish([], [], interrupted=False)
    _, runs = _all_runs(uri)
    trials = {r.data.tags["trial_id"]: r for r in runs if r.data.tags["kind"] == "trial"}
    assert len(runs) == 3
    assert {r.info.status for r in runs} == {"FINISHED"}
    assert trials[records[0].trial_id].data.metrics["quality"] == 0.5
    assert half.info.run_id not in {r.info.run_id for r in runs}


def test_two_studies_with_the_same_settings_keep_their_own_runs(uri, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    record = ended(planned(study(seeds=(41,)))[0])
    for study_id in ("one", "two"):
        tracker = MlflowTracker(uri, "tau_T_lambda", study_id, params={})
        tracker.log_trial(record, list)
        tracker.finish([], [], interrupted=False)
    assert len(_all_runs(uri)[1]) == 4


def test_the_study_links_to_its_compare_pages(uri, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tracker = _open(uri)
    for record in planned(study(seeds=(41,))):
        tracker.log_trial(ended(record), list)
    tracker.finish([], [], interrupted=False)
    client, _ = _all_runs(uri)
    note = client.get_run(tracker.parent_id).data.tags["mlflow.note.content"]
    assert note.count("#/compare-runs?runs=") == 2 and "4 step-matched grit trials" in note


def test_long_curves_are_thinned_and_keep_their_end(uri, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    record = ended(planned(study(seeds=(41,)))[2])
    tracker = _open(uri)
    tracker.log_trial(record, partial(telemetry_rows, record, steps=1999))
    tracker.finish([], [], interrupted=False)
    client, runs = _all_runs(uri)
    run = next(r for r in runs if r.data.tags["kind"] == "trial")
    steps = {m.step for m in client.get_metric_history(run.info.run_id, "loss")}
    assert len(steps) <= CURVE_POINTS + 1
    assert max(steps) == 1999


def test_an_unusable_store_is_refused():
    with pytest.raises(ConfigError, match="tracking-uri"):
        MlflowTracker("ftp://nowhere", "x", "y", params={})


class Server:
    """A real `mlflow server` on a database, in a process group of its own.

    May be killed and started again on the same port.
    """

    def __init__(self, folder):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri, self._folder, self._process = f"http://127.0.0.1:{self.port}", folder, None

    def start(self):
        command = [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--workers",
            "1",
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port),
            "--backend-store-uri",
            f"sqlite:///{self._folder / 'server.db'}",
            "--default-artifact-root",
            str(self._folder / "artifacts"),
        ]
        with (self._folder / "server.log").open("a") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, start_new_session=True, cwd=self._folder
            )
        deadline = time.time() + 90
        while time.time() < deadline:
            with (
                contextlib.suppress(OSError),
                urllib.request.urlopen(f"{self.uri}/health", timeout=2) as answer,
            ):
                if answer.status == 200:
                    return self
            time.sleep(0.2)
        raise TimeoutError((self._folder / "server.log").read_text())

    def kill(self):
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@pytest.fixture
def server(tmp_path):
    made = Server(tmp_path)
    yield made.start()
    made.kill()


@pytest.mark.slow
def test_a_server_that_is_away_for_a_while_gets_everything_later(server, tmp_path, monkeypatch):
    """SIGKILL between two trials.

    What ended meanwhile is delivered once it is back, each trial once, and nothing is left running.
    """
    from ray_jobs.tracking import mlflow_tracker as tracking

    monkeypatch.setattr(tracking, "RETRY_SECONDS", 0.5)
    records = [ended(record) for record in planned(study(seeds=(41,)))]
    tracker = _open(server.uri)
    for record in records[:3]:
        tracker.log_trial(record, partial(telemetry_rows, record))
    while len(_ended_trials(server.uri)) < 3:
        time.sleep(0.1)
    server.kill()
    for record in records[3:]:
        tracker.log_trial(record, partial(telemetry_rows, record))
    while tracker.failure is None:
        time.sleep(0.1)
    server.start()
    tracker.finish([records[0].trial_id], [], interrupted=False)
    assert tracker.failure is None
    _, runs = _all_runs(server.uri)
    trials = [run.data.tags["trial_id"] for run in runs if run.data.tags["kind"] == "trial"]
    assert sorted(trials) == sorted(record.trial_id for record in records)
    assert {run.info.status for run in runs} == {"FINISHED"}


@pytest.mark.slow
def test_a_server_that_never_comes_back_is_told_of_and_resuming_delivers(server, tmp_path, monkeypatch):
    from ray_jobs.tracking import mlflow_tracker as tracking

    monkeypatch.setattr(tracking, "RETRY_SECONDS", 0.2)
    monkeypatch.setattr(tracking, "GIVE_UP_SECONDS", 1.0)
    records = [ended(record) for record in planned(study(seeds=(41,)))][:3]
    tracker = _open(server.uri)
    server.kill()
    for record in records:
        tracker.log_trial(record, list)
    tracker.finish([], [], interrupted=False)
    assert tracker.failure
    server.start()
    again = _open(server.uri)
    for record in records:
        again.log_trial(record, list)
    again.finish([], [], interrupted=False)
    assert again.failure is None
    _, runs = _all_runs(server.uri)
    assert len(runs) == 4
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_many_processes_may_open_a_fresh_database_at_once(tmp_path):
    """SQLite's migration breaks when two run it: one at a time, by a lock."""
    code = (
        "import sys; from ray_jobs.tracking.mlflow_tracker import MlflowTracker\n"
        "t = MlflowTracker(sys.argv[1], 'x', sys.argv[2], params={})\n"
        "t.finish([], [], interrupted=False); sys.exit(t.failure or 0)"
    )
    uri = f"sqlite:///{tmp_path / 'fresh.db'}"
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", code, uri, str(i)], cwd=ROOT, stderr=subprocess.PIPE, text=True
        )
        for i in range(3)
    ]
    said = [run.communicate(timeout=120)[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0], said
    client = MlflowClient(tracking_uri=uri)
    assert len(client.search_runs([client.get_experiment_by_name("x").experiment_id])) == 3


def test_a_process_that_is_killed_while_it_makes_the_store_leaves_nothing_in_the_way(tmp_path):
    """MLflow migrates a fresh SQLite file for seconds; what is half made is not what the next call opens."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    code = (
        "from ray_jobs.tracking.mlflow_tracker import MlflowTracker\n"
        f"MlflowTracker({uri!r}, 'tau_T_lambda', 'print', params={{}})"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.DEVNULL)
    half_made = tmp_path / ".mlflow.db.new"
    deadline = time.time() + 60
    while time.time() < deadline and not (half_made.exists() and half_made.stat().st_size):
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (tmp_path / "mlflow.db").exists()
    tracker = _open(uri)
    tracker.finish([], [], interrupted=False)
    assert tracker.failure is None
    assert not half_made.exists()
