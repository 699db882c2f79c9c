"""The declared metrics (grit/tasks/metrics.py) as `evaluate.Metric` objects that need no network.

And all of a task's at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import datasets
import evaluate

from grit.errors import ConfigError
from grit.evaluation.scores import Measured
from grit.tasks.metrics import METRICS, MetricInputs, MetricSpec, predicted_metrics


class TextMetric(evaluate.Metric):  # type: ignore[misc]
    """A declared metric: predictions and references are texts; computes {"value", "per_example"}."""

    def __init__(self, spec: MetricSpec, *, labels: tuple[str, ...] = (), encoder: str | None = None) -> None:
        self._spec, self._labels, self._encoder = spec, labels, encoder
        super().__init__(keep_in_memory=True)

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        features = datasets.Features({"predictions": text, "references": text})
        return evaluate.MetricInfo(description=self._spec.label, citation="", features=features)

    def _compute(self, *, predictions: list[str], references: list[str]) -> dict[str, Any]:
        assert self._spec.compute is not None
        computed = self._spec.compute(
            MetricInputs(
                predictions=predictions, references=references, labels=self._labels, encoder=self._encoder
            )
        )
        return {"value": computed.value, "per_example": computed.per_example}


def metric(name: str, *, labels: tuple[str, ...] = (), encoder: str | None = None) -> TextMetric:
    """The metric called `name`.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in predicted_metrics():
        raise ConfigError("metric", name, f"must be one of {', '.join(predicted_metrics())}")
    return TextMetric(METRICS[name], labels=labels, encoder=encoder)


def measure(
    names: Sequence[str],
    predictions: Sequence[str],
    references: Sequence[str],
    *,
    labels: tuple[str, ...] = (),
    encoder: str | None = None,
) -> dict[str, Measured]:
    """Each metric on these texts. One that cannot be computed says why, and nothing takes its place."""
    measured = {}
    for name in names:
        if METRICS[name].needs_encoder and encoder is None:
            problem = "needs an encoder: set bertscore_encoder to a folder, or to the paper's roberta-large"
            measured[name] = Measured(value=None, problem=problem)
            continue
        try:
            result = metric(name, labels=labels, encoder=encoder).compute(
                predictions=list(predictions), references=list(references)
            )
        except ConfigError as error:
            measured[name] = Measured(value=None, problem=str(error))
            continue
        assert result is not None
        measured[name] = _measured(float(result["value"]), result["per_example"])
    return measured


def _measured(value: float, per_example: Sequence[float] | None) -> Measured:
    if not math.isfinite(value):
        problem = "is not defined here: no prediction or no reference has a label that counts"
        return Measured(value=None, problem=problem)
    return Measured(value=value, per_example=None if per_example is None else tuple(per_example))
