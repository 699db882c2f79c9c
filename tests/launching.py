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
from dataclasses import dataclass
from pathlib import Path

import optuna
import psutil
import pytest
from mlflow.tracking import MlflowClient

from ray_jobs.records.study_file import read_study
from ray_jobs.records.trial_status import STATUSES
from ray_jobs.records.trials_file import read_trials
from sweeps.common.study_status import StudyStatus, study_status

ROOT = Path(__file__).resolve().parents[1]
COMMAND = [sys.executable, str(ROOT / "sweeps" / "tau_T_lambda.py")]
#: A study of five trials of about a second each.
FIVE = ("--regimes", "step", "--budget-steps", "40", "--search-points", "0", "--no-reuse")
#: One of three: the control, the default, and one other tau.
THREE = (*FIVE, "--T", "4", "--lambda", "1e-3")
#: Everything once, as short as it can be: both regimes, a search, twelve trials.
SHORT = ("--budget-steps", "12", "--budget-seconds", "0.6", "--search-points", "1")


def environment():
    """Ours, without another Ray's."""
    return {key: value for key, value in os.environ.items() if key not in ("RAY_ADDRESS", "RAY_AUTH_MODE")}


def start(folder, *more, name="study", uri=None, preset=("--preset", "smoke")):
    """One sweep below `folder`, in a process group of its own."""
    uri = uri or f"sqlite:///{folder / 'mlflow.db'}"
    return subprocess.Popen(
        [*COMMAND, *preset, "--tracking-uri", uri, "--output", str(folder / name), *more],
        cwd=folder,
        text=True,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def run_script(command, folder, timeout, **more):
    """Runs to its end, or ends it with all it started."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**environment(), "PATH": path, **more},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=timeout)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    return process.returncode, said


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


def by_id(study):
    """The records of a study by trial."""
    return {record.trial_id: record for record in read_trials(study)}


@dataclass(frozen=True, kw_only=True)
class Interrupted:
    """A study at each of its ends: by Ctrl-C, by SIGKILL to its driver, by itself.

    Records by trial id; `lost` is what the study's status said after the kill; `said` and `errors` are of the
    last call; `lingering` are Ray's processes that outlived the killed driver.
    """

    uri: str
    study: Path
    code: int
    parting: str
    after_ctrl_c: dict
    after_kill: dict
    lost: StudyStatus
    finished: dict
    said: str
    errors: str
    lingering: list


@pytest.fixture(scope="session")
def interrupted(tmp_path_factory):
    """A whole study, with a search, that is stopped twice on its way."""
    folder = tmp_path_factory.mktemp("interrupted")
    study = folder / "study"
    with launching(folder) as launch:
        first = launch(*SHORT, "--max-concurrent", "1")
        after_trials(study, process=first)
        os.killpg(first.pid, signal.SIGINT)  # the whole group, as a terminal does
        _, parting = first.communicate(timeout=120)
        after_ctrl_c = by_id(study)

        second = launch(*SHORT, "--max-concurrent", "1")
        after_trials(study, 6, second)
        below = descendants(second.pid)
        os.kill(second.pid, signal.SIGKILL)
        second.communicate()
        after_kill, lost = by_id(study), study_status(study)

        third = launch(*SHORT)
        said, errors = third.communicate(timeout=300)
        assert third.returncode == 0, errors
    left = [child for child in below if child.is_running() and child.status() != "zombie"]
    lingering = [child.name() for child in left]
    for child in left:  # an agent of the dead Ray may linger
        child.kill()
    return Interrupted(
        uri=f"sqlite:///{folder / 'mlflow.db'}",
        study=study,
        code=first.returncode,
        parting=parting,
        after_ctrl_c=after_ctrl_c,
        after_kill=after_kill,
        lost=lost,
        finished=by_id(study),
        said=said,
        errors=errors,
        lingering=lingering,
    )


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
    own = [run for run in runs(uri) if run.data.tags.get("study_id") == study_id]
    (parent,) = [run for run in own if run.data.tags["kind"] == "study"]
    settings = {run.info.run_id for run in own if run.data.tags["kind"] == "setting"}
    assert len(settings) <= len({(r.plan.point_id, r.plan.regime) for r in records})
    assert parent.info.status == "FINISHED"
    nested = [run for run in own if run.data.tags["kind"] == "trial"]
    assert {run.data.tags["mlflow.parentRunId"] for run in nested} <= settings
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
