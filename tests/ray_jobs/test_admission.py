"""Workers are examined before they get work; what they leave lies in any file system; a hang is ended."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
from builders import study
from conftest import ROOT
from mirrored import wait_for

from grit.errors import ConfigError
from grit.io.provenance import provenance
from grit.secrets import without_secrets
from grit.training.measurements import Measurements
from grit.training.trainer import EVALUATION, TRAINING
from ray_jobs.execution.engines import engine_for
from ray_jobs.execution.nodes.admission import (
    TOKEN_FILE,
    NodeRefusedError,
    check_content,
    check_room,
    examine,
    expected_of,
    known_step,
)
from ray_jobs.execution.nodes.calibration import probe_places
from ray_jobs.execution.nodes.storage import StudyStorage, below
from ray_jobs.execution.outcome import Fork, JobOutcome
from ray_jobs.execution.per_trial.stored_files import StoredFiles, trunk_file
from ray_jobs.execution.per_trial.train_job import OUTCOMES, _own_folder, fault_kind, remove_left_behind
from ray_jobs.execution.per_trial.watchdog import HUNG_EXIT, Patience, Watchdog


@pytest.fixture
def storage(tmp_path):
    made = StudyStorage(str(tmp_path / "storage"))
    made.write(TOKEN_FILE, b"word")
    return made


@pytest.fixture(scope="module")
def expected():
    return expected_of(0, {"task": "t", "model": "m"}, "word")


def test_a_worker_that_is_what_the_driver_means_is_admitted(storage, expected):
    admission = examine(expected, storage)
    assert admission.device == "cpu"
    assert admission.step_error < 1e-5
    assert admission.gflops > 0
    assert json.dumps(admission.row())
    assert known_step("cpu") == pytest.approx(known_step("cpu", double=True), rel=1e-5)


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"gpus": 1}, "holds a GPU that torch cannot use"),
        ({"versions": {"torch": "1.0"}}, "it has torch .* the driver has 1.0"),
        ({"token": "another"}, "the storage is not shared"),
        ({"answer": 3.0}, "takes a known step wrongly"),
    ],
)
def test_a_worker_that_is_not_is_refused_by_name(storage, expected, change, reason):
    with pytest.raises(NodeRefusedError, match=reason):
        examine(replace(expected, **change), storage)


def test_other_data_or_another_model_is_refused(expected):
    check_content(expected, {"task": "t", "model": "m", "documents": "d"})
    with pytest.raises(NodeRefusedError, match="its model is not the driver's"):
        check_content(expected, {"task": "t", "model": "another"})


def test_kinds_of_faults():
    assert fault_kind(NodeRefusedError("x")) == "node"
    assert fault_kind(ConfigError("a", 1, "b")) == "configuration"
    assert fault_kind(ValueError("x")) == "trial"
    assert fault_kind(OSError("the storage does not answer")) == "infrastructure"


@pytest.mark.parametrize(
    "root, expected",
    [
        ("/a/b", "/a/b/study"),
        ("s3://bucket/path/", "s3://bucket/path/study"),
        ("s3://bucket/path?region=us-east-1", "s3://bucket/path/study?region=us-east-1"),
        (
            "abfs://container@account.dfs.core.windows.net/p",
            "abfs://container@account.dfs.core.windows.net/p/study",
        ),
    ],
)
def test_a_study_has_a_folder_of_its_own_in_a_storage(root, expected):
    assert below(root, "study") == expected
    assert Path(below("relative", "study")).is_absolute()


def test_folders_of_processes_that_were_killed_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    mine = _own_folder()
    dead = tmp_path / "grit-trial-999999999-x"
    dead.mkdir()
    remove_left_behind()
    assert mine.exists()
    assert not dead.exists()


@pytest.mark.parametrize("scheme, name", [("", "a b"), ("file://", "ab")])
def test_files_appear_whole_and_go(tmp_path, scheme, name):
    storage = StudyStorage(f"{scheme}{tmp_path / name}")
    assert storage.read("x/y.json") is None
    assert storage.names("x") == []
    storage.write("x/y.json", b"1")
    storage.write("x/y.json", b"2")
    storage.write("x/deep/z.txt", b"3")
    assert storage.read("x/y.json") == b"2"
    assert storage.names("x") == ["x/deep/z.txt", "x/y.json"]
    assert storage.download("x/y.json", tmp_path / "here" / "y.json")
    assert (tmp_path / "here" / "y.json").read_bytes() == b"2"
    assert not storage.download("x/none", tmp_path / "none")
    storage.upload(tmp_path / "here" / "y.json", trunk_file("t"))
    files = StoredFiles(storage.root, tmp_path / "study")
    assert files.has_trunk("t")
    files.forget("t")
    assert not files.has_trunk("t")
    storage.forget("x")
    assert storage.names("x") == []
    storage.forget("x")


def test_a_device_with_too_little_memory_is_refused(tmp_path):
    """By what the plan predicts for a trial of this model."""
    storage = StudyStorage(str(tmp_path))
    storage.write(TOKEN_FILE, b"word")
    admission = examine(expected_of(0, {}, "word"), storage)
    config = study().base
    check_room(admission, config, 0)
    large = config.changed(model="meta-llama/Llama-3.1-8B")
    with pytest.raises(
        NodeRefusedError, match=r"has 1 GB for a trial, and one of this plan needs about \d\d GB"
    ):
        check_room(replace(admission, memory_bytes=10**9), large, 0)


def test_a_storage_that_cannot_be_is_refused_without_its_secrets():
    with pytest.raises(ConfigError, match="must begin with file://") as refused:
        StudyStorage("ftp://user:secret@host/bucket?token=secret")
    assert "secret" not in str(refused.value)
    with pytest.raises(ConfigError, match="must not hold keys") as refused:
        StudyStorage("s3://key:secret@bucket/path")
    assert "secret" not in str(refused.value)
    assert without_secrets("s3://key:secret@bucket/path?x=secret") == "s3://bucket/path"
    assert without_secrets("/a/b") == "/a/b"


@pytest.mark.parametrize(
    "text",
    [
        "http://user:secret@mlflow.example:5000",
        "error at postgresql+psycopg2://user:secret@db/optuna?sslpassword=secret: refused",
        "https://x.example/path?token=secret&a=1 and 'ftp://secret@host'",
        "--tracking-uri=http://secret@host",
    ],
)
def test_addresses_are_shown_without_their_secrets(text, monkeypatch):
    assert "secret" not in without_secrets(text)
    assert "secret" not in str(ConfigError("tracking-uri", text, f"cannot be used: {text}"))
    monkeypatch.setattr("sys.argv", ["x.py", "--tracking-uri", text])
    assert "secret" not in str(provenance(ROOT))


@pytest.mark.parametrize(
    "outcome",
    [
        JobOutcome(status="failed", error="x", traceback="y"),
        JobOutcome(
            status="completed",
            measured=Measurements(quality=0.5, curve=[{"step": 1}]),
            setup_seconds=1.5,
            fork=Fork(trunk_id="a", step=3, train_seconds=1.0, eval_seconds=2.0),
        ),
    ],
)
def test_an_outcome_is_read_back_as_it_was(outcome):
    assert OUTCOMES.validate_json(OUTCOMES.dump_json(outcome)) == outcome


def test_a_hang_is_told_once_with_stacks_and_ends_the_process():
    told, ended = [], []
    patience = Patience(step=1.0, factor=3.0, phase=60.0)
    watchdog = Watchdog(patience, lambda reason, stacks: told.append((reason, stacks)), ended.append)
    watchdog.phase(TRAINING)
    for _ in range(5):
        time.sleep(0.02)
        watchdog.stepped()
    assert 1.0 <= watchdog.deadline() < 3.0
    wait_for(lambda: ended)
    assert ended == [HUNG_EXIT]
    (only,) = told
    assert only[0].startswith("hung: no progress for")
    assert "test_a_hang_is_told" in only[1]
    watchdog.close()


def test_patience_follows_the_trial_s_own_steps_and_evaluation_has_its_own():
    watchdog = Watchdog(Patience(step=1.0, factor=10.0, phase=50.0), lambda *_: None, lambda code: None)
    watchdog.phase(TRAINING)
    assert watchdog.deadline() == 50.0  # no step is known yet
    watchdog._steps.extend([2.0, 2.0, 2.0])
    assert watchdog.deadline() == 20.0
    watchdog.phase(EVALUATION)
    assert watchdog.deadline() == 50.0
    watchdog.close()


@pytest.mark.parametrize(
    "seconds, on_cluster, engine", [(5, True, "warm"), (3600, True, "ray"), (3600, False, "warm")]
)
def test_long_trials_on_a_cluster_are_rays_own(seconds, on_cluster, engine):
    assert engine_for(seconds, on_cluster=on_cluster) == engine


@pytest.mark.parametrize(
    "on_nodes, concurrent, places",
    [
        ({}, 8, [None]),  # whichever node comes first
        ({"a": 8, "b": 8, "c": 8, "d": 8}, 32, ["a"] * 8 + ["b"] * 8),  # as full as they will be
        ({"a": 8, "b": 8, "c": 8, "d": 8}, 4, ["a", "b"]),
        ({"a": 1, "b": 4}, 3, ["b", "b", "a"]),
    ],
)
def test_probes_load_a_node_as_trials_will(on_nodes, concurrent, places):
    assert probe_places(on_nodes, concurrent) == places
