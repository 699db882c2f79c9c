import pytest
from builders import ended, study, telemetry_rows
from mlflow.tracking import MlflowClient

from grit.errors import ConfigError
from ray_jobs.study import plan
from ray_jobs.tracking import CURVE_POINTS, MlflowTracker

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def uri(tmp_path):
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


def _open(uri):
    return MlflowTracker(uri, "tau_T_lambda", "print", params={"model": "embedded"})


def _all_runs(uri):
    client = MlflowClient(tracking_uri=uri)
    return client, client.search_runs([client.get_experiment_by_name("tau_T_lambda").experiment_id], max_results=1000)


def test_a_study_is_a_parent_with_one_nested_run_per_trial(uri, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    records = [ended(t.record) for t in plan(study(seeds=(41,)))]
    records[3] = ended(records[3], status="diverged", error="too high")
    tracker = _open(uri)
    for record in records:
        tracker.log_trial(record, telemetry_rows(record))
    report = tmp_path / "report.md"
    report.write_text("# hello")
    tracker.finish([records[0].trial_id], [report], interrupted=False)
    assert tracker.failure is None
    client, runs = _all_runs(uri)
    parents = [r for r in runs if r.data.tags["kind"] == "study"]
    trials = {r.data.tags["trial_id"]: r for r in runs if r.data.tags["kind"] == "trial"}
    assert len(parents) == 1 and len(trials) == len(records)
    assert {r.data.tags["mlflow.parentRunId"] for r in trials.values()} == {parents[0].info.run_id}
    for record in records:
        run = trials[record.trial_id]
        assert run.data.metrics["quality"] == record.quality and run.data.metrics["footprint"] == record.footprint
        assert run.info.status == ("FAILED" if record.status == "diverged" else "FINISHED")
        assert run.data.tags["pareto"] == str(record is records[0]).lower()
        if record.tau is not None:
            assert (run.data.params["tau"], run.data.params["T"], run.data.params["lambda"]) == (str(record.tau), str(record.T), str(record.lambda_))
    history = client.get_metric_history(trials[records[2].trial_id].info.run_id, "loss")
    assert sorted({(m.step, m.value) for m in history}) == [(s, 1.0 / s) for s in range(1, 21)]
    assert [a.path for a in client.list_artifacts(parents[0].info.run_id)] == ["report.md"]
    assert {r.info.status for r in runs} <= {"FINISHED", "FAILED"}


def test_resuming_doubles_nothing_and_leaves_nothing_running(uri, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    records = [ended(t.record) for t in plan(study(seeds=(41,)))]
    first = _open(uri)
    for record in records[:4]:
        first.log_trial(record, [])
    first.finish([], [], interrupted=True)
    second = _open(uri)
    for record in records:
        second.log_trial(record, [])
    second.finish([], [], interrupted=False)
    _, runs = _all_runs(uri)
    assert len(runs) == len(records) + 1
    assert {r.info.status for r in runs} == {"FINISHED"}


def test_a_later_attempt_replaces_the_failed_one_and_half_written_runs_go(uri, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    records = [t.record for t in plan(study(seeds=(41,)))]
    first = _open(uri)
    first.log_trial(ended(records[0], status="failed", error="oom"), [])
    first.finish([], [], interrupted=True)
    client, runs = _all_runs(uri)
    half = client.create_run(runs[0].info.experiment_id, tags={"mlflow.parentRunId": first.parent_id, "trial_id": records[1].trial_id,
                                                               "kind": "trial", "status": "completed", "design": "oat"})
    second = _open(uri)
    for record in records[:2]:
        second.log_trial(ended(record), telemetry_rows(record))
    second.finish([], [], interrupted=False)
    _, runs = _all_runs(uri)
    trials = {r.data.tags["trial_id"]: r for r in runs if r.data.tags["kind"] == "trial"}
    assert len(runs) == 3 and {r.info.status for r in runs} == {"FINISHED"}
    assert trials[records[0].trial_id].data.metrics["quality"] == 0.5
    assert half.info.run_id not in {r.info.run_id for r in runs}


def test_two_studies_with_the_same_settings_keep_their_own_runs(uri, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    record = ended([t.record for t in plan(study(seeds=(41,)))][0])
    for study_id in ("one", "two"):
        tracker = MlflowTracker(uri, "tau_T_lambda", study_id, params={})
        tracker.log_trial(record, [])
        tracker.finish([], [], interrupted=False)
    assert len(_all_runs(uri)[1]) == 4


def test_the_study_links_to_its_compare_pages(uri, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tracker = _open(uri)
    for record in [t.record for t in plan(study(seeds=(41,)))]:
        tracker.log_trial(ended(record), [])
    tracker.finish([], [], interrupted=False)
    client, _ = _all_runs(uri)
    note = client.get_run(tracker.parent_id).data.tags["mlflow.note.content"]
    assert note.count("#/compare-runs?runs=") == 2 and "4 step-matched grit trials" in note


def test_long_curves_are_thinned_and_keep_their_end(uri, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    record = ended([t.record for t in plan(study(seeds=(41,)))][2])
    tracker = _open(uri)
    tracker.log_trial(record, telemetry_rows(record, steps=1999))
    tracker.finish([], [], interrupted=False)
    client, runs = _all_runs(uri)
    run = next(r for r in runs if r.data.tags["kind"] == "trial")
    steps = {m.step for m in client.get_metric_history(run.info.run_id, "loss")}
    assert len(steps) <= CURVE_POINTS + 1 and max(steps) == 1999


def test_an_unusable_store_is_refused():
    with pytest.raises(ConfigError, match="tracking-uri"):
        MlflowTracker("ftp://nowhere", "x", "y", params={})
