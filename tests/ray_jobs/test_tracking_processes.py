"""MLflow's mirror with real servers and other processes: killed, away, racing for a fresh database."""

import subprocess
import sys
import time
from functools import partial

import pytest
from builders import ended, planned, study, telemetry_rows
from conftest import ROOT
from mirrored import all_runs, ended_trials, named, open_tracker, trials_of
from mlflow.tracking import MlflowClient
from mlflow_server import MlflowServer

from analysis.evidence.study_marks import marks_of
from grit.errors import ConfigError
from ray_jobs.tracking.marks import StudyMarks

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture
def server(tmp_path):
    made = MlflowServer(tmp_path)
    yield made.start()
    made.kill()


PASSWORD = "open-sesame-4711"


@pytest.fixture
def guarded(tmp_path, monkeypatch):
    """A server that asks for a name and a password."""
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD", raising=False)
    secrets = {"MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD, "MLFLOW_FLASK_SERVER_SECRET_KEY": "x" * 32}
    made = MlflowServer(tmp_path, "--app-name", "basic-auth", environment=secrets)
    yield made.start()
    made.kill()


@pytest.mark.slow
@pytest.mark.parametrize("way", ["environment", "address"])
def test_a_server_with_basic_auth_is_written_to_and_tells_no_password(guarded, tmp_path, monkeypatch, way):
    uri = guarded.uri
    if way == "environment":
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    else:
        uri = uri.replace("http://", f"http://admin:{PASSWORD}@")
    records = [ended(record) for record in planned(study(seeds=(41,)))][:2]
    tracker = open_tracker(uri)
    for record in records:
        tracker.log_trial(record, partial(telemetry_rows, record))
    (tmp_path / "report.html").write_text("page")
    tracker.finish(marks_of(records), [tmp_path / "report.html"], interrupted=False)
    assert tracker.failure is None
    client, runs = all_runs(uri)
    assert len(trials_of(runs)) == 2
    assert {run.info.status for run in runs} == {"FINISHED"}
    for run in runs:
        assert PASSWORD not in str(run.to_dictionary())
    (top,) = [run for run in runs if run.data.tags["kind"] == "study"]
    paths = [item.path for item in client.list_artifacts(top.info.run_id)]
    assert paths == ["front_step.json", "front_time.json", "report.html"]


@pytest.mark.slow
def test_a_wrong_password_is_one_line_without_it(guarded, monkeypatch):
    wrong = guarded.uri.replace("http://", "http://admin:not-that-one@")
    with pytest.raises(ConfigError, match="^tracking-uri = ") as refused:
        open_tracker(wrong)
    assert "not-that-one" not in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.slow
def test_a_server_that_is_away_for_a_while_gets_everything_later(server, tmp_path, monkeypatch):
    """SIGKILL between two trials.

    What ended meanwhile is delivered once it is back, each trial once, and nothing is left running.
    """
    from ray_jobs.tracking import mlflow_tracker as tracking

    monkeypatch.setattr(tracking, "RETRY_SECONDS", 0.5)
    records = [ended(record) for record in planned(study(seeds=(41,)))]
    tracker = open_tracker(server.uri)
    for record in records[:3]:
        tracker.log_trial(record, partial(telemetry_rows, record))
    while len(ended_trials(server.uri)) < 3:
        time.sleep(0.1)
    server.kill()
    for record in records[3:]:
        tracker.log_trial(record, partial(telemetry_rows, record))
    while tracker.failure is None:
        time.sleep(0.1)
    server.start()
    tracker.finish(marks_of(records), [], interrupted=False)
    assert tracker.failure is None
    _, runs = all_runs(server.uri)
    trials = [run.data.tags["trial_id"] for run in runs if run.data.tags["kind"] == "trial"]
    assert sorted(trials) == sorted(record.trial_id for record in records)
    assert {run.info.status for run in runs} == {"FINISHED"}


@pytest.mark.slow
def test_a_server_that_never_comes_back_is_told_of_and_resuming_delivers(server, tmp_path, monkeypatch):
    from ray_jobs.tracking import mlflow_tracker as tracking

    monkeypatch.setattr(tracking, "RETRY_SECONDS", 0.2)
    monkeypatch.setattr(tracking, "GIVE_UP_SECONDS", 1.0)
    records = [ended(record) for record in planned(study(seeds=(41,)))][:3]
    tracker = open_tracker(server.uri)
    server.kill()
    for record in records:
        tracker.log_trial(record, list)
    tracker.finish(StudyMarks(), [], interrupted=False)
    assert tracker.failure
    server.start()
    again = open_tracker(server.uri)
    for record in records:
        again.log_trial(record, list)
    again.finish(StudyMarks(), [], interrupted=False)
    assert again.failure is None
    _, runs = all_runs(server.uri)
    assert len(trials_of(runs)) == 3
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_many_processes_may_open_a_fresh_database_at_once(tmp_path):
    """SQLite's migration breaks when two run it: one at a time, by a lock."""
    code = (
        "import sys; from ray_jobs.tracking.mlflow_tracker import MlflowTracker\n"
        "from ray_jobs.records.study_file import StudyFile\n"
        "from ray_jobs.tracking.marks import StudyMarks\n"
        "t = MlflowTracker(sys.argv[1], StudyFile.model_validate_json(sys.argv[2]))\n"
        "t.finish(StudyMarks(), [], interrupted=False); sys.exit(t.failure or 0)"
    )
    uri = f"sqlite:///{tmp_path / 'fresh.db'}"
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", code, uri, named(str(i))], cwd=ROOT, stderr=subprocess.PIPE, text=True
        )
        for i in range(3)
    ]
    said = [run.communicate(timeout=120)[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0], said
    client = MlflowClient(tracking_uri=uri)
    assert len(client.search_runs([client.get_experiment_by_name("tau_T_lambda").experiment_id])) == 3


def test_a_process_that_is_killed_while_it_makes_the_store_leaves_nothing_in_the_way(tmp_path):
    """MLflow migrates a fresh SQLite file for seconds; what is half made is not what the next call opens."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    code = (
        "from ray_jobs.tracking.mlflow_tracker import MlflowTracker\n"
        "from ray_jobs.records.study_file import StudyFile\n"
        f"MlflowTracker({uri!r}, StudyFile.model_validate_json({named('print')!r}))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.DEVNULL)
    half_made = tmp_path / ".mlflow.db.new"
    deadline = time.time() + 60
    while time.time() < deadline and not (half_made.exists() and half_made.stat().st_size):
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (tmp_path / "mlflow.db").exists()
    tracker = open_tracker(uri)
    tracker.finish(StudyMarks(), [], interrupted=False)
    assert tracker.failure is None
    assert not half_made.exists()
