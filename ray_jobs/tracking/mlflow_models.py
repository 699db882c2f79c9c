"""Kept adapters as models in an MLflow store."""

from __future__ import annotations

import os
import warnings
from importlib import metadata
from pathlib import Path

import mlflow
import mlflow.pyfunc

from grit.io.provenance import PACKAGES
from grit.training.measurements import OBJECTIVES
from ray_jobs.records.trial_record import TrialRecord
from ray_jobs.tracking.run_contents import trial_params

#: Its type hints are the model's signature: prompts in, answers out.
_CODE = Path(__file__).with_name("adapter_model.py")
_PACKAGE = Path(__file__).resolve().parents[2] / "grit"


def log_adapter(uri: str, run_id: str, record: TrialRecord, folder: Path, register: str | None) -> str | None:
    """Logs a trial's adapter as a LoggedModel of its run, with its numbers; returns a version's address.

    The model carries the adapter's folder as PEFT reads it, and the package that loads it.

    Args:
        uri: the store's.
        run_id: the trial's, which has ended.
        record: the trial.
        folder: its adapter.
        register: the registered model that gets a new version; None for none.
    """
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    try:
        with mlflow.start_run(run_id=run_id), warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning, module="mlflow")
            info = mlflow.pyfunc.log_model(
                name="adapter",
                python_model=str(_CODE),
                artifacts={"adapter": str(folder)},
                code_paths=[str(_PACKAGE)],
                pip_requirements=[f"{name}=={metadata.version(name)}" for name in PACKAGES],
                params=trial_params(record),
                tags={"trial_id": record.trial_id, "method": record.method},
                registered_model_name=register,
            )
            numbers = {name: getattr(record.measured, name) for name in OBJECTIVES}
            for name, value in numbers.items():
                if value is not None:
                    mlflow.log_metric(name, float(value), step=record.measured.steps, model_id=info.model_id)
    finally:
        mlflow.set_tracking_uri(before)
    return None if register is None else f"models:/{register}/{info.registered_model_version}"
