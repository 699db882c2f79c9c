import json
import os
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from builders import ended, planned, study, telemetry_rows
from conftest import ROOT
from mirrored import STUDY, all_runs, open_tracker, study_run, trials_of, wait_for
from mlflow.tracking import MlflowClient

from analysis.evidence.study_marks import marks_of
from grit.cli.kept_run import Answering
from grit.errors import ConfigError
from grit.presets.run_presets import configuration
from grit.training.side_by_side import train
from grit.training.workbench import Workbench
from ray_jobs.design.points import Point
from ray_jobs.tracking import mlflow_tracker
from ray_jobs.tracking.marks import StudyMarks
from ray_jobs.tracking.mlflow_tracker import MlflowTracker
from ray_jobs.tracking.run_contents import CURVE_POINTS, setting_params, setting_points, trial_params

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


@pytest.fixture(autouse=True)
def shows_at_once(monkeypatch):
    """What runs is shown without a wait, whatever the last look cost (else fifty times as long)."""
    monkeypatch.setattr(mlflow_tracker, "LIVE_SECONDS", 0.05)
    monkeypatch.setattr(mlflow_tracker, "LIVE_SHARE", 1.0)


def test_a_study_is_a_parent_with_one_nested_run_per_trial(uri, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    records = [ended(record) for record in planned(study(seeds=(41,)))]
    records[3] = ended(records[3], status="diverged", error="too high")
    tracker = open_tracker(uri)
    for record in records:
        tracker.log_trial(record, partial(telemetry_rows, record))
    report = tmp_path / "report.md"
    report.write_text("# hello")
    tracker.finish(marks_of(records), [report], interrupted=False)
    assert tracker.failure is None
    client, runs = all_runs(uri)
    parents = [r for r in runs if r.data.tags["kind"] == "study"]
    trials = {r.data.tags["trial_id"]: r for r in runs if r.data.tags["kind"] == "trial"}
    assert len(parents) == 1
    assert len(trials) == len(records)
    settings = {r.info.run_id: r for r in runs if r.data.tags["kind"] == "setting"}
    assert {r.data.tags["mlflow.parentRunId"] for r in settings.values()} == {parents[0].info.run_id}
    for run in trials.values():
        setting = settings[run.data.tags["mlflow.parentRunId"]]
        for name in ("point_id", "regime"):
            assert setting.data.tags[name] == run.data.tags[name]
    for record in records:
        run = trials[record.trial_id]
        assert run.data.metrics["quality"] == record.measured.quality
        assert run.data.metrics["footprint"] == record.measured.footprint
        assert run.info.status == ("FAILED" if record.status == "diverged" else "FINISHED")
        if record.tau is not None:
            assert (run.data.params["tau"], run.data.params["T"], run.data.params["lambda"]) == (
                str(record.tau),
                str(record.T),
                str(record.lambda_),
            )
    history = client.get_metric_history(trials[records[2].trial_id].info.run_id, "loss")
    assert sorted({(m.step, m.value) for m in history}) == [(s, 1.0 / s) for s in range(1, 21)]
    paths = {a.path for a in client.list_artifacts(parents[0].info.run_id)}
    assert paths == {"front_step.json", "front_time.json", "report.md"}
    assert {r.info.status for r in runs} <= {"FINISHED", "FAILED"}


def test_settings_differ_in_what_was_set_and_quality_comes_first():
    """MLflow's compare page opens on the first parameters that differ, by the alphabet, and a metric."""
    default, other = planned(study(seeds=(41,), regimes=("step",), search_points=1))[1:3]
    assert default.plan.overrides != other.plan.overrides
    watched = default.changed(design="ladder", config=default.config.changed(ladder=(0.9,)))
    ours, others = setting_params(watched), setting_params(other)
    differing = sorted(name for name in ours if ours[name] != others[name])
    assert differing and set(differing) <= {"T", "lambda", "tau"}
    assert trial_params(watched)["ladder"] != trial_params(other)["ladder"]
    assert trial_params(watched)["design"] == "ladder"
    (marks,) = marks_of([ended(default)]).settings
    assert setting_points(marks, 0)[0].name == "quality"


def test_what_decided_a_run_is_a_param_what_it_read_is_an_input(uri, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arm = Point(design="ablation", overrides={"rank_policy": "growth"})
    record = ended(planned(study(seeds=(41,), regimes=("step",), oat=[arm]))[1])
    tracker = open_tracker(uri)
    tracker.log_trial(record, list)
    tracker.finish(marks_of([record]), [], interrupted=False)
    run = trials_of(all_runs(uri)[1])[0]
    params = run.data.params
    assert params["rank_policy"] == "growth" and params["learning_rate"] == "0.0001"
    assert (params["seed"], params["regime"], params["design"]) == ("41", "step", "ablation")
    assert params["lambda"] == str(record.lambda_) and "kfac_damping" not in params
    assert float(params["max_grad_norm"]) == record.config.optimization.max_grad_norm
    assert "rank_policy=growth" in run.info.run_name
    read = {item.dataset.name: item.dataset.digest for item in run.inputs.dataset_inputs}
    assert read == {"arithmetic": "t", "arithmetic held-out text": "d"}


def test_settings_aggregate_their_seeds_and_carry_the_marks(uri, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    records = planned(study(seeds=(41, 42), regimes=("step",)))
    records = [
        ended(r, quality=0.4 + 0.1 * (r.plan.seed == 42) + 0.2 * (i % 5 == 1)) for i, r in enumerate(records)
    ]
    tracker = MlflowTracker(uri, STUDY, marker=marks_of)
    for record in records:
        tracker.log_trial(record, list)
    marks = marks_of(records)
    tracker.finish(marks, [], interrupted=False)
    client, runs = all_runs(uri)
    settings = [run for run in runs if run.data.tags["kind"] == "setting"]
    assert len(settings) == len(marks.settings) == 5
    top = study_run(uri)
    path = client.download_artifacts(top.info.run_id, "front_step.json", str(tmp_path))
    table = json.loads(Path(path).read_text())
    last = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    last = [row for row in last if row["trials"] == last[-1]["trials"]]  # it grows when the front changes
    assert {row["setting"] for row in last} == {
        run.info.run_name for run in settings if run.data.tags["pareto.step"] == "true"
    }
    assert all(row["n"] == 2 for row in last)
    shown_as = json.loads(top.data.tags["mlflow.loggedArtifacts"])
    assert shown_as == [{"path": "front_step.json", "type": "table"}]
    for run in settings:
        setting = marks.of(run.data.tags["point_id"], "step")
        quality = setting.objectives["quality"]
        shown = [run.data.metrics[f"quality{end}"] for end in ("", ".low", ".high")]
        assert shown == [quality.mean, quality.low, quality.high]
        assert run.data.metrics["n"] == 2
        assert run.data.tags["pareto.step"] == str(setting.on_front).lower()
        assert run.data.tags["recommended"] == "false"
    assert {run.data.tags["pareto.step"] for run in settings} == {"true", "false"}
    by_point = {run.data.tags["point_id"]: run.data.tags["pareto.step"] for run in settings}
    for run in trials_of(runs):
        assert run.data.tags["pareto.step"] == by_point[run.data.tags["point_id"]]
    whole = study_run(uri)
    assert whole.data.metrics["hypervolume_step"] == marks.hypervolume["step"]
    assert whole.data.metrics["trials"] == len(records)
    assert whole.data.metrics["hours"] > 0


def test_a_running_trial_is_there_with_its_curve_and_ends_with_each_step_once(uri, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    record = planned(study(seeds=(41,)))[2]
    tracker = open_tracker(uri)
    tracker.running(record, {"phase": "scoring the untuned model", "loss": None})
    live = wait_for(lambda: trials_of(all_runs(uri)[1]))[0]
    assert live.info.status == "RUNNING" and live.data.tags["status"] == "planned"
    load = {"cpu_utilization_percentage": 12.5, "gpu_utilization_percentage": 99.0}
    for _ in range(2):  # the same reading, looked at twice
        tracker.running(record, {"step": 3, "loss": 1 / 3, "mean_rank": 7.0, "load": load})
    wait_for(lambda: trials_of(all_runs(uri)[1])[0].data.metrics.get("loss"))
    done = ended(record)
    tracker.log_trial(done, partial(telemetry_rows, done))
    tracker.finish(marks_of([done]), [], interrupted=False)
    client, runs = all_runs(uri)
    (run,) = trials_of(runs)
    assert run.info.run_id == live.info.run_id and run.info.status == "FINISHED"
    steps = [point.step for point in client.get_metric_history(run.info.run_id, "loss")]
    assert sorted(steps) == list(range(1, 21))
    for name, value in load.items():  # of the machine that the trial runs on
        (point,) = client.get_metric_history(run.info.run_id, f"system/{name}")
        assert (point.value, point.step) == (value, 3)
    assert study_run(uri).data.metrics["system/cpu_utilization_percentage"] >= 0


def test_a_trial_that_is_cut_off_is_not_left_running_and_begins_anew(uri, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    record = planned(study(seeds=(41,)))[2]
    first = open_tracker(uri)
    first.running(record, {"step": 3, "loss": 0.5, "mean_rank": 7.0})
    wait_for(lambda: trials_of(all_runs(uri)[1]))
    first.interrupted()
    assert {run.info.status for run in all_runs(uri)[1]} == {"KILLED"}
    first.finish(StudyMarks(), [], interrupted=True)
    second = open_tracker(uri)
    second.log_trial(ended(record), list)
    second.finish(StudyMarks(), [], interrupted=False)
    runs = all_runs(uri)[1]
    assert len(trials_of(runs)) == 1
    assert {run.info.status for run in runs} == {"FINISHED"}


def _loaded(uri, prompts):
    """What another process makes of the registered model, in a folder that knows nothing of this project."""
    code = (
        "import json, sys, mlflow\n"
        "mlflow.set_tracking_uri(sys.argv[1]); mlflow.set_registry_uri(sys.argv[1])\n"
        "model = mlflow.pyfunc.load_model('models:/toy/1'); import grit\n"
        "print(json.dumps([grit.__file__, model.predict(json.loads(sys.argv[2]))]))"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, uri, json.dumps(prompts)]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", timeout=300, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_an_adapter_is_a_model_that_answers_elsewhere(uri, tmp_path, monkeypatch):
    """Logged with its run's numbers, registered, and loaded by MLflow alone, with the code it carries."""
    monkeypatch.chdir(tmp_path)
    record = ended(planned(study(seeds=(41,)))[2])
    config = configuration("embedded", "grit", task=None, steps=4).changed(eval_examples=8)
    train(config, Workbench(), adapter=tmp_path / "adapter")
    tracker = open_tracker(uri)
    tracker.log_trial(record, list)
    tracker.finish(marks_of([record]), [], interrupted=False)
    registered = tracker.log_adapters({record.trial_id: tmp_path / "adapter"}, {record.trial_id: "toy"})
    assert tracker.failure is None
    assert registered == {record.trial_id: "models:/toy/1"}
    client, runs = all_runs(uri)
    (run,) = trials_of(runs)
    assert run.info.status == "FINISHED"
    (model,) = client.search_logged_models([run.info.experiment_id])
    assert model.source_run_id == run.info.run_id
    assert {metric.key: metric.value for metric in model.metrics}["quality"] == record.measured.quality
    assert model.params["seed"] == "41"
    before = client.get_run(run.info.run_id)
    again = tracker.log_adapters({record.trial_id: tmp_path / "adapter"}, {record.trial_id: "toy"})
    assert again == registered
    assert len(client.search_logged_models([run.info.experiment_id])) == 1
    assert client.get_run(run.info.run_id).info.end_time == before.info.end_time
    assert os.environ.get("MLFLOW_TRACKING_URI") is None
    prompts = ["12 + 7 = ", "3 + 4 = "]
    where, answers = _loaded(uri, prompts)
    assert "site-packages" not in where and str(ROOT / "grit") not in where
    assert answers == Answering(tmp_path / "adapter").answers(prompts)


def test_another_attempt_takes_the_place_of_what_a_lost_one_has_shown(uri, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    record = planned(study(seeds=(41,)))[2]
    tracker = open_tracker(uri)
    for _ in range(5):  # an evaluation: the same step is heard again and again
        tracker.running(record, {"step": 9, "loss": 5.0, "mean_rank": 7.0})
        time.sleep(0.02)
    client, runs = all_runs(uri)
    first = wait_for(lambda: [run for run in trials_of(all_runs(uri)[1]) if "loss" in run.data.metrics])[0]
    assert [point.step for point in client.get_metric_history(first.info.run_id, "loss")] == [9]
    tracker.running(record, {"step": 4, "loss": 0.25, "mean_rank": 7.0})
    wait_for(lambda: [r for r in trials_of(all_runs(uri)[1]) if r.data.metrics.get("loss") == 0.25])
    done = ended(record)
    tracker.log_trial(done, partial(telemetry_rows, done))
    tracker.finish(marks_of([done]), [], interrupted=False)
    tracker.running(record, {"step": 5, "loss": 0.2, "mean_rank": 7.0})  # late
    (run,) = trials_of(all_runs(uri)[1])
    history = client.get_metric_history(run.info.run_id, "loss")
    assert sorted((point.step, point.value) for point in history) == [(s, 1 / s) for s in range(1, 21)]


def test_runs_of_an_earlier_layout_and_of_a_killed_driver_are_not_doubled(uri, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    records = [ended(record) for record in planned(study(seeds=(41,)))][:2]
    first = open_tracker(uri)
    first.finish(StudyMarks(), [], interrupted=True)
    client, runs = all_runs(uri)
    (parent,) = runs
    experiment = parent.info.experiment_id
    old = {"mlflow.parentRunId": parent.info.run_id, "trial_id": records[0].trial_id, "kind": "trial"}
    client.create_run(experiment, tags=old)
    killed = {
        **old,
        "study_id": STUDY.study_id,
        "trial_id": "t",
        "point_id": "p",
        "regime": "step",
        "status": "planned",
    }
    left = client.create_run(experiment, tags={**killed, "design": "oat"})
    second = open_tracker(uri)
    assert client.get_run(left.info.run_id).info.status == "KILLED"
    for record in records:
        second.log_trial(record, list)
    second.finish(marks_of(records), [], interrupted=False)
    trials = [run.data.tags["trial_id"] for run in trials_of(all_runs(uri)[1])]
    assert sorted(trials) == sorted(["t", *(record.trial_id for record in records)])


def test_an_analysis_that_fails_costs_no_trial(uri, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = []

    def marker(records):
        asked.append(len(records))
        raise KeyError("x")

    records = [ended(record) for record in planned(study(seeds=(41,)))]
    tracker = MlflowTracker(uri, STUDY, marker=marker)
    tracker.log_trial(records[0], list)
    wait_for(lambda: asked)
    for record in records[1:]:
        tracker.log_trial(record, list)
    tracker.finish(marks_of(records), [], interrupted=False)
    assert len(trials_of(all_runs(uri)[1])) == len(records)


def test_resuming_doubles_nothing_and_leaves_nothing_running(uri, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    records = [ended(record) for record in planned(study(seeds=(41,)))]
    first = open_tracker(uri)
    for record in records[:4]:
        first.log_trial(record, list)
    first.finish(StudyMarks(), [], interrupted=True)
    second = open_tracker(uri)
    for record in records:
        second.log_trial(record, list)
    second.finish(StudyMarks(), [], interrupted=False)
    _, runs = all_runs(uri)
    assert len(trials_of(runs)) == len(records)
    assert {r.info.status for r in runs} == {"FINISHED"}


def test_a_later_attempt_replaces_the_failed_one_and_half_written_runs_go(uri, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    records = planned(study(seeds=(41,)))
    first = open_tracker(uri)
    first.log_trial(ended(records[0], status="failed", error="oom"), list)
    first.finish(StudyMarks(), [], interrupted=True)
    client, runs = all_runs(uri)
    half = client.create_run(
        runs[0].info.experiment_id,
        tags={
            "study_id": STUDY.study_id,
            "regime": "step",
            "point_id": "p",
            "trial_id": records[1].trial_id,
            "kind": "trial",
            "status": "completed",
            "design": "oat",
        },
    )
    second = open_tracker(uri)
    for record in records[:2]:
        second.log_trial(ended(record), partial(telemetry_rows, record))
    second.finish(StudyMarks(), [], interrupted=False)
    _, runs = all_runs(uri)
    trials = {r.data.tags["trial_id"]: r for r in runs if r.data.tags["kind"] == "trial"}
    assert len(trials_of(runs)) == 2
    assert {r.info.status for r in runs} == {"FINISHED"}
    assert trials[records[0].trial_id].data.metrics["quality"] == 0.5
    assert half.info.run_id not in {r.info.run_id for r in runs}


def test_two_studies_with_the_same_settings_keep_their_own_runs(uri, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    record = ended(planned(study(seeds=(41,)))[0])
    for study_id in ("one", "two"):
        tracker = MlflowTracker(uri, STUDY.model_copy(update={"study_id": study_id}))
        tracker.log_trial(record, list)
        tracker.finish(StudyMarks(), [], interrupted=False)
    assert len(trials_of(all_runs(uri)[1])) == 2


def test_the_study_links_to_its_compare_pages(uri, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tracker = open_tracker(uri)
    for record in planned(study(seeds=(41,))):
        tracker.log_trial(ended(record), list)
    tracker.finish(StudyMarks(), [], interrupted=False)
    client, _ = all_runs(uri)
    note = client.get_run(study_run(uri).info.run_id).data.tags["mlflow.note.content"]
    assert note.count("#/compare-runs?runs=") == 4
    assert "4 step-matched grit trials" in note and "4 step-matched settings" in note  # not the control


def test_long_curves_are_thinned_and_keep_their_end(uri, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    record = ended(planned(study(seeds=(41,)))[2])
    tracker = open_tracker(uri)
    tracker.log_trial(record, partial(telemetry_rows, record, steps=1999))
    tracker.finish(StudyMarks(), [], interrupted=False)
    client, runs = all_runs(uri)
    run = next(r for r in runs if r.data.tags["kind"] == "trial")
    steps = {m.step for m in client.get_metric_history(run.info.run_id, "loss")}
    assert len(steps) <= CURVE_POINTS + 1
    assert max(steps) == 1999


def test_an_unusable_store_is_refused():
    with pytest.raises(ConfigError, match="tracking-uri"):
        MlflowTracker("ftp://nowhere", STUDY)
