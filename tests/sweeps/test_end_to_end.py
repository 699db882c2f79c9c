"""The main job with the real parts: Ray Train workers under Ray Tune, Optuna, MLflow on SQLite, a report.

Small, isolated, cleaned up.
"""

import json
import re

import pytest
from launching import runs as runs_of

from grit.adapters.kept_adapter import read_kept_adapter
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
    kinds = [run.data.tags["kind"] for run in runs]
    assert (kinds.count("study"), kinds.count("trial")) == (1, 12)
    assert kinds.count("setting") == len({(r.plan.point_id, r.plan.regime) for r in records})
    assert {r.info.status for r in runs} == {"FINISHED"}
    assert any(r.data.tags.get("pareto.step") == "true" for r in runs)
    _check_adapters(output, records, said)
    assert said.count(" GRIT ") >= 2
    assert "report.html" in said
    assert "mlflow" in said
    assert "Traceback" not in errors
    _check_only_progress(errors)


# Where a study stands, a phase after so many seconds, a finished trial, one that has run for a minute:
# nothing else, however long the machine takes. No library's warning reaches a user.
PROGRESS = re.compile(
    r"continuing the study in |watch: |search: |MLflow: | {9}\S| +\d+ s  |\[\d+/12\] "
    r"|  [0-9a-f]{14} (lora|grit) "
)


def _check_only_progress(errors):
    assert [line for line in errors.splitlines() if not PROGRESS.match(line)] == []


def _check_adapters(output, records, said):
    """Default setting and control are kept, whole, though the study was stopped on its way; no other is."""
    rows = json.loads((output / "adapters.json").read_text())
    assert rows and all(row["folder"] and row["problem"] is None for row in rows)
    kept = {record.trial_id: record for record in records}
    assert {kept[row["trial_id"]].method for row in rows} == {"lora", "grit"}
    assert {path.name for path in (output / "adapters").iterdir()} == {row["trial_id"] for row in rows}
    for row in rows:
        folder = output / row["folder"]
        assert read_kept_adapter(folder).config == kept[row["trial_id"]].config
        assert "over seeds" in (folder / "README.md").read_text()
    assert "\nadapter: " in said


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
