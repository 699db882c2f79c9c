"""What tests of MLflow's mirror share: a study, a tracker on it, and the runs in its store."""

import time

from builders import study, study_file
from mlflow.tracking import MlflowClient

from analysis.evidence.study_marks import marks_of
from ray_jobs.tracking.mlflow_tracker import MlflowTracker

STUDY = study_file(study(seeds=(41,), name="tau_T_lambda"))


def open_tracker(uri):
    return MlflowTracker(uri, STUDY, marker=marks_of)


def named(study_id):
    return STUDY.model_copy(update={"study_id": study_id}).model_dump_json()


def all_runs(uri):
    client = MlflowClient(tracking_uri=uri)
    return client, client.search_runs(
        [client.get_experiment_by_name("tau_T_lambda").experiment_id], max_results=1000
    )


def trials_of(runs):
    return [run for run in runs if run.data.tags["kind"] == "trial"]


def study_run(uri):
    return next(run for run in all_runs(uri)[1] if run.data.tags["kind"] == "study")


def ended_trials(uri):
    runs = all_runs(uri)[1]
    return [run for run in runs if run.data.tags["kind"] == "trial" and run.info.status != "RUNNING"]


def wait_for(look, seconds=120):
    deadline = time.time() + seconds
    while not (seen := look()):
        assert time.time() < deadline, f"nothing came within {seconds} s"
        time.sleep(0.05)
    return seen
