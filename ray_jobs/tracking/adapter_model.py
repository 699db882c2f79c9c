"""A kept adapter as an MLflow model: prompts in, answers out. MLflow loads this file as the model's code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow.models
from mlflow.pyfunc.model import PythonModel


class AdapterModel(PythonModel):
    """The backbone with the adapter, answering greedily."""

    def load_context(self, context: Any) -> None:
        """Loads both; the adapter's folder is the artifact `adapter`.

        Raises:
            ConfigError: the backbone cannot be had here.
        """
        from grit.cli.kept_run import Answering

        self._answering = Answering(Path(context.artifacts["adapter"]))

    # MLflow takes the type of the prompts, and no context, from the signature.
    def predict(self, model_input: list[str]) -> list[str]:  # type: ignore[override]
        """One answer per prompt, as long as the run's evaluation let answers be."""
        return self._answering.answers(model_input)


mlflow.models.set_model(AdapterModel())
