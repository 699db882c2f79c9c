"""Real sweeps in processes of their own, for tests.

Started isolated, killed for certain, their traces read back.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import optuna
import psutil
import pytest
from mlflow.tracking import MlflowClient

from ray_jobs.records.status import STATUSES
from ray_jobs.records.study_file import read_study
from ray_jobs.records.trials_file import read_trials

ROOT = Path(__file__).resolve().parents[1]
COMMAND = [sys.executable, str(ROOT / "sweeps" / "tau_T_lambda.py"), "--preset", "smoke"]
#: A study of five trials of about a second each.
FIVE = ("--regimes", "step", "--budget-steps", "40", "--search-points", "0", "--no-reuse")


def environment():
    """Ours, without another Ray's."""
    return {key: value for key, value in os.environ.items() if key not in ("RAY_ADDRESS", "RAY_AUTH_MODE")}


def start(folder, *more, name="study", uri=None):
    """One sweep below `folder`, in a process group of its own."""
    uri = uri or f"sqlite:///{folder / 'mlflow.db'}"
    return subprocess.Popen(
        [*COMMAND, "--tracking-uri", uri, "--output", str(folder / name), *more],
        cwd=folder,
        text=True,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


@pytest.fixture
def launch(tmp_path):
    """Starts sweeps, and ends what is left of them."""
    with launching(tmp_path) as go:
        yield go


@contextmanager
def launching(folder):
    """Starts sweeps below `folder`, and ends what is left of them."""
    started = []

    def go(*more, **where):
        started.append(start(folder, *more, **where))
        return started[-1]

    yield go
    for process in started:
        left = descendants(process.pid)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        for child in left:
            if child.is_running():
                child.kill()


def descendants(pid):
    """All processes below `pid`; none when it is gone."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def workers(process):
    """Process ids of the Ray Train workers below `process`."""
    return [
        child.pid
        for child in descendants(process.pid)
        if any("RayTrainWorker" in part for part in child.cmdline()[:1])
    ]


def after_trials(study, count=1, process=None):
    """Waits until `count` trials of the study in that folder have ended."""
    deadline = time.time() + 240
    while time.time() < deadline and not (process is not None and process.poll() is not None):
        if (study / "trials.jsonl").exists() and sum(r.ended for r in read_trials(study)) >= count:
            return
        time.sleep(0.05)
    raise TimeoutError(f"{count} trials did not end")


def runs(uri):
    """All runs of all studies in an MLflow store."""
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("tau_T_lambda")
    return client.search_runs([experiment.experiment_id], max_results=1000)


def assert_nothing_lies(study, *, uri, statuses):
    """Records, Optuna and MLflow agree.

    Every planned trial once, with these statuses, and nothing is left running.
    """
    records = read_trials(study)
    assert len({r.trial_id for r in records}) == len(records)
    assert Counter(r.status for r in records) == Counter(statuses)
    study_id = read_study(study).study_id
    (parent,) = [run for run in runs(uri) if run.data.tags.get("study_id") == study_id]
    assert parent.info.status == "FINISHED"
    nested = [run for run in runs(uri) if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    by_trial = {run.data.tags["trial_id"]: run for run in nested}
    assert len(by_trial) == len(nested)
    assert set(by_trial) == {record.trial_id for record in records if record.ended}
    for record in records:
        assert by_trial[record.trial_id].data.tags["status"] == record.status
        assert by_trial[record.trial_id].info.status == STATUSES[record.status].mlflow
    if (study / "optuna.db").exists():
        storage = f"sqlite:///{study / 'optuna.db'}"
        for name in optuna.get_all_study_names(storage):
            assert "RUNNING" not in [
                trial.state.name for trial in optuna.load_study(study_name=name, storage=storage).trials
            ]
    return records
