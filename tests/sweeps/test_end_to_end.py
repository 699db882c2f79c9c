"""The main job with the real parts: Ray Train workers under Ray Tune, Optuna, MLflow on SQLite, a report.

Small, isolated, cleaned up.
"""

import json
import os
import signal

import pyarrow.parquet as pq
import pytest
from launching import after_trials
from launching import runs as runs_of

from ray_jobs.records.trials_file import read_trials

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings(
        "ignore::DeprecationWarning",
        "ignore::ResourceWarning",
        "ignore::pytest.PytestUnraisableExceptionWarning",
    ),
]


SHORT = ("--budget-steps", "12", "--budget-seconds", "0.6", "--search-points", "1")


def test_one_command_leaves_the_whole_contract(launch, tmp_path):
    process = launch(*SHORT)
    said, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    output = tmp_path / "study"
    records = read_trials(output)
    assert len(records) == 12 and {r.status for r in records} == {"completed"}
    assert {(r.method, r.regime) for r in records} == {
        ("lora", "step"),
        ("lora", "time"),
        ("grit", "step"),
        ("grit", "time"),
    }
    assert sum(r.design == "search" for r in records) == 2
    assert all(r.steps == 12 for r in records if r.regime == "step")
    assert all(abs(r.train_seconds - 0.6) < 0.4 for r in records if r.regime == "time")
    assert all(r.forgetting is not None and r.step_time_ms["p99"] >= r.step_time_ms["p50"] for r in records)
    for r in records:
        assert pq.read_table(output / "telemetry" / f"{r.trial_id}.parquet").num_rows == r.steps
        kinds = pq.read_table(output / "predictions" / f"{r.trial_id}.parquet")["kind"].to_pylist()
        assert (kinds.count("task"), kinds.count("retention")) == (48, 24)
    for name in ("report.html", "report.md", "pareto.csv", "recommendation.json", "study.json"):
        assert (output / name).exists()
    made = json.loads((output / "study.json").read_text())
    assert made["versions"]["ray"] and made["content"]["model"] and made["git_commit"]
    runs = runs_of(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert len(runs) == 13 and {r.info.status for r in runs} == {"FINISHED"}
    assert any(r.data.tags.get("pareto") == "true" for r in runs)
    assert "Pareto front" in said and "report.html" in said and "mlflow" in said
    assert "Traceback" not in errors and len(errors.splitlines()) <= 16, errors


def test_ctrl_c_leaves_valid_records_and_resume_finishes_without_repeating(launch, tmp_path):
    process = launch(
        "--search-points", "0", "--budget-steps", "40", "--budget-seconds", "2", "--regimes", "step"
    )
    after_trials(tmp_path / "study")
    path = tmp_path / "study" / "trials.jsonl"
    os.killpg(process.pid, signal.SIGINT)  # the whole group, as a terminal does
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "--resume" in errors
    first = {r.trial_id: r for r in read_trials(path.parent)}
    done = {i for i, r in first.items() if r.status == "completed"}
    assert 0 < len(done) < len(first) == 5
    assert {r.status for r in first.values()} == {"completed", "planned"}

    again = launch(
        "--search-points",
        "0",
        "--budget-steps",
        "40",
        "--budget-seconds",
        "2",
        "--regimes",
        "step",
        "--resume",
    )
    _, errors = again.communicate(timeout=300)
    assert again.returncode == 0, errors
    second = {r.trial_id: r for r in read_trials(path.parent)}
    assert {r.status for r in second.values()} == {"completed"} and set(second) == set(first)
    assert all(second[i] == first[i] for i in done)
    runs = runs_of(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert len(runs) == 6 and {r.info.status for r in runs} == {"FINISHED"}


@pytest.mark.slow
@pytest.mark.shared
def test_real_input_learns_and_forgets(launch, tmp_path, shared_data):
    """GSM8K on a pretrained Llama: the command of the README, as it stands."""
    files = {"train": "gsm8k_train", "eval": "gsm8k_test", "retention": "general_text_heldout"}
    process = launch(
        "--model",
        str(shared_data / "backbone"),
        "--task",
        "gsm8k",
        *(
            part
            for option, name in files.items()
            for part in (f"--{option}-file", str(shared_data / "data" / f"{name}.jsonl"))
        ),
    )
    _, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors
    records = read_trials(tmp_path / "study")
    assert len(records) >= 8 and {r.status for r in records} == {"completed"}
    assert all(r.base_answer_loss > 4.5 and r.answer_loss < r.base_answer_loss - 0.5 for r in records)
    assert all(r.forgetting is not None and r.base_retention_loss > 3 for r in records)
