"""Kept adapters as models in an MLflow store.

Runs in a process of its own: MLflow's way of logging a model sets the store for a whole process.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

import mlflow
import mlflow.pyfunc
from mlflow.tracking import MlflowClient

from grit.io.provenance import PACKAGES

#: Its type hints are the model's signature: prompts in, answers out.
_CODE = Path(__file__).with_name("adapter_model.py")
_PACKAGE = Path(__file__).resolve().parents[2] / "grit"


def log_adapter(
    client: MlflowClient,
    *,
    run_id: str,
    folder: str,
    params: dict[str, str],
    numbers: dict[str, float],
    step: int,
    register: str | None,
) -> str | None:
    """Logs a trial's adapter as a LoggedModel of its run, once; returns the address of a registered version.

    The model carries the adapter's folder as PEFT reads it, and the package that loads it.

    Args:
        client: of the store.
        run_id: the trial's, which has ended, and is left as it ended.
        folder: the adapter.
        params: of the trial.
        numbers: of the trial, at `step`.
        step: its last.
        register: the registered model that gets a version; None for none.
    """
    run = client.get_run(run_id)
    logged = run.outputs.model_outputs if run.outputs else []
    model_id = logged[0].model_id if logged else None
    if model_id is None:
        with mlflow.start_run(run_id=run_id):
            info = mlflow.pyfunc.log_model(
                name="adapter",
                python_model=str(_CODE),
                artifacts={"adapter": folder},
                code_paths=[str(_PACKAGE)],
                pip_requirements=[f"{name}=={metadata.version(name)}" for name in PACKAGES],
                params=params,
            )
            model_id = info.model_id
            for name, value in numbers.items():
                mlflow.log_metric(name, value, step=step, model_id=model_id)
        client.set_terminated(run_id, run.info.status, end_time=run.info.end_time)
    return None if register is None else _registered(client, str(model_id), register)


def _registered(client: MlflowClient, model_id: str, name: str) -> str:
    """The address of the version that is this model; made where there is none."""
    versions = client.search_model_versions(f"name = '{name}' and tags.model_id = '{model_id}'")
    if versions:
        version = versions[0].version
    else:
        version = mlflow.register_model(f"models:/{model_id}", name, tags={"model_id": model_id}).version
    return f"models:/{name}/{version}"


def main(request: dict[str, Any]) -> dict[str, str | None]:
    """Logs all adapters of a request, `{"uri": ..., "adapters": {trial_id: arguments of log_adapter}}`."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    mlflow.set_tracking_uri(request["uri"])
    mlflow.set_registry_uri(request["uri"])
    client = MlflowClient(tracking_uri=request["uri"], registry_uri=request["uri"])
    return {name: log_adapter(client, **arguments) for name, arguments in request["adapters"].items()}


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    answer = main(json.load(sys.stdin))
    print(json.dumps(answer))
