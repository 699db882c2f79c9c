"""The main job with the real parts: Ray Train workers under Ray Tune, Optuna, MLflow on SQLite, a report.

Small, isolated, cleaned up.
"""

import pytest
from launching import runs as runs_of

from ray_jobs.design.study_spec import read_spec
from ray_jobs.records.study_file import read_study
from ray_jobs.records.trial_tables import read_rows
from ray_jobs.records.trials_file import read_trials

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings(
        "ignore::DeprecationWarning",
        "ignore::ResourceWarning",
        "ignore::pytest.PytestUnraisableExceptionWarning",
    ),
]


def _check_measured(record):
    measured = record.measured
    if record.plan.regime == "step":
        assert measured.steps == 12
    else:
        slowest = measured.step_time_ms["p99"] / 1e3
        assert abs(measured.cpu_seconds - 0.6) <= 2 * slowest + 0.3
    assert measured.forgetting is not None
    assert measured.step_time_ms["p99"] >= measured.step_time_ms["p50"]


def test_one_command_leaves_the_whole_contract(interrupted):
    """However often it was stopped on its way."""
    output, said, errors = interrupted.study, interrupted.said, interrupted.errors
    records = read_trials(output)
    assert len(records) == 12
    assert {record.status for record in records} == {"completed"}
    kinds = {(record.method, record.plan.regime) for record in records}
    assert kinds == {(method, regime) for method in ("lora", "grit") for regime in ("step", "time")}
    assert sum(record.plan.design == "search" for record in records) == 2
    for record in records:
        _check_measured(record)
        rows = len(read_rows(output, "telemetry", record.trial_id))
        assert rows == record.measured.steps
        predicted = [row["kind"] for row in read_rows(output, "predictions", record.trial_id)]
        assert (predicted.count("task"), predicted.count("retention")) == (48, 24)
    for name in ("report.html", "report.md", "pareto.csv", "recommendation.json", "study.json"):
        assert (output / name).exists()
    made = read_study(output)
    assert made.made_by.versions["ray"]
    assert made.content["model"]
    assert read_spec(output / "study.yaml").study(made.content).fingerprint() == made.fingerprint
    runs = runs_of(interrupted.uri)
    assert len(runs) == 13
    assert {r.info.status for r in runs} == {"FINISHED"}
    assert any(r.data.tags.get("pareto") == "true" for r in runs)
    assert said.count(" GRIT ") >= 2
    assert "report.html" in said
    assert "mlflow" in said
    assert "Traceback" not in errors
    assert len(errors.splitlines()) <= 16, errors


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
    assert len(records) >= 8
    assert {record.status for record in records} == {"completed"}
    for measured in (record.measured for record in records):
        assert measured.base_answer_loss > 4.5
        assert measured.answer_loss < measured.base_answer_loss - 0.5
        assert measured.forgetting is not None
        assert measured.base_retention_loss > 3
