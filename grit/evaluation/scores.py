"""What an evaluation says, as plain data, and the means made of it. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from grit.config.sections import QualityMetric


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One metric on one set of predictions: `value` in [0, 1], or None with the reason in `problem`.

    `per_example` where it has one.
    """

    value: float | None
    per_example: tuple[float, ...] | None = None
    problem: str | None = None

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Measured:
        """The inverse of `dataclasses.asdict`, after a trip through JSON."""
        each = values["per_example"]
        return cls(**{**values, "per_example": None if each is None else tuple(each)})


@dataclass(frozen=True, kw_only=True)
class ProbeAnswer:
    """One item of a zero-shot probe.

    1 where the model's choice is right (length-normalized where the probe defines that), else 0.
    """

    item: str
    correct: float


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One evaluated example.

    `score` is the task's metric on it (None where only the likelihood was asked for).
    """

    example_id: str
    prediction: str | None
    reference: str
    score: float | None
    answer_loss: float
    answer_tokens: int


@dataclass(frozen=True, kw_only=True)
class DocumentLoss:
    """Loss of one held-out document in nats per token, over `tokens` predicted tokens."""

    document_id: str
    loss: float
    tokens: int


def _answers(items: list[dict[str, Any]]) -> list[ProbeAnswer]:
    return [ProbeAnswer(**item) for item in items]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """A model on the fixed examples and documents.

    The task's further metrics and the probes only where a run has ended, or not begun.
    """

    predictions: list[Prediction]
    documents: list[DocumentLoss]
    measured: dict[str, Measured] = field(default_factory=dict)
    probes: dict[str, list[ProbeAnswer]] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Scores:
        """The inverse of `dataclasses.asdict`, after a trip through JSON."""
        return cls(
            predictions=[Prediction(**item) for item in values["predictions"]],
            documents=[DocumentLoss(**item) for item in values["documents"]],
            measured={name: Measured.from_dict(item) for name, item in values["measured"].items()},
            probes={name: _answers(items) for name, items in values["probes"].items()},
        )


def quality_name(metric: QualityMetric, task_metric: str) -> str:
    """The name under which quality is reported.

    The task's own metric, or the mean log-likelihood of its reference answers.
    """
    return task_metric if metric == "primary" else "answer_logprob"


def mean_quality(predictions: Sequence[Prediction], metric: QualityMetric) -> float:
    """Mean per-example score, or mean log-likelihood of the answers in nats per token."""
    return sum(example_quality(p, metric) for p in predictions) / len(predictions)


def mean_score(predictions: Sequence[Prediction]) -> float | None:
    """Mean of the task's own metric over examples; None where it was not computed."""
    scores = [prediction.score for prediction in predictions if prediction.score is not None]
    return sum(scores) / len(scores) if len(scores) == len(predictions) else None


def example_quality(prediction: Prediction, metric: QualityMetric) -> float:
    """What one example contributes to quality; higher is better."""
    if metric == "answer_logprob":
        return -prediction.answer_loss
    if prediction.score is None:
        raise ValueError(f"example {prediction.example_id} has no score: the task metric was not computed")
    return prediction.score


def nats_per_token(losses: Sequence[DocumentLoss]) -> float:
    """Token-weighted mean loss."""
    return sum(item.loss * item.tokens for item in losses) / sum(item.tokens for item in losses)
